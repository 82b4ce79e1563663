"""The meaning of one value of a table or of JSON, read as a text, an id, a label, a truth, a whole number.

CSV holds only text, JSON and Parquet hold types, and pandas turns whole numbers into `7.0` and what is missing into
NaN on the way. Corpus, tasks, scan and predict all read values here, so that the same patient has the same id in each.
A value that is not what its column must hold is an error that names column and type, never the value.
"""

import json
import math
import re
import unicodedata
from collections.abc import Collection
from decimal import Decimal
from numbers import Integral, Real
from typing import Any
from uuid import UUID

from clinscale.errors import DataError


class CellError(DataError):
    """A value is not what its column must hold; names place, column and type, never the value."""

    def __init__(self, reason: str, fix: str, place: str = "") -> None:
        super().__init__(reason, fix, place)
        self.reason, self.fix, self.place = reason, fix, place

    def __str__(self) -> str:
        return f"{self.place}{': ' if self.place else ''}{self.reason}; {self.fix}"


SPELLED_MISSING = frozenset(
    {
        *("nan", "NaN", "NAN", "<NA>", "NaT", "NULL", "null", r"\N"),
        *("(null)", "(NULL)", "<null>", "<NULL>", "[NULL]", "[null]"),
        *("#N/A", "#NAME?", "#VALUE!", "#REF!", "#DIV/0!", "#NUM!", "#NULL!"),
    }
)
"""Spellings of a missing value in a CSV by pandas, databases, their clients and Excel, which so also writes what it
took for a formula: a note that begins with a dash. `None` and `NA` may be meant literally."""

_FLOAT_OF_A_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0")
_FLOAT_WITHIN = re.compile(r"(?<![\w.-])(-?[0-9]+)\.0(?![\w.])")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_WRITTEN_LIST = re.compile(
    r"""\[\s*(?:(?:['"\[{\d-]|np\.).*)?\]|\{\s*(?:['"].*)?\}|\(\s*['"].*\)|(?:array|set|frozenset)\(.*\)""",
    re.DOTALL,
)
_WRITTEN_VALUE = re.compile(r"""b(["']).*\1|(?:np\.\w+|tensor)\(.*\)""", re.DOTALL)
"""A value as Python shows it, which `str` of bytes, of NumPy's types and of tensors gives."""
_WRITTEN_PARTS = re.compile(r"""\[["'].*["']\]|\{'.*\}""", re.DOTALL)
"""A list of texts, or an object as Python shows one; one of JSON may be meant as the text."""
_BASE64 = re.compile(r"(?:data:[\w/.+-]*;base64,)?(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[\w+/-]{60,}={0,2}", re.ASCII)
_HEX = re.compile(r"(?:0x|\\x)?(?=[0-9]*[a-fA-F])(?:[0-9a-f]{130,}|[0-9A-F]{130,})", re.ASCII)
"""Bytes as databases show them, longer than any hash."""
_BEGINNINGS = {
    r"{\rtf": "RTF",
    **dict.fromkeys(("<?xml", "<ClinicalDocument"), "XML"),
    "%PDF-": "PDF",
    **dict.fromkeys(("MSH|", "FHS|", "BHS|"), "messages of HL7"),
}
"""Beginning of a text that is a document of another format -> that format."""
_LINE_ENDS = str.maketrans("", "", "\r\n")
_SHORTENED = re.compile(r"-?[0-9](?:[.,][0-9]+)?[eE]\+[0-9]{2,}")
"""The way that Excel, from twelve digits on, and pandas, of large floats, write a number: others become the same."""
_EXACT = 2**53
"""Smallest whole number after which floats skip some, so that two ids may have become one."""
_EXACT_DIGITS = len(f"-{_EXACT}")
_LARGEST = 10**40
_BITS = frozenset({"0", "1", "True", "False"})
_TRUTH = {"1": True, "true": True, "0": False, "false": False}
_UNSEEN = ("Cc", "Cf")  # of halves of characters and private ones nobody knows
_SHORT_NAME = re.compile(r"(?=.*[0-9])[\w.:/#+-]{1,40}", re.ASCII)


def is_missing(value: Any) -> bool:
    """Whether a value means nothing: null, NaN, NaT, a blank or the way that a CSV spells these."""
    if isinstance(value, str):
        # a long text is neither stripped nor hashed, which would take longer than all else here
        return is_blank(value) or (len(value) < 40 and value.strip() in SPELLED_MISSING)
    if isinstance(value, Decimal):
        return value.is_nan()
    return (
        value is None
        or (isinstance(value, Real) and math.isnan(value))
        or type(value).__name__ in ("NAType", "NaTType")  # of pandas, which need not be there
    )


def is_blank(text: str) -> bool:
    """Whether there is nothing to read in a text: it is empty, or of blanks, control characters and unseen marks."""
    return all(one.isspace() or unicodedata.category(one) in _UNSEEN for one in text)


def format_of(text: str) -> str:
    """The format of a text that begins as no note does: RTF, XML, PDF or HL7; empty of all others."""
    begins = text[:100].lstrip("\ufeff \t\r\n\v")
    return next((_BEGINNINGS[one] for one in _BEGINNINGS if begins.startswith(one)), "")


def as_text(value: Any, column: str) -> str | None:
    """A text as it is; None where it is missing.

    Raises:
        CellError: it is no text, half a character, RTF, XML, PDF or HL7, base64 or hexadecimal digits of an attachment,
            or a value or list as Python shows it.
    """
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise _not("text", value, column)
    _refuse_half_a_character(value, column)
    if " " not in value[:60] and _BASE64.match(value, 0, 200) and _BASE64.fullmatch(value.translate(_LINE_ENDS)):
        raise CellError(f"column {column!r} holds base64 where text is needed", "decode it into a column of text")
    if " " not in value[:60] and _HEX.match(value, 0, 200) and _HEX.fullmatch(value.translate(_LINE_ENDS)):
        raise CellError(
            f"column {column!r} holds hexadecimal digits where text is needed", "decode them into a column of text"
        )
    if what := format_of(value):
        raise CellError(f"column {column!r} holds {what} where text is needed", "convert it into plain text")
    _refuse_written_value(value, column)
    if _WRITTEN_PARTS.fullmatch(value):
        raise CellError(
            f"column {column!r} holds a list or object where text is needed", "join its parts into one text"
        )
    return value


def as_id(value: Any, column: str) -> str | None:
    """An id, of a note or a patient, without blanks around it; None where it is missing.

    7, 7.0, `7` and `7.0` in a CSV are one id, which is `7`; `007` is another.

    Raises:
        CellError: it is neither text nor a whole number, a float too large to be exact, or shortened to its first
            digits as `1.23457E+15`.
    """
    if isinstance(value, str) and len(value) < 40 and _SHORTENED.fullmatch(value.strip()):
        raise CellError(
            f"column {column!r} holds a number that was shortened to its first digits", "write all of them"
        )
    return None if is_missing(value) else _plain(value, column, "an id as text or whole number")


def as_label(value: Any, column: str) -> str | None:
    """A label, without blanks around it; None where it is missing.

    Whole numbers are as in `as_id`, truths are `True` and `False`. What a CSV spells `nan` stays a label here, because
    only the task knows whether it is meant as one.

    Raises:
        CellError: it is neither text, whole number nor truth, or a list that was written as text.
    """
    if isinstance(value, str) and not is_blank(value):
        if _WRITTEN_LIST.fullmatch(value.strip()):
            raise CellError(f"column {column!r} holds a list where one label is needed", "give each row one label")
    elif is_missing(value):
        return None
    return str(value) if _is_truth(value) else _plain(value, column, "a label")


def as_labels(value: Any, column: str, separator: str) -> tuple[str, ...]:
    """Several labels, each once: a list, a list as JSON, or labels joined by `separator`; none where it is blank.

    Raises:
        CellError: it is neither of these, or one of the labels is none or missing; it is a vector of 0 and 1, which
            names none; it is null or spells it, by which nobody says that there is none.
    """
    _refuse_unknown(value, column, "write an empty list or text where there is no label")
    if is_missing(value):
        return ()
    parts = value
    if isinstance(value, str) and _WRITTEN_LIST.fullmatch(value.strip()):
        try:
            parts = json.loads(value)
        except (ValueError, RecursionError):
            parts = None
        if not isinstance(parts, list):
            raise CellError(f"column {column!r} holds a list that is not JSON", "write it as JSON")
    elif isinstance(value, str):
        parts = [part for part in value.split(separator) if part.strip()]
    elif not isinstance(value, list | tuple):
        parts = [value]
    found = [as_label(part, column) for part in parts]
    if len(set(found)) < len(found) and not any(isinstance(part, str) for part in parts) and set(found) <= _BITS:
        raise CellError(
            f"column {column!r} holds a vector of 0 and 1, not labels",
            "give each label a column, named by columns.labels",
        )
    if None in found:
        raise CellError(f"column {column!r} has a missing value among its labels", "fill it or leave it out")
    return tuple(dict.fromkeys(label for label in found if label is not None))


def shortened(value: Any, labels: Collection[str]) -> list[str]:
    """The `labels`, as `as_label` or `as_labels` read them from a value, that it spells with `.0` behind them."""
    if not isinstance(value, str | list) or ".0" not in str(value):
        return []
    found = {match[1] for match in _FLOAT_WITHIN.finditer(str(value))}
    return [label for label in labels if label in found]


def as_truth(value: Any, column: str) -> bool:
    """Whether a column of 0 and 1 says yes; a blank is a no.

    Raises:
        CellError: it holds anything else, such as -1 for uncertain; it is null or spells it, by which nobody says no.
    """
    _refuse_unknown(value, column, "write 0 where it is a no")
    if is_missing(value):
        return False
    plain = str(value) if _is_truth(value) else _plain(value, column, "0, 1 or nothing")
    if plain.lower() not in _TRUTH:
        raise CellError(f"column {column!r} must hold 0, 1 or nothing", "map other values to these")
    return _TRUTH[plain.lower()]


def _refuse_unknown(value: Any, column: str, fix: str) -> None:
    """A blank cell is how people write that there is nothing, null how programs write that nothing is known."""
    if is_missing(value) and not (isinstance(value, str) and is_blank(value)):
        raise CellError(
            f"column {column!r} is null, by which it is unknown and not none", f"{fix}, or drop the row"
        )


def as_whole_number(value: Any, column: str) -> int | None:
    """A whole number such as an offset, from text too; None where it is missing.

    Raises:
        CellError: it is no whole number, or one of more than 18 digits.
    """
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if is_missing(value):
        return None
    plain = _plain(value, column, "a whole number")
    if not _WHOLE_NUMBER.fullmatch(plain):
        raise _not("a whole number", value, column)
    return int(plain)


def is_short_name(text: str) -> bool:
    """Whether an id can be shown in a message: short, with a digit and without blanks, as no piece of a note is."""
    return _SHORT_NAME.fullmatch(text) is not None


def _plain(value: Any, column: str, wanted: str) -> str:
    """Text without blanks around it, or digits; whole numbers that pandas made floats are themselves again."""
    if isinstance(value, str):
        _refuse_half_a_character(value, column)
        _refuse_written_value(value.strip(), column)
        if "\0" in value:  # it fills up to a fixed width, where the same id elsewhere may have none
            raise CellError(f"column {column!r} holds zero bytes", "take them out")
        whole = _FLOAT_OF_A_WHOLE_NUMBER.fullmatch(value.strip())
        if whole and (len(whole[1]) > _EXACT_DIGITS or abs(int(whole[1])) >= _EXACT):
            raise _inexact(column)
        return whole[1] if whole else value.strip()
    if isinstance(value, UUID):
        return str(value)
    if _is_truth(value) or not isinstance(value, Real | Decimal) or not math.isfinite(value):
        raise _not(wanted, value, column)
    exact = isinstance(value, Integral | Decimal)
    number: Any = value
    if number % 1:
        raise _not(wanted, value, column)
    if abs(number) >= (_LARGEST if exact else _EXACT):
        raise _inexact(column)
    return str(int(number))


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # NumPy's is no number


def _refuse_half_a_character(text: str, column: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CellError(
            f"column {column!r} holds half a character at character {error.start}", "write the file again as UTF-8"
        ) from None


def _refuse_written_value(text: str, column: str) -> None:
    if _WRITTEN_VALUE.fullmatch(text):
        raise CellError(
            f"column {column!r} holds a value as Python shows it, such as b'...'", "write the value itself"
        )


def _inexact(column: str) -> CellError:
    return CellError(f"column {column!r} holds a number too large to be exact", "write it as text")


def _not(wanted: str, value: Any, column: str) -> CellError:
    kind = type(value).__name__
    return CellError(
        f"column {column!r} must hold {wanted}, got a value of type {kind}", "correct the row or the column"
    )
