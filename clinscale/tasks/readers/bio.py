"""One token and its tag per line, a blank line between sentences: BIO (IOB2), IOB1 and BIOES alike."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from clinscale.records import list_files, read_text
from clinscale.tasks.example import Entity, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.task import TaskConfig

_SUFFIXES = (".tsv", ".bio", ".conll", ".iob", ".txt")
_PREFIXES = {"B": "B", "S": "B", "I": "I", "E": "I"}
_OUTSIDE = ("O", "")
BAD_TAG = "tag is neither O nor one of B I E S, a dash and a type"


def read_bio(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """One example per sentence, its tokens joined by blanks. Finds `sentences`, `entities`.

    The first column is the token and the last the tag. A sentence with a line that has no tag, or one that is neither
    O nor PREFIX-TYPE, is rejected.
    """
    examples = []
    for file in list_files(path, _SUFFIXES):
        stem = PurePath(file.removesuffix(".gz")).stem
        for number, (line, tokens, given) in enumerate(_sentences(read_text(file, task.encoding)), 1):
            findings.find("sentences")
            if tags := _read_tags(file, line, tokens, given, findings):
                entities = entities_of_tags(tokens, tags)
                findings.find("entities", len(entities))
                examples.append(Example(f"{stem}:{number}", " ".join(tokens), entities=entities))
    return examples


@functools.lru_cache(maxsize=1024)
def read_tag(tag: str) -> tuple[str, str] | None:
    """(prefix, type) with prefix B or I; ("O", "") outside; None for what is no tag."""
    if tag == "O":
        return _OUTSIDE
    prefix, dash, label = tag.partition("-")
    return (_PREFIXES[prefix], label) if prefix in _PREFIXES and dash and label else None


def entities_of_tags(tokens: Sequence[str], tags: Sequence[tuple[str, str]]) -> tuple[Entity, ...]:
    """Entities in the tokens joined by blanks.

    An entity starts at B-X, or at I-X where none of type X goes on, which reads IOB1 and IOB2 as they are meant (the
    rule of the conlleval script).
    """
    if tags.count(_OUTSIDE) == len(tags):
        return ()
    entities: list[Entity] = []
    position, previous = 0, ""
    for token, (prefix, label) in zip(tokens, tags, strict=True):
        if label:
            start = entities.pop().start if prefix == "I" and label == previous else position
            entities.append(Entity(start, position + len(token), label))
        position += len(token) + 1
        previous = label
    return tuple(entities)


def _sentences(text: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number of the first line, tokens and tags by sentence; a line without two columns has an empty token."""
    tokens: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if fields and fields[0] != "-DOCSTART-":
            tokens.append(fields[0].strip() if len(fields) > 1 else "")
            tags.append(fields[-1])
        elif tokens:
            yield number - len(tokens), tokens, tags
            tokens, tags = [], []


def _read_tags(
    file: str, first_line: int, tokens: list[str], tags: list[str], findings: Findings
) -> list[tuple[str, str]]:
    """The tags of a sentence; none when it is rejected."""
    read = [_OUTSIDE] * len(tags) if tags.count("O") == len(tags) else [read_tag(tag.strip()) for tag in tags]
    if all(tokens) and None not in read:
        return read  # type: ignore[return-value]
    at = next(at for at, token in enumerate(tokens) if not token or read[at] is None)
    place = f"{file} line {first_line + at}"
    if tokens[at]:
        findings.reject(BAD_TAG, place, "correct the tag")
    else:
        findings.reject("line without token and tag", place, "separate them by a tab")
    return []
