"""One token and its tag per line, a blank line between sentences: BIO (IOB2), IOB1 and BIOES alike."""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

from clinscale.errors import DataError
from clinscale.records import list_files, read_text
from clinscale.tasks.example import Entity, Example
from clinscale.tasks.task import TaskConfig

_SUFFIXES = (".tsv", ".bio", ".conll", ".iob", ".txt")
_PREFIXES = {"B": "B", "S": "B", "I": "I", "E": "I"}


def read_bio(task: TaskConfig, path: str, counts: Counter[str]) -> list[Example]:
    """One example per sentence, its tokens joined by blanks. Adds to counts: `sentences`, `entities`.

    The first column is the token and the last the tag. An entity starts at B-X, or at I-X where none of type X
    goes on, which reads IOB1 and IOB2 as they are meant (the rule of the conlleval script).

    Raises:
        DataError: a line without a tag, or a tag that is neither O nor PREFIX-TYPE.
    """
    examples = []
    for file in list_files(path, _SUFFIXES):
        for number, (tokens, tags) in enumerate(_sentences(file), 1):
            example = Example(
                id=f"{PurePath(file.removesuffix('.gz')).stem}:{number}",
                text=" ".join(tokens),
                entities=_entities(tokens, tags),
            )
            counts["sentences"] += 1
            counts["entities"] += len(example.entities)
            examples.append(example)
    return examples


def _sentences(file: str) -> Iterator[tuple[list[str], list[tuple[str, str]]]]:
    """Tokens and (prefix, type) tags of each sentence; ("O", "") outside entities."""
    tokens: list[str] = []
    tags: list[tuple[str, str]] = []
    for number, line in enumerate([*read_text(file).split("\n"), ""], 1):
        fields = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        if fields and fields[0] == "-DOCSTART-":
            continue
        if fields:
            if len(fields) < 2 or not fields[0].strip():
                raise DataError(f"{file} line {number} must hold a token and a tag; separate them by a tab")
            tokens.append(fields[0].strip())
            tags.append(_tag(fields[-1].strip(), f"{file} line {number}"))
        elif tokens:
            yield tokens, tags
            tokens, tags = [], []


def _tag(tag: str, place: str) -> tuple[str, str]:
    if tag == "O":
        return "O", ""
    prefix, dash, label = tag.partition("-")
    if prefix not in _PREFIXES or not dash or not label:
        raise DataError(f"{place}: the tag must be O or one of B I E S, a dash and a type; correct it")
    return _PREFIXES[prefix], label


def _entities(tokens: list[str], tags: list[tuple[str, str]]) -> tuple[Entity, ...]:
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
