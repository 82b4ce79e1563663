"""Examples, which readers make and kinds take, with gold labels, entities or answers."""

import dataclasses
import functools
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from clinscale.cells import is_short_name
from clinscale.tasks.findings import Findings
from clinscale.tasks.task import TaskConfig

_UNSEEN = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Soft hyphens, joiners, marks of direction and of byte order."""


@dataclass(frozen=True, order=True)
class Entity:
    """Characters [start, end) of the text, called `label`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, order=True)
class Answer:
    """An answer that is in the text at character `start`."""

    start: int
    text: str

    @property
    def end(self) -> int:
        """First character after the answer."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Example:
    """One text to judge; gold fields are empty for texts that nobody has annotated.

    Invariants: entities are sorted, and those of kind tokens do not overlap;
    `text[answer.start:answer.end] == answer.text`.
    """

    id: str
    text: str
    """The document, a pair's first text, or the context of a question."""
    text_pair: str | None = None
    """A pair's second text, or the question."""
    labels: tuple[str, ...] = ()
    entities: tuple[Entity, ...] = ()
    answers: tuple[Answer, ...] = ()
    """Spans: no answer means that the text does not answer the question."""
    gold: tuple[Any, ...] = ()
    """Gold that is none of these, such as relations: frozen dataclasses of plain values, as their kind defines them."""
    group: str | None = field(default=None, compare=False)
    """Group of examples that must stay in one split, beside equal texts."""
    split: str | None = field(default=None, compare=False)
    """Value of the split column of its file."""
    likely_patient: tuple[str, str] | None = field(default=None, compare=False)
    """Column that by its name holds the patient, whatever the task says of it, and its value."""
    place: str = field(default="", compare=False)
    """File and row that it was read from, where its reader says so."""
    is_split_into_words: bool = field(default=False, compare=False)
    """Whether its file gives the tokens one by one: they are what blanks part in the text."""
    is_part: bool = field(default=False, compare=False)
    """Whether it is a line or sentence of its group, a document: others may have the same one, and be no copies."""

    @property
    def name(self) -> str:
        """Name in messages: its id if that cannot be a piece of a note, else its place."""
        return self.id if is_short_name(self.id) else self.place or "whose id is no short name"


@dataclass(frozen=True)
class TaskData:
    """A task's examples by split, and what was found while reading them."""

    task: TaskConfig
    splits: dict[str, tuple[Example, ...]]
    labels: tuple[str, ...]
    """Names of the classes or entity types in the order of the model's outputs; none for spans."""
    fingerprint: str
    """Equal exactly when examples, splits and labels are equal."""
    findings: Findings
    """Counts of what was found, repaired and left out."""
    duplicates: int
    """Examples whose texts are those of an earlier example of their split."""
    duplicates_across_splits: int
    """Texts that are in more than one split."""

    def texts(self, split: str) -> list[str]:
        """All texts of a split's examples, e.g. to keep those of `test` out of a corpus; empty where there are none."""
        return [
            text for example in self.splits.get(split, ()) for text in (example.text, example.text_pair) if text
        ]


def data_fingerprint(splits: dict[str, tuple[Example, ...]], labels: tuple[str, ...]) -> str:
    """Twelve hex digits over all examples, their gold and the label order; each distinct text is hashed once."""
    texts: dict[str | None, str] = {None: ""}

    def short(text: str | None) -> str:
        if text not in texts:
            texts[text] = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()  # type: ignore[union-attr]
        return texts[text]

    whole = hashlib.sha256(json.dumps(labels).encode())
    for name, examples in splits.items():
        whole.update(f"\n{name}".encode())
        for e in examples:
            gold = [dataclasses.astuple(one) for one in (*e.entities, *e.answers, *e.gold)]
            whole.update(json.dumps([e.id, short(e.text), short(e.text_pair), e.labels, gold]).encode())
    return whole.hexdigest()[:12]


def count_repeats(splits: dict[str, tuple[Example, ...]]) -> tuple[int, int]:
    """Number of examples that repeat the texts of one in their own split, and number of texts in several splits.

    Texts are compared as in `text_key`.
    """
    duplicates = 0
    seen: Counter[tuple[bytes, ...]] = Counter()
    for examples in splits.values():
        texts = set(_texts(examples))
        duplicates += len(examples) - len(texts)
        seen.update(texts)
    return duplicates, sum(number > 1 for number in seen.values())


def _texts(examples: Iterable[Example]) -> Iterator[tuple[bytes, ...]]:
    return ((text_key(example.text), text_key(example.text_pair or "")) for example in examples)


@functools.lru_cache(maxsize=16)  # many questions are asked about one text
def text_key(text: str) -> bytes:
    """A hash that is equal for copies of a text.

    They may differ by line ends and other white space, case, characters that nobody sees and code points of one letter.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        for one in _UNSEEN:  # a search for each is many times as fast as a pattern
            text = text.replace(one, "")
    return hashlib.blake2b(
        " ".join(text.casefold().split()).encode(errors="surrogatepass"), digest_size=16
    ).digest()
