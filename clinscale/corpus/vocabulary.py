"""The pieces that may enter a vocabulary: those that many patients or documents share, as every model carries it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from clinscale.corpus.words import is_number, words_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MIN_DOCUMENTS = 5
"""Patients or documents that must hold a piece, where nothing else is said."""

BETWEEN = "\U0010ffff"
"""Parts words while a tokenizer is trained; Unicode promises that it is no character."""
_BATCH_CHARACTERS = 2**18


class Words:
    """The words of all documents without numbers: how often each is there, and who holds those that few do."""

    def __init__(self, documents: Iterable[str | tuple[int, str]], min_documents: int) -> None:
        self.min_documents = min_documents
        self.counts: Counter[str] = Counter()
        self.shared: set[str] = set()
        """Held by enough."""
        self.few: dict[str, tuple[int, ...]] = {}
        """The others, and who holds each."""
        holders: set[int] = set()
        for number, document in enumerate(documents):
            holder, text = (-1 - number, document) if isinstance(document, str) else document
            holders.add(holder)
            found = words_of(text)
            self.counts.update(found)
            for word in set(found).difference(self.shared):
                self._hold(word, holder)
        self.num_holders = len(holders)
        for word in [word for word in self.counts if is_number(word) or BETWEEN in word]:
            del self.counts[word]
            self.shared.discard(word)
            self.few.pop(word, None)

    def _hold(self, word: str, holder: int) -> None:
        known = self.few.get(word, ())
        if holder in known:
            return
        if len(known) + 1 < self.min_documents:
            self.few[word] = (*known, holder)
        else:
            self.shared.add(word)
            self.few.pop(word, None)

    def repeated(self) -> Iterator[str]:
        """All words, each repeated as often as it was counted, for a trainer that counts words itself."""
        for word, count in self.counts.items():
            one, at_once = word + BETWEEN, max(1, _BATCH_CHARACTERS // len(word))
            while count > 0:
                yield one * min(count, at_once)
                count -= at_once


def shared_merges(bpe: "Tokenizer", words: Words) -> list[tuple[str, str]]:
    """The merges of a trained BPE, in order, that make pieces which enough patients or documents hold.

    Who holds a word holds the pieces that the BPE cuts it into, and what these were merged from.
    """
    model = json.loads(bpe.to_str())["model"]
    merges: list[tuple[str, str]] = [tuple(merge) for merge in model["merges"]]
    shared: set[str] = set()
    for pieces in _cut(bpe, list(words.shared)):
        shared.update(pieces)
    few: dict[str, set[int]] = {}

    def hold(piece: str, holders: Iterable[int]) -> None:
        if piece not in shared:
            known = few.setdefault(piece, set())
            known.update(holders)
            if len(known) >= words.min_documents:
                shared.add(piece)
                del few[piece]

    for holders, pieces in zip(words.few.values(), _cut(bpe, list(words.few)), strict=True):
        for piece in pieces:
            hold(piece, holders)
    for first, second in reversed(merges):  # the parts of a piece are older than it
        piece = first + second
        if piece in shared:
            shared.update((first, second))
        else:
            for part in (first, second):
                hold(part, few.get(piece, ()))
    return [merge for merge in merges if shared.issuperset((*merge, "".join(merge)))]


def _cut(bpe: "Tokenizer", words: Sequence[str]) -> Iterator[list[str]]:
    pieces = {number: piece for piece, number in bpe.get_vocab().items()}
    for start in range(0, len(words), 2**16):
        for encoding in bpe.encode_batch_fast(words[start : start + 2**16], add_special_tokens=False):
            yield [pieces[number] for number in encoding.ids]
