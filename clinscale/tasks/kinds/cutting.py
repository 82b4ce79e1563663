"""Tokens cut where words end: what a tokenizer joins, as `%)` or `▁25mg.`, could not say where an entity ends.

Tokens that are within words stay as they are. The others are spelled anew, piece by piece, by the tokenizer's model.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clinscale.tasks.kinds.words import may_share_a_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


def cut_at_words(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    ids: Sequence[int],
    offsets: Sequence[Span],
    words: Sequence[Span],
    cuts: Collection[int] = (),
) -> tuple[list[int], list[Span]]:
    """Ids and offsets of `text` in which no token reaches over the end of a word, and each word has a token.

    Tokens that were added to the vocabulary, such as `[DATE]`, are cut at `cuts` alone, and neighbours in a script
    without blanks may share a token unless one of `cuts` is between them.

    Args:
        tokenizer: a fast one.
        text: what was tokenized.
        ids: of its tokens, without special ones.
        offsets: characters [start, end) of each token, without white space at its ends.
        words: of the text, in order.
        cuts: where words end by gold and not by the text.
    """
    starts = np.array([start for start, _ in words], dtype=int)
    ends = np.array([end for _, end in words], dtype=int)
    token_starts, token_ends = np.array(offsets, dtype=int).reshape(-1, 2).T
    first = np.searchsorted(ends, token_starts, side="right")
    behind = np.searchsorted(starts, token_ends, side="left")
    spelled = _Speller(tokenizer, text)
    changed: dict[int, tuple[list[int], list[Span]]] = {}  # number of a token -> what is in its place
    for token in np.flatnonzero(behind - first > 1).tolist():
        reached = words[first[token] : behind[token]]
        pieces = _pieces(text, reached, offsets[token], cuts, only_cuts=spelled.is_added(ids[token]))
        if len(pieces) > 1:
            found = [spelled.ids(piece, of=None if number else ids[token]) for number, piece in enumerate(pieces)]
            spans = [piece for piece, of_one in zip(pieces, found, strict=True) for _ in of_one]
            changed[token] = [one for of_one in found for one in of_one], spans
    unknown = tokenizer.unk_token_id
    for word in (
        np.flatnonzero(_num_tokens(first, behind, len(words)) == 0).tolist() if unknown is not None else ()
    ):
        # dropped by the tokenizer, as zero bytes and half-read characters are by BERT's
        token = int(np.searchsorted(token_starts, starts[word]))
        old_ids, spans = changed.get(token, (list(ids[token : token + 1]), list(offsets[token : token + 1])))
        at = sum(span[1] <= starts[word] for span in spans)
        changed[token] = [*old_ids[:at], unknown, *old_ids[at:]], [*spans[:at], words[word], *spans[at:]]
    new_ids: list[int] = []
    new_offsets: list[Span] = []
    copied = 0
    for token in sorted(changed):
        new_ids += [*ids[copied:token], *changed[token][0]]
        new_offsets += [*offsets[copied:token], *changed[token][1]]
        copied = token + 1
    return [*new_ids, *ids[copied:]], _to_ends_of_words([*new_offsets, *offsets[copied:]], ends)


def _to_ends_of_words(offsets: list[Span], ends: np.ndarray) -> list[Span]:
    """Offsets of which the last of each word reaches to its end, though the tokenizer drops an accent there."""
    if not offsets or not len(ends):
        return offsets
    token_starts, token_ends = np.array(offsets, dtype=int).T
    word_ends = ends[np.minimum(np.searchsorted(ends, token_ends), len(ends) - 1)]
    is_last = np.append(token_starts[1:], word_ends[-1]) >= word_ends
    for token in np.flatnonzero((token_starts < token_ends) & (token_ends < word_ends) & is_last).tolist():
        offsets[token] = (offsets[token][0], int(word_ends[token]))
    return offsets


def _num_tokens(first: np.ndarray, behind: np.ndarray, num_words: int) -> np.ndarray:
    """Number of tokens that reach into each word."""
    visible = behind > first
    steps = np.bincount(first[visible], minlength=num_words + 1) - np.bincount(
        behind[visible], minlength=num_words + 1
    )
    return np.asarray(np.cumsum(steps)[:num_words])


def _pieces(
    text: str, words: Sequence[Span], token: Span, cuts: Collection[int], *, only_cuts: bool
) -> list[Span]:
    """The piece of a token that each word has, neighbours that may share one joined."""
    pieces = [(max(words[0][0], token[0]), min(words[0][1], token[1]))]
    for word, following in itertools.pairwise(words):
        end = min(following[1], token[1])
        if following[0] not in cuts and (only_cuts or may_share_a_token(text, word, following)):
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((following[0], end))
    return pieces


class _Speller:
    """The ids of pieces of a text, as the tokenizer would give them if the text were parted there."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", text: str) -> None:
        self._tokenizer, self._text = tokenizer, text
        self._backend = tokenizer.backend_tokenizer
        self._added: Collection[int] = tokenizer.added_tokens_decoder
        self._known: dict[tuple[str, bool], list[int]] = {}
        self._mark = self._parts(" a")[0].removesuffix("a")
        """The beginning of a word's first token: `Ġ`, `▁`, or nothing."""

    def is_added(self, token_id: int) -> bool:
        """Whether the token is one that was added to the vocabulary, and not what represents the unknown."""
        return token_id in self._added and token_id != self._tokenizer.unk_token_id

    def ids(self, piece: Span, *, of: int | None) -> list[int]:
        """The ids of one piece, at least one; the first piece of token `of` begins a word where that token does."""
        start, end = piece
        if of is None:
            begins = self._text[start - 1].isspace()
        else:
            begins = self._tokenizer.convert_ids_to_tokens(of).startswith(self._mark)
        key = (self._text[start:end], begins)
        if key not in self._known:
            self._known[key] = self._spell(*key)
        return self._known[key]

    def _spell(self, piece: str, begins: bool) -> list[int]:
        first, *others = self._parts(piece) or [""]
        first = (self._mark if begins else "") + first.removeprefix(self._mark)
        found = [token.id for part in (first, *others) if part for token in self._backend.model.tokenize(part)]
        unknown = self._tokenizer.unk_token_id
        return found or ([] if unknown is None else [unknown])

    def _parts(self, text: str) -> list[str]:
        """The parts of `text` that the tokenizer's model would be given."""
        backend = self._backend
        normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
        if backend.pre_tokenizer is None:
            return [normal]
        return [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
