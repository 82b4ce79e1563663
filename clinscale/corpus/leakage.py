"""Whether a corpus holds the test documents of the tasks that its model will be judged on.

As in GPT-3's contamination check (Brown et al. 2020, appendix C), phrases are compared, case, punctuation and white
space aside: so a test document is found inside a longer note, and a note inside a test document. What counts is the
share of words that are in shared phrases, as copies whose words are changed here and there, or whose names and numbers
are masked, keep few phrases whole and yet nearly all of their words in some. Accents do not count, nor do cleaning's
switches: see `_forms`.
"""

import functools
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clinscale.config import Config
from clinscale.corpus.cleaning import CleaningConfig, clean

_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_WHOLE = 2**32
_MARKS = re.compile("[\u0300-\u036f\xad\u200b-\u200f\u2060\ufeff]")
"""Accents, once they are characters of their own, and signs that nobody sees."""
_PLAIN_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "þ": "th"})
"""Plain forms of letters that Unicode does not decompose."""
_READABLE = CleaningConfig(characters="printable", placeholders="replace")
_ASCII = CleaningConfig(characters="ascii", placeholders="replace")

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


class LeakageConfig(Config):
    """The definition of a leak, and the treatment of leaks."""

    action: Literal["report", "drop", "refuse"] = "drop"
    """Say how many notes leak, leave them out of the corpus, or build none."""

    phrase_words: int = Field(default=8, ge=2)
    """Words in a row that count as shared where both texts hold them."""

    whole_words: int = Field(default=13, ge=1)
    """Texts of fewer words are compared whole, and fewer words of a longer one are no leak: many notes hold them."""

    threshold: float = Field(default=0.5, gt=0, le=1)
    """Share of a test document's words in phrases that one note must hold, or of a note's in those of one document."""


@dataclass(frozen=True)
class TestTexts:
    """The phrases of all test documents: 16 bytes for each, no text."""

    __test__ = False  # pytest collects classes of this name

    tasks: tuple[str, ...]
    task_of: NDArray[np.int64]
    """Index of the task of each test document."""
    document_of: NDArray[np.int64]
    """Index of the test document of each form."""
    starts: Positions
    """Start of each form's words when all are laid end to end, and the end of the last."""
    hashes: Hashes
    """Hashes of all phrases, sorted."""
    places: Positions
    """Start of each phrase among the words of all forms."""
    config: LeakageConfig

    @classmethod
    def build(cls, texts_by_task: Mapping[str, Iterable[str]], config: LeakageConfig) -> "TestTexts":
        """Index the test texts of each task; texts of the same words count once."""
        hashes: list[Hashes] = [np.zeros(0, np.uint64)]
        places: list[Positions] = [np.zeros(0, np.int64)]
        starts, document_of, task_of = [0], list[int](), list[int]()
        for task, texts in enumerate(texts_by_task.values()):
            for forms in dict.fromkeys(map(_forms, texts)):
                for words in forms:
                    found = _phrases(words, config)
                    hashes.append(found)
                    places.append(starts[-1] + np.arange(len(found)))
                    starts.append(starts[-1] + len(words))
                    document_of.append(len(task_of))
                task_of.append(task)
        flat = np.concatenate(hashes)
        order = np.argsort(flat, kind="stable")
        return cls(
            tasks=tuple(texts_by_task),
            task_of=np.array(task_of, np.int64),
            document_of=np.array(document_of, np.int64),
            starts=np.array(starts, np.int64),
            hashes=flat[order],
            places=np.concatenate(places)[order],
            config=config,
        )

    def find(self, text: str) -> list[int]:
        """Numbers of the test documents that `text` gives away; empty for nearly every note.

        Test documents resemble each other. Of those that share the same words of the note, the one that shares most
        is the one that it is a copy of.
        """
        for words in _forms(text):
            if found := self._given_away(words):
                return found
        return []

    def report(self, found: Iterable[int]) -> dict[str, dict[str, int]]:
        """Number of each task's test documents, and how many of them were `found` in the corpus."""
        leaked = np.zeros(len(self.task_of), dtype=bool)
        leaked[list(found)] = True
        return {
            name: {"test_documents": int((of := self.task_of == task).sum()), "found": int((leaked & of).sum())}
            for task, name in enumerate(self.tasks)
        }

    def _given_away(self, words: tuple[str, ...]) -> list[int]:
        own = _phrases(words, self.config)
        first = np.searchsorted(self.hashes, own)
        known = np.flatnonzero(self.hashes.take(first, mode="clip") == own) if len(self.hashes) else own[:0]
        if not len(known):
            return []
        first, last = first[known], np.searchsorted(self.hashes, own[known], side="right")
        shared = _Shared(
            in_note=np.repeat(known, last - first),
            in_tests=np.concatenate([self.places[i:j] for i, j in zip(first, last, strict=True)]),
            size=_size(words, self.config),
        )
        forms = np.searchsorted(self.starts, shared.in_tests, side="right") - 1
        lengths = np.diff(self.starts)
        # no more words can be covered than this
        enough = np.bincount(forms, minlength=len(lengths)) * shared.size >= self.config.threshold * np.minimum(
            lengths, len(words)
        )
        candidates = [
            _Candidate(int(self.document_of[form]), int(lengths[form]), shared.where(forms == form))
            for form in np.unique(forms[enough[forms]]).tolist()
        ]
        leaking = [one for one in candidates if one.is_leak(len(words), self.config)]
        return sorted(
            document
            for task in {int(self.task_of[one.document]) for one in leaking}
            for document in _explained(
                [one for one in leaking if self.task_of[one.document] == task], len(words), self.config.threshold
            )
        )


@dataclass(frozen=True)
class _Shared:
    """Phrases that a note shares with test documents."""

    in_note: Positions
    in_tests: Positions
    size: int
    """Words of each."""

    def where(self, chosen: NDArray[np.bool_]) -> "_Shared":
        return _Shared(self.in_note[chosen], self.in_tests[chosen], self.size)

    @functools.cached_property
    def words_of_note(self) -> Positions:
        """The words that are in any."""
        return np.unique(self.in_note[:, None] + np.arange(self.size))

    @functools.cached_property
    def test_words(self) -> int:
        """Number of words of the test documents that are in any."""
        return len(np.unique(self.in_tests[:, None] + np.arange(self.size)))


@dataclass(frozen=True)
class _Candidate:
    """A test document that a note may give away."""

    document: int
    num_words: int
    shared: _Shared

    def is_leak(self, note_words: int, config: LeakageConfig) -> bool:
        """Whether enough of the document is in the note, or of the note in the document."""
        return any(
            found >= max(config.threshold * words, min(words, config.whole_words))
            for found, words in (
                (self.shared.test_words, self.num_words),
                (len(self.shared.words_of_note), note_words),
            )
        )


def _explained(leaking: list[_Candidate], note_words: int, threshold: float) -> Iterator[int]:
    """The documents that a note was made of: a further one only for words that those before it leave unexplained."""
    taken = np.zeros(note_words, bool)
    reported: set[int] = set()
    for one in sorted(leaking, key=lambda one: (-len(one.shared.words_of_note), one.num_words, one.document)):
        is_new = ~taken[one.shared.in_note] | ~taken[one.shared.in_note + one.shared.size - 1]
        rest = one.shared.where(is_new)
        known = one.shared.test_words - rest.test_words
        if one.document in reported or not len(rest.in_note):
            continue
        if rest.test_words >= threshold * (one.num_words - known) or not reported:
            taken[one.shared.words_of_note] = True
            reported.add(one.document)
            yield one.document


def _forms(text: str) -> tuple[tuple[str, ...], ...]:
    """The words of a text as they are compared: as raw, and where that differs as what cleaning leaves of it in ASCII.

    Whatever `clean` does to a text, one of its forms stays one of the text's: placeholders and control characters are
    gone from both, case and accents from the first, and from the second what ASCII has no sign for.
    """
    readable = clean(text, _READABLE)
    if readable.isascii():
        return (tuple(_WORD.findall(readable.lower())),)
    folded = _MARKS.sub("", unicodedata.normalize("NFKD", readable)).casefold().translate(_PLAIN_LETTERS)
    forms = (folded, clean(text, _ASCII).lower())
    return tuple(dict.fromkeys(tuple(_WORD.findall(form)) for form in forms))


def phrases(text: str, size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Each `size` words in a row as a 64-bit hash, in order, and the character at which it begins."""
    words = list(_WORD.finditer(text.lower()))
    if len(words) < size:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    starts = np.array([word.start() for word in words[: len(words) - size + 1]], np.int64)
    return _hashes([word[0] for word in words], size), starts


def _phrases(words: Sequence[str], config: LeakageConfig) -> Hashes:
    """Each phrase of a text as a 64-bit hash, in order; a short text is one of its own kind."""
    size = _size(words, config)
    return _hashes(words, size, is_whole=size == len(words))


def _size(words: Sequence[str], config: LeakageConfig) -> int:
    """Words of a phrase of a text."""
    is_long = len(words) >= max(config.whole_words, config.phrase_words + 1)
    return config.phrase_words if is_long else max(1, len(words))


def _hashes(words: Sequence[str], size: int, *, is_whole: bool = False) -> Hashes:
    codes = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64)
    count = max(0, len(codes) - size + 1)
    kind = size + (_WHOLE if is_whole else 0)  # a whole text of eight words is no part of a longer one
    grams = np.full(count, np.uint64(kind))
    with np.errstate(over="ignore"):
        for offset in range(size):
            grams = (grams + codes[offset : offset + count]) * _BASE
            grams ^= grams >> np.uint64(31)
    return grams
