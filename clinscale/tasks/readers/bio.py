"""One token and its tag per line, a blank line between sentences: BIO (IOB2), IOB1 and BIOES alike."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from clinscale.records import list_files, read_text
from clinscale.tasks.example import Entity, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.task import TaskConfig

_SUFFIXES = (".tsv", ".bio", ".conll", ".iob", ".txt")
_PREFIXES = {"B": "B", "S": "B", "I": "I", "E": "I"}
BAD_TAG = "tag is neither O nor one of B I E S, a dash and a type"


def read_bio(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """One example per sentence, its tokens joined by blanks. Finds `sentences`, `entities`.

    The first column is the token and the last the tag. A sentence with a line that has no tag, or one that is neither
    O nor PREFIX-TYPE, is rejected.
    """
    examples = []
    for file in list_files(path, _SUFFIXES):
        stem = PurePath(file.removesuffix(".gz")).stem
        for number, lines in enumerate(_sentences(read_text(file, task.encoding)), 1):
            findings.find("sentences")
            tokens, tags = _columns(file, lines, findings)
            if not tokens:
                continue
            example = Example(f"{stem}:{number}", " ".join(tokens), entities=entities_of_tags(tokens, tags))
            findings.find("entities", len(example.entities))
            examples.append(example)
    return examples


def read_tag(tag: str) -> tuple[str, str] | None:
    """(prefix, type) with prefix B or I; ("O", "") outside; None for what is no tag."""
    if tag == "O":
        return "O", ""
    prefix, dash, label = tag.partition("-")
    return (_PREFIXES[prefix], label) if prefix in _PREFIXES and dash and label else None


def entities_of_tags(tokens: Sequence[str], tags: Sequence[tuple[str, str]]) -> tuple[Entity, ...]:
    """Entities in the tokens joined by blanks.

    An entity starts at B-X, or at I-X where none of type X goes on, which reads IOB1 and IOB2 as they are meant (the
    rule of the conlleval script).
    """
    entities: list[Entity] = []
    position, previous = 0, ""
    for token, (prefix, label) in zip(tokens, tags, strict=True):
        end = position + len(token)
        if prefix == "I" and label == previous:
            entities[-1] = Entity(entities[-1].start, end, label)
        elif label:
            entities.append(Entity(position, end, label))
        position, previous = end + 1, label
    return tuple(entities)


def _sentences(text: str) -> Iterator[list[tuple[int, list[str]]]]:
    """Line number and columns of each line, by sentence."""
    sentence: list[tuple[int, list[str]]] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        fields = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        if fields and fields[0] == "-DOCSTART-":
            continue
        if fields:
            sentence.append((number, fields))
        elif sentence:
            yield sentence
            sentence = []


def _columns(
    file: str, lines: list[tuple[int, list[str]]], findings: Findings
) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and tags of a sentence; nothing of a sentence that is rejected."""
    tokens, tags = [], []
    for number, fields in lines:
        if len(fields) < 2 or not fields[0].strip():
            findings.reject("line without token and tag", f"{file} line {number}", "separate them by a tab")
            return [], []
        tag = read_tag(fields[-1].strip())
        if tag is None:
            findings.reject(BAD_TAG, f"{file} line {number}", "correct the tag")
            return [], []
        tokens.append(fields[0].strip())
        tags.append(tag)
    return tokens, tags
