"""i2b2 stand-off XML: TEXT in CDATA, then TAGS with one empty element per entity; also MEDDOCAN's."""

import codecs
import contextlib
import functools
import html
import re
from collections.abc import Collection, Iterable, Iterator
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from clinscale.cells import CellError, as_whole_number, is_blank, is_short_name
from clinscale.encodings import decode
from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import read_bytes
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entities_of
from clinscale.tasks.task import TaskConfig

_SIDES = ("start", "end")
_SUFFIX = re.compile(r"\.xml(?:\.gz)?$", re.IGNORECASE)
_DECLARED = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
NO_TYPE = "annotation with an empty type"


def read_i2b2_xml(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """One example per file, an entity's label being its TYPE; see `read_files`."""
    return read_files(list_files(path, (".xml",)), findings, encoding=task.encoding)


def read_files(
    files: Iterable[str],
    findings: Findings,
    *,
    elements: Collection[str] | None = None,
    attribute: str = "TYPE",
    encoding: str = "utf-8",
) -> list[Example]:
    """One example per file. Finds `documents`, `annotations`.

    Offsets count from 0 right after the CDATA opener, end exclusive, a Windows line end as one character (XML's own
    rule). For what is off see `entities_of`. A file that is no such XML is rejected, with the line of its
    fault.

    Args:
        files: names of the files.
        findings: where to count.
        elements: the elements of TAGS that mark entities; absent: all.
        attribute: what holds an entity's label; an annotation where it is empty is left out.
        encoding: of the files.
    """
    examples = []
    for file in files:
        findings.find("documents")
        document = read_document(file, findings, encoding=encoding)
        if document is None:
            continue
        text, tags = document
        wanted = [tag for tag in tags if elements is None or tag.tag in elements]
        marks = (mark for _, mark in marks_of(text, wanted, attribute, file, findings))
        entities = entities_of(text, marks, findings)
        examples.append(Example(id=_SUFFIX.sub("", file.rsplit("/", 1)[-1]), text=text, entities=entities))
    return examples


def read_document(
    file: str, findings: Findings, *, encoding: str = "utf-8", annotated: bool = True
) -> tuple[str, list[ElementTree.Element]] | None:
    """TEXT and the elements of TAGS of one file, which may lack TAGS unless `annotated`; None when it was rejected."""
    try:
        root = ElementTree.fromstring(_decoded(file, encoding))
    except DataError:
        if findings.on_error == "raise":
            raise
        findings.reject("not readable", file, "convert or remove the file")
        return None
    except ElementTree.ParseError as error:
        line, column = error.position
        findings.reject("malformed XML", f"{file} line {line}, column {column}", "correct the file")
        return None
    if fault := next((fault for fault in map(functools.partial(_lost, root), ("TEXT", "TAGS")) if fault), None):
        findings.reject(fault, file, "correct the file")
        return None
    text = root.findtext("TEXT")
    if text is None:
        findings.reject("no element TEXT, as i2b2's XML has", file, "export its text to .txt")
        return None
    if is_blank(text):
        findings.reject("empty text", file, "remove the document")
        return None
    tags = root.find("TAGS")
    if tags is None and annotated:
        findings.reject("no element TAGS", file, "take the annotated file")
        return None
    return text, list(tags if tags is not None else ())


def _decoded(file: str, encoding: str) -> str:
    """The file's text, in UTF-8 or as its declaration says; another encoding that the task names decides."""
    raw = read_bytes(file)
    declared = _DECLARED.match(raw[:200])
    if declared and codecs.lookup(encoding).name == "utf-8":
        with contextlib.suppress(LookupError):
            name = codecs.lookup(declared[1].decode("ascii")).name
            encoding = name if "<".encode(name) == b"<" else encoding  # in UTF-16 it could not have been read
    return decode(raw, file, encoding=encoding)


def _lost(root: ElementTree.Element, name: str) -> str:
    """The fault of a part of which something would not be read; empty where there is none."""
    parts = root.findall(name)
    if len(parts) > 1:
        return f"more than one element {name}"
    if name == "TAGS":
        return "elements within a tag" if parts and any(len(tag) for tag in parts[0]) else ""
    return "elements within TEXT" if parts and len(parts[0]) else ""


def with_entities(surface: str) -> str:
    """`surface` as texts spell it that were escaped once too often: `patient&apos;s`."""
    return escape(surface, {"'": "&apos;", '"': "&quot;"})


def marks_of(
    text: str, tags: Iterable[ElementTree.Element], attribute: str, file: str, findings: Findings
) -> Iterator[tuple[ElementTree.Element, Mark]]:
    """Each element with its mark, whose label is `attribute`; one without is left out, a malformed one rejected."""
    for number, tag in enumerate(tags, 1):
        findings.find("annotations")
        name = tag.get("id", "")
        place = f"{file} tag {name if is_short_name(name) else number}"
        try:
            label, start, end = tag.attrib[attribute], *(as_whole_number(tag.get(side), side) for side in _SIDES)
        except (KeyError, CellError):
            label, start, end = "", None, None
        if start is None or end is None:
            findings.reject(f"tag without {attribute}, start and end", place, "correct the tag")
            continue
        if label.strip():
            yield tag, Mark(label, start, end, _as_in(text, start, end, tag.get("text")), place)
        else:
            findings.leave_out(NO_TYPE)


def _as_in(text: str, start: int, end: int, surface: str | None) -> str | None:
    """`surface` as the text spells it: with `&apos;` undecoded, with & for `and`, with other white space."""
    if surface is None:
        return None
    there = text[max(0, start) : max(0, end)]
    if there == surface or _plain(there) == _plain(surface):
        return there
    escaped = with_entities(surface)
    return escaped if escaped in text else surface


def _plain(surface: str) -> str:
    return " ".join(html.unescape(surface).replace("&", "and").split())
