"""Further readings of a text: tokens of a vocabulary, words with tags between them, or token ids."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACES = str.maketrans("ĠĊĉ▁", "    ")
"""White space as byte-level and SentencePiece vocabularies write it."""
_PIECES = re.compile(r'["\']\s*,\s*["\']|[ \t\r\n]+')
_CONTINUED = re.compile(r'["\']?\s*,?\s*["\']?##')
_NUMBERED = re.compile(r'["\'](?=[^"\'\s]*[^\W\d])([^"\'\s]{1,60})["\']\s*[:,]\s*-?\d+(?:\.\d+)?')
_TAG = r"(?:[BIOESLU](?:-[\w-]{1,40})?|[A-Z]{2,5}\$?)"
_TAGGED = (
    re.compile(rf"(\w)[_/|]{_TAG}(?=\s|$)"),  # patient_NN
    re.compile(rf"^(\S+)[ \t](?:\S+[ \t]){{0,6}}{_TAG}[ \t]*\r?$", re.MULTILINE),  # patient NN O
    re.compile(rf'(["\']\s*,)\s*["\']{_TAG}["\']'),  # ["patient", "O"]
)
_IDS = re.compile(r"\d{1,7}(?:[\s,\]\[]{1,4}\d{1,7}){11,}")
_FEW = 8


def readings(text: str, tokenizers: Sequence["Tokenizer"]) -> Iterator[str]:
    """Yield the other readings of `text`; none if it is ordinary.

    Args:
        text: of any file.
        tokenizers: by which numbers in a row may be token ids.
    """
    if any(mark in text for mark in "Ġ▁"):
        yield text.translate(_SPACES)
        yield _PIECES.sub("", text).translate(_SPACES).replace("</w>", " ")
    if "</w>" in text:
        yield _PIECES.sub("", text).replace("</w>", " ")
    if "##" in text:
        yield _CONTINUED.sub("", text)
    keys = _NUMBERED.findall(text)
    if len(keys) >= _FEW:
        yield " ".join(keys).translate(_SPACES)
    for pattern in _TAGGED:
        without, count = pattern.subn(r"\1", text)
        if count >= _FEW:
            yield without
    for run in _IDS.finditer(text) if tokenizers else ():
        ids = [int(number) for number in re.findall(r"\d+", run[0])]
        for tokenizer in tokenizers:
            size = tokenizer.get_vocab_size()
            if max(ids) < size:
                yield tokenizer.decode(ids)
