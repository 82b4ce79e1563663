"""Changes to a note before it is tokenised, as recorded switches; all that alter the text are off by default.

Tasks and `predict` feed notes to a model as they are, so by default pretraining does too. How the paper cleaned
MIMIC-III is not public (reference/paper.md, section 2); no combination of these switches is claimed to be it.
"""

import re
import unicodedata
from typing import Literal

from pydantic import Field

from clinscale.config import Config

_PLACEHOLDER = re.compile(r"\[\*\*[^\[\]]*\*\*\]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_PRINTABLE_ASCII = re.compile(r"[^\x20-\x7e\n\t]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class CleaningConfig(Config):
    """The notes that are left out, and the changes to the rest."""

    placeholders: Literal["keep", "remove", "replace"] = "keep"
    """De-identification brackets such as `[**Hospital1 18**]`; `replace` writes `___`, as MIMIC-IV does."""

    characters: Literal["all", "printable", "ascii"] = "all"
    """`printable` drops control characters, line breaks and tabs excepted; `ascii` also strips accents and
    drops what is left beyond ASCII."""

    lower_case: bool = False
    """Whether texts are put in lower case; off, because the paper's models are cased."""

    collapse_whitespace: bool = False
    """Every run of white space becomes one space; line breaks go too, and with them the layout of sections."""

    min_characters: int = Field(default=1, ge=1)
    """Notes shorter than this after cleaning are left out and counted."""

    drop_duplicates: bool = True
    """Whether only the first of several notes with exactly the same cleaned text is kept."""

    empty: Literal["skip", "raise"] = "skip"
    """Real exports hold rows without text: by default they are left out and counted in the manifest."""


def clean(text: str, config: CleaningConfig) -> str:
    """`text` after the switches of `config`, always valid Unicode."""
    text = _LONE_SURROGATE.sub("\ufffd", text)  # JSON can carry halves of characters that no UTF-8 can
    if config.placeholders != "keep":
        text = _PLACEHOLDER.sub("___" if config.placeholders == "replace" else "", text)
    if config.characters != "all":
        text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if config.characters == "ascii":
        text = _NOT_PRINTABLE_ASCII.sub("", unicodedata.normalize("NFKD", text))
    if config.lower_case:
        text = text.lower()
    return " ".join(text.split()) if config.collapse_whitespace else text
