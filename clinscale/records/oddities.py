"""Rows and texts that are read as they are, and whose export likely did not mean so: for remarks, never changed."""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from clinscale.cells import CellError, as_id, as_whole_number, is_short_name
from clinscale.records.record import Record

_NUMBERS_PARTS = re.compile(r"(line|seq|sequence|segment)(_?(num|number|no|nbr))?", re.IGNORECASE)
"""Columns by which databases number the rows of one text: Epic's `LINE`, Cerner's `SEQUENCE_NBR`. `note_seq` of
MIMIC-IV numbers whole notes."""

_PATIENT = re.compile(
    r"(?:patient|subject|person|pat)[ _.-]?(?:id|identifier|key|mrn|nbr|no|num|number|sk)"
    r"|patient|(?:pat[ _.-]?)?mrn(?:[ _.-]?id)?|empi",
    re.IGNORECASE,
)
"""Names of the column of the patient in exports of MIMIC, OMOP, Epic, Cerner, i2b2 and others."""

_ESCAPED_LETTER = re.compile(r"\\u[0-9a-fA-F]{4}")
_FOLLOWING = "\x80-\xbf" + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore")
"""Characters of Latin-1 and Windows for the bytes that follow the first one of a letter in UTF-8."""
_FIRSTS = "\xc2\xc3\xe2\ufffd"
_GARBLED = re.compile(f"[\xc2\xc3][{_FOLLOWING}]|\xe2[\x80\u20ac][{_FOLLOWING}]|\ufffd")
"""Letters with accents, quotation marks and dashes read as Latin-1 or Windows-1252; and a byte that was no letter."""
_ENTITY = re.compile(r"&(?:amp|apos|gt|lt|nbsp|quot|#[0-9]{2,5}|#x[0-9a-f]{2,4});", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:a|b|body|br|div|em|font|h[1-6]|html|i|li|ol|p|span|strong|table|tbody|td|th|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_FILE = re.compile(r"[^\s<>|*?\"]{1,250}\.(?:docx?|html?|json|pdf|rtf|te?xt|tiff?|xml)", re.IGNORECASE)

_FOOTER = re.compile(
    r"(?:grand[ -])?total:?|\(?\d[\d,]* rows?(?: affected| selected| in set\b.*)?\.?\)?", re.IGNORECASE
)

_NONE = frozenset(
    {"none", "na", "n/a", "n.a.", "nil", "missing", "empty", "not available", "no text", "unavailable"}
)
_NUMBER = re.compile(r"(?=.*\d)[\d\s.,:/+\-]+(?:[T ]\d\d[\d:.]*Z?)?")
_ESCAPED_BYTES = {
    "%": re.compile(r"%(?:20|0[AD]|2[CF]|3A|C3)(?=\S)"),
    "=": re.compile(r"=\r?\n|=(?:C2|C3|E2)=[89AB][0-9A-F]|=3D"),
}
"""Sign -> escapes of addresses on the web, and of mail (quoted-printable), that begin with it."""

_LEAST_CUT = 100
"""Characters below which it is no wonder that texts are equally long."""
_ALIKE = 3
"""Number of texts that have the greatest length by more than chance."""
_CELL_CHARACTERS = 32_767
"""Characters that Excel, and what writes for it, keeps of a cell: one text is enough to show that it was cut."""


@functools.lru_cache(maxsize=1024)  # the same columns in every row
def _numbers_parts(column: str) -> bool:
    return _NUMBERS_PARTS.fullmatch(column) is not None


@functools.lru_cache(maxsize=1024)
def _names_patient(column: str) -> bool:
    return _PATIENT.fullmatch(column.strip()) is not None


def likely_patient(record: Record) -> tuple[str, str] | None:
    """The column that by its name holds the patient, and its value; None where there is none."""
    column = next(filter(_names_patient, record.fields), None)
    try:
        value = record.read(as_id, column) if column else None
    except CellError:
        return None
    return (column, value) if column and value and is_short_name(value) else None


def has_escaped_breaks(text: str) -> bool:
    r"""Whether line breaks are written as a backslash and `n`: two of these or more, and fewer real ones."""
    return "\\" in text and (escaped := text.count("\\n")) > 1 and escaped > text.count("\n")


def _has_marked_breaks(text: str) -> bool:
    return "\\\n" in text and text.count("\\\n") == text.count("\n")


def _has_escaped_letters(text: str) -> bool:
    return "\\" in text and _ESCAPED_LETTER.search(text) is not None


def _is_garbled(text: str) -> bool:
    if text.isascii() or not any(first in text for first in _FIRSTS):  # many times as fast as the pattern
        return False
    return _GARBLED.search(text) is not None


def _has_markup(text: str) -> bool:
    if "&" in text and _ENTITY.search(text):
        return True
    return "<" in text and len(_TAG.findall(text)) > 1


def _is_name_of_file(text: str) -> bool:
    return len(text) < 260 and _FILE.fullmatch(text.strip()) is not None


def _has_no_word(text: str) -> bool:
    return not any(map(str.isalnum, text))


def _is_footer(text: str) -> bool:
    return len(text) < 60 and _FOOTER.fullmatch(text.strip()) is not None


def _is_word_for_none(text: str) -> bool:
    return len(text) < 20 and text.strip().casefold() in _NONE


def _is_number(text: str) -> bool:
    return len(text) < 60 and _NUMBER.fullmatch(text.strip()) is not None


def _is_object(text: str) -> bool:
    part = text.strip()
    if not (part.startswith('{"') and part.endswith("}")):
        return False
    try:
        return isinstance(json.loads(part), dict)
    except (ValueError, RecursionError):
        return False


def _has_escaped_bytes(text: str) -> bool:
    return any(sign in text and len(pattern.findall(text)) > 2 for sign, pattern in _ESCAPED_BYTES.items())


def _has_zero_bytes(text: str) -> bool:
    return "\0" in text


ODD_NAMES: Mapping[str, Callable[[str], bool]] = {
    r"\u and four digits in place of letters": _has_escaped_letters,
    "letters that were read in another encoding than they were written in": _is_garbled,
    "tags or entities of HTML, such as &amp;": _has_markup,
}
"""Content that the export of a name, or of a text, likely did not mean, in words -> whether it has it."""

ODD_TEXTS: Mapping[str, Callable[[str], bool]] = {
    r"\n, a backslash and a letter, in place of line breaks": has_escaped_breaks,
    "a backslash before every line break, as MySQL exports them": _has_marked_breaks,
    **ODD_NAMES,
    "the name of a file and nothing else": _is_name_of_file,
    "neither a letter nor a digit": _has_no_word,
    "a number or date and nothing else": _is_number,
    "a word such as None or NA and nothing else": _is_word_for_none,
    "an object of JSON and nothing else": _is_object,
    "escapes such as %20 or =C3=A9 in place of characters": _has_escaped_bytes,
    "what a table or a database's client says below its rows, such as Total or (5 rows)": _is_footer,
    "zero bytes, which predict refuses": _has_zero_bytes,
}
"""Content that the export of a text likely did not mean, in words -> whether a text has it."""


def cut_length(texts: Collection[str]) -> tuple[int, int, str] | None:
    """Number of texts that have the greatest length, that length, and its unit, where they were likely cut there.

    Databases and spreadsheets cut what is longer than a column holds, in characters or bytes, without a word.
    """
    sizes: dict[str, Callable[[str], int]] = {
        "characters": len,
        "bytes": lambda text: len(text.encode(errors="surrogatepass")),
    }
    for unit, size in sizes.items():
        numbers = Counter(map(size, texts))
        longest = max(numbers, default=0)
        if is_likely_cut(longest, numbers[longest]):
            return numbers[longest], longest, unit
    return None


def is_likely_cut(length: int, number: int) -> bool:
    """Whether it is no chance that so many different texts have one length and none has more."""
    return length == _CELL_CHARACTERS or (length >= _LEAST_CUT and number >= _ALIKE)


class ContinuedRows:
    """Rows of one file that seem to go on with the note of the row before: its id again, or its number and one."""

    def __init__(self, id_column: str | None) -> None:
        self._id_column = id_column
        self._id: str | None = None
        self._numbers: dict[str, int] = {}

    def goes_on(self, record: Record) -> bool:
        """Whether the next row of the file does."""
        id = self._read(as_id, record, self._id_column) if self._id_column else None
        numbers = {
            name: number
            for name in record.fields
            if _numbers_parts(name) and (number := self._read(as_whole_number, record, name)) is not None
        }
        same = id is not None and id == self._id
        counted = any(self._numbers.get(name) == number - 1 for name, number in numbers.items() if number > 1)
        self._id, self._numbers = id, numbers
        return same or counted

    def _read(self, cell: Any, record: Record, column: str) -> Any:
        try:
            return record.read(cell, column)
        except CellError:
            return None
