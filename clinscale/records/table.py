"""Format of the text files and tables of a task or source, where a file itself does not say it."""

import codecs
from typing import Literal

from clinscale.config import Config
from clinscale.errors import ConfigError

_NO_CHARACTER_SETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
"""Text in Python's eyes, but no way to write a file ("Python Specific Encodings" in the manual of `codecs`)."""

Quoting = Literal["standard", "none"]

_SPELLED = {"\\t": "\t", "tab": "\t"}


class TableFormat(Config):
    """Format facts that a file does not state itself; the base of each config that names files to read."""

    encoding: str = "utf-8"
    """Encoding of text files; what is not valid in it is named by file and byte. `latin-1` and `cp1252` are common. A
    byte-order mark in the file says more."""

    delimiter: str | None = None
    """Separator of the fields of CSV and TSV, one character (`tab` for a tab); absent: comma or tab by the file's
    name, or of comma, `;`, tab and `|` the one that gives the columns that are asked for."""

    quoting: Quoting | None = None
    """Quoting of CSV and TSV: `standard` reads a field that begins with a quotation mark up to the closing one, over
    line breaks; `none` takes quotation marks as text. Absent: standard, and refused where it seems not to be meant."""

    sheet: str | None = None
    """Name of the sheet to read of an Excel workbook; needed where several hold rows."""

    def check(self) -> None:
        """Refuse an encoding that is no character set and a delimiter that cannot be one."""
        try:
            codec = codecs.lookup(self.encoding)
        except (LookupError, ValueError):
            raise ConfigError(f"encoding {self.encoding!r} is unknown to Python; try latin-1") from None
        if not codec._is_text_encoding or codec.name.replace("_", "-") in _NO_CHARACTER_SETS:
            raise ConfigError(f"encoding {self.encoding!r} must be a character set of files; try utf-8 or latin-1")
        if self.delimiter is not None and (len(self.separator or "") != 1 or self.separator in tuple('"\r\n\0')):
            raise ConfigError(
                f"delimiter must be one character and no quotation mark or line break, got {self.delimiter!r}; "
                "give for example ';' or tab"
            )

    @property
    def separator(self) -> str | None:
        """The character that `delimiter` represents."""
        return None if self.delimiter is None else _SPELLED.get(self.delimiter, self.delimiter)

    @property
    def is_utf8(self) -> bool:
        """Whether the encoding is UTF-8, however it is spelled."""
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")
