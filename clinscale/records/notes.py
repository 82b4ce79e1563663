"""Files that are notes: which names say so, which say that a file is of another format, and what mark-up betrays one.

What is of another format would be read without a fault, and its mark-up be answered, or learned, as if somebody had
written it in the note. Names decide; a text itself only where no note begins so.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable

from clinscale.cells import format_of

NOTE_SUFFIXES = (".txt", ".text")
"""The endings of files that hold one note each."""

_EXPORT = "export its text to .txt, or one row for each note to .jsonl, .csv or .parquet"
_ROWS = "export its rows to .jsonl, .csv or .parquet"
_UNPACK = "unpack it, and give what is in it"

_OTHERS = {
    ".ann": ("annotations", "give the .txt beside it"),
    **dict.fromkeys((".xmi", ".cas"), ("annotations of UIMA", _EXPORT)),
    **dict.fromkeys((".hl7", ".er7"), ("messages of HL7", _EXPORT)),
    **dict.fromkeys((".pubtator", ".bioc"), ("annotated abstracts", _EXPORT)),
    **dict.fromkeys((".cda", ".ccda", ".ccd", ".tei", ".nxml"), ("XML", _EXPORT)),
    **dict.fromkeys((".htm", ".html", ".xhtml", ".mht", ".mhtml"), ("a web page", _EXPORT)),
    **dict.fromkeys(
        (".doc", ".docx", ".docm", ".dot", ".dotx", ".odt", ".pages", ".wpd"), ("a document", _EXPORT)
    ),
    **dict.fromkeys((".rtf", ".pdf", ".ps", ".djvu", ".epub", ".tex"), ("a document", _EXPORT)),
    **dict.fromkeys((".ppt", ".pptx", ".odp"), ("slides", _EXPORT)),
    **dict.fromkeys((".eml", ".msg", ".mbox", ".pst"), ("mail", _EXPORT)),
    **dict.fromkeys((".xls", ".xlsm", ".xlsb", ".ods"), ("a workbook", "save it as .xlsx or .csv")),
    **dict.fromkeys((".sas7bdat", ".xpt", ".dta", ".sav", ".por", ".rds", ".rdata", ".rda"), ("a table", _ROWS)),
    **dict.fromkeys((".avro", ".orc", ".h5", ".hdf5", ".npy", ".npz"), ("a table", _ROWS)),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".duckdb", ".mdb", ".accdb"), ("a database", _ROWS)),
    **dict.fromkeys((".pkl", ".pickle"), ("a pickle", _ROWS)),
    **dict.fromkeys((".yaml", ".yml"), ("YAML", _EXPORT)),
    **dict.fromkeys((".dcm", ".dicom"), ("an image of DICOM", _EXPORT)),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"), ("an archive", _UNPACK)),
}
"""Ending of a file that is no note nor read as anything else -> what it holds, and what to do about it."""

_MOST_SHOWN = 5
_PLAIN_SUFFIX = re.compile(r"\.\w{1,12}", re.ASCII)

_LOOKED_AT = 2**16
"""Characters of a text that show whether it is a table."""
_FEWEST_COLUMNS = _FEWEST_ROWS = 3
_FEWEST_TOKENS = 10
_TAGGED = re.compile(r"\S.*[ \t](?:O|[BIES]-\S+)\s*")
_COLUMN = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)
_PUBTATOR = re.compile(r"(\d+)\|t\|[^\n]*\n(?:.*\n)?\1\|a\|")
_ROOT = re.compile(r"<([A-Za-z_][\w:.-]*)(?:\s[^<>]*)?>")


def other_format(suffix: str) -> str:
    """A clause on the format of a file that is no note by its ending, with the next step; empty of all others."""
    if suffix not in _OTHERS:
        return ""
    what, step = _OTHERS[suffix]
    return f"holds {what} by its name, not the text of a note; {step}"


def tally_of(suffixes: Iterable[str]) -> str:
    """Numbers of files by ending: `3 .docx, 1 .pdf`; those of annotations are beside notes, and not counted."""
    counts = Counter(
        suffix if _PLAIN_SUFFIX.fullmatch(suffix) else "of other endings"
        for suffix in suffixes
        if suffix != ".ann"
    )
    most = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:_MOST_SHOWN]
    shown = ", ".join(f"{number:,} {suffix}" for suffix, number in most)
    return f"{shown}, ..." if len(counts) > _MOST_SHOWN else shown


def marked_up(text: str) -> str:
    """A clause on a text that is surely no note but a document of another format; empty of all others.

    A note may hold `<`, `|` and brackets anywhere. What counts is a whole document: XML from its first to its last
    element, a value of JSON, an abstract of PubTator, a table with its header, tokens with their tags, or what begins
    as no note does.
    """
    what = format_of(text) or _whole_document(text)
    return f"holds {what} where the text of a note is needed; {_EXPORT}" if what else ""


def _whole_document(text: str) -> str:
    begins, ends = text.lstrip()[:1], text.rstrip()[-1:]
    if begins == "<" and ends == ">" and _is_element(text.strip()):
        return "XML"
    if (begins, ends) in (("{", "}"), ("[", "]")) and _is_json(text):
        return "JSON"
    if begins.isdecimal() and _PUBTATOR.match(text.lstrip()):
        return "abstracts of PubTator"
    if any(_is_table(text, separator) for separator in ",;\t|"):
        return "a table"
    return "tokens with their tags" if _is_tagged(text) else ""


def _is_tagged(text: str) -> bool:
    """Whether each of the first lines is a token with a tag of BIO."""
    lines = [line for line in text[:_LOOKED_AT].splitlines() if line.strip() and not line.startswith("-DOCSTART-")]
    whole = lines[:-1] if len(text) > _LOOKED_AT else lines
    return len(whole) >= _FEWEST_TOKENS and all(map(_TAGGED.fullmatch, whole))


def _is_table(text: str, separator: str) -> bool:
    """Whether a text begins with names of three columns or more, and all its first rows have as many fields."""
    rows = csv.reader(io.StringIO(text[:_LOOKED_AT], newline=""), delimiter=separator, strict=True)
    number = 0
    try:
        names = next(rows, [])
        if len(names) < _FEWEST_COLUMNS or not all(map(_COLUMN.fullmatch, names)) or len({*names}) < len(names):
            return False
        for number, row in enumerate(rows, 1):
            if row and len(row) != len(names):
                return len(text) > _LOOKED_AT and number > _FEWEST_ROWS and next(rows, None) is None  # cut there
    except csv.Error:  # a quotation mark that the end of what is looked at leaves open, perhaps
        return len(text) > _LOOKED_AT and number >= _FEWEST_ROWS and next(rows, None) is None
    return number >= _FEWEST_ROWS


def _is_element(text: str) -> bool:
    """Whether a text is one element with others in it; a name alone may stand for what was taken out of a note."""
    root = _ROOT.match(text)
    return root is not None and text.endswith(f"</{root[1]}>") and text.count("</") > 1


def _is_json(text: str) -> bool:
    """Whether a text is an object, a list of objects, or lines of objects."""
    for part in (text, text.strip().partition("\n")[0]):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))
    return False
