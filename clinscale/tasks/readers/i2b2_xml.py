"""i2b2 stand-off XML: TEXT in CDATA, then TAGS with one empty element per entity; also MEDDOCAN's."""

from collections.abc import Iterator
from xml.etree import ElementTree

from clinscale.errors import DataError
from clinscale.records import list_files, read_text
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import Mark, entities_of
from clinscale.tasks.task import TaskConfig


def read_i2b2_xml(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """One example per file, an entity's label being its TYPE. Finds `documents`, `annotations`.

    Offsets count from 0 right after the CDATA opener, end exclusive, a Windows line end as one character (XML's own
    rule). For what overlaps or is off see `entities_of`. A
    file that is no such XML is rejected, with the line of its fault.
    """
    examples = []
    for file in list_files(path, (".xml",)):
        findings.find("documents")
        document = read_document(file, findings, encoding=task.encoding)
        if document is None:
            continue
        text, tags = document
        entities = entities_of(text, _marks(tags, file, findings), findings)
        examples.append(Example(id=file.rsplit("/", 1)[-1].removesuffix(".xml"), text=text, entities=entities))
    return examples


def read_document(
    file: str, findings: Findings, *, encoding: str = "utf-8"
) -> tuple[str, list[ElementTree.Element]] | None:
    """TEXT and the elements of TAGS of one file; None when it was rejected."""
    try:
        root = ElementTree.fromstring(read_text(file, encoding))
    except DataError:
        if findings.on_error == "raise":
            raise
        findings.reject("not readable", file, "convert or remove the file")
        return None
    except ElementTree.ParseError as error:
        line, column = error.position
        findings.reject("malformed XML", f"{file} line {line}, column {column}", "correct the file")
        return None
    text = root.findtext("TEXT")
    if text is None or not text.strip():
        findings.reject("empty text", file, "remove the document")
        return None
    return text, list(root.find("TAGS") or ())


def _marks(tags: list[ElementTree.Element], file: str, findings: Findings) -> Iterator[Mark]:
    for number, tag in enumerate(tags, 1):
        findings.find("annotations")
        place = f"{file} tag {tag.get('id', number)}"
        try:
            yield Mark(
                tag.attrib["TYPE"], int(tag.attrib["start"]), int(tag.attrib["end"]), tag.get("text"), place
            )
        except (KeyError, ValueError):
            findings.reject("tag without TYPE, start and end", place, "correct the tag")
