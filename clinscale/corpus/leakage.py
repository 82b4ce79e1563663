"""Whether a corpus holds the test documents of the tasks that its model will be judged on.

Shared 13-grams of words, as in GPT-3's contamination check (Brown et al. 2020, appendix C), case, punctuation and white
space aside: so a test document is found inside a longer note, and a note inside a test document.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clinscale.config import Config

_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


class LeakageConfig(Config):
    """What counts as a leak, and what is done about it."""

    action: Literal["report", "drop", "refuse"] = "drop"
    """Say how many notes leak, leave them out of the corpus, or build none."""

    ngram_words: int = Field(default=13, ge=2)
    """Words in a row that count as one find; shorter texts are compared whole."""

    threshold: float = Field(default=0.5, gt=0, le=1)
    """Share of a test document's n-grams that one note must hold, or of a note's that the tests must."""


@dataclass(frozen=True)
class TestTexts:
    """The n-grams of all test documents: 12 bytes for each, no text."""

    __test__ = False  # pytest collects classes of this name

    tasks: tuple[str, ...]
    task_of: NDArray[np.int64]
    """Of each test document, the index of its task."""
    totals: NDArray[np.int64]
    """Of each test document, its different n-grams."""
    hashes: Hashes
    """Of all n-grams, sorted; once for each document that holds it."""
    owners: NDArray[np.int32]
    """The document of each hash."""
    config: LeakageConfig

    @classmethod
    def build(cls, texts_by_task: Mapping[str, Iterable[str]], config: LeakageConfig) -> "TestTexts":
        """Index the test texts of each task; texts that occur twice count once."""
        hashes: list[Hashes] = []
        task_of: list[int] = []
        for task, texts in enumerate(texts_by_task.values()):
            for text in dict.fromkeys(texts):
                hashes.append(_ngrams(text, config.ngram_words))
                task_of.append(task)
        totals = np.array([len(found) for found in hashes], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, np.uint64), *hashes])
        owners = np.repeat(np.arange(len(hashes), dtype=np.int32), totals)
        order = np.argsort(flat, kind="stable")
        return cls(tuple(texts_by_task), np.array(task_of, np.int64), totals, flat[order], owners[order], config)

    def find(self, text: str) -> list[int]:
        """Numbers of the test documents that `text` gives away; empty for nearly every note."""
        own = _ngrams(text, self.config.ngram_words)
        first, last = (np.searchsorted(self.hashes, own, side) for side in ("left", "right"))
        found = first < last
        if not found.any():
            return []
        owners = np.concatenate(
            [self.owners[start:stop] for start, stop in zip(first[found], last[found], strict=True)]
        )
        hits = np.bincount(owners, minlength=len(self.totals))
        is_inside = found.mean() >= self.config.threshold  # the note is, in one test document or in several
        leaked = hits >= (1 if is_inside else self.config.threshold * self.totals)
        return np.flatnonzero(leaked & (hits > 0)).tolist()

    def report(self, found: Iterable[int]) -> dict[str, dict[str, int]]:
        """By task, how many test documents there are and how many of them were `found` in the corpus."""
        leaked = np.zeros(len(self.totals), dtype=bool)
        leaked[list(found)] = True
        return {
            name: {"test_documents": int((of := self.task_of == task).sum()), "found": int((leaked & of).sum())}
            for task, name in enumerate(self.tasks)
        }


def phrases(text: str, size: int) -> tuple[Hashes, NDArray[np.int64]]:
    """Each `size` words in a row as a 64-bit hash, in order, and the character at which it begins."""
    words = list(_WORD.finditer(text.lower()))
    if len(words) < size:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    starts = np.array([word.start() for word in words[: len(words) - size + 1]], np.int64)
    return _hashes([word[0] for word in words], size), starts


def _ngrams(text: str, size: int) -> Hashes:
    """Different n-grams of a text as 64-bit hashes; a shorter text is one of its own kind."""
    words = _WORD.findall(text.lower())
    return np.unique(_hashes(words, min(size, len(words)))) if words else np.zeros(0, np.uint64)


def _hashes(words: list[str], size: int) -> Hashes:
    codes = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64)
    count = len(codes) - size + 1
    grams = np.full(count, np.uint64(size))  # a whole text of five words is no part of a longer one
    with np.errstate(over="ignore"):
        for offset in range(size):
            grams = (grams + codes[offset : offset + count]) * _BASE
            grams ^= grams >> np.uint64(31)
    return grams
