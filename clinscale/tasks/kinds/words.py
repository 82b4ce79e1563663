"""The words of a text and their BIO tags: the unit in which entities are learned and answered.

A word is a run of letters, of digits or of one mark. In scripts that put no blanks between words, or join particles to
them, each character is one. The text alone decides where a word begins or ends, so that training and prediction cut
alike; to learn from gold that begins or ends inside a word, training cuts it there too (`cuts`).
"""

import functools
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import regex

from clinscale.tasks.example import Entity

_UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\uff70\p{Bopomofo}\p{Hangul}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
)
_ATTACHED = r"[\p{M}\u00ad\u200c\u200d]*"
"""Accents, soft hyphens and joiners, which are part of the character that they follow."""
_WORD = regex.compile(
    rf"(?:[\p{{L}}--[{_UNSPACED}]]{_ATTACHED})+"
    rf"|(?:[\p{{N}}--[{_UNSPACED}]]{_ATTACHED})+"
    r"|(?<=\p{L})['’](?:s|t|re|ve|m|ll|d)(?!\p{L})"  # English clitics, one token to byte-level tokenizers
    rf"|[{_UNSPACED}]{_ATTACHED}"
    rf"|([^\p{{L}}\p{{N}}\s\x1c-\x1f])\1*{_ATTACHED}",
    regex.V1,
)
_ATTACHED_CHARACTER = regex.compile(_ATTACHED)
_UNSPACED_CHARACTER = regex.compile(rf"[{_UNSPACED}]{_ATTACHED}", regex.V1)

OUTSIDE = "O"


def words_of(text: str, cuts: Iterable[int] = ()) -> list[tuple[int, int]]:
    """Characters [start, end) of each word, in order; a word that holds one of `cuts` ends there and begins anew."""
    words = list(_words(text))
    for cut in cuts:
        number = word_at(words, cut)
        if number is not None and words[number][0] < cut:
            start, end = words[number]
            words[number : number + 1] = [(start, cut), (cut, end)]
    return words


@functools.lru_cache(maxsize=16)  # many questions are asked about one text
def _words(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(match.span() for match in _WORD.finditer(text))


def may_share_a_token(text: str, word: tuple[int, int], following: tuple[int, int]) -> bool:
    """Whether a token may hold both words: neighbours in a script without blanks, where tokens hold several.

    To cut those would leave nothing of what a model has learned of the script; to cut others, as `%)`, costs little.
    """
    return word[1] == following[0] and all(
        _UNSPACED_CHARACTER.fullmatch(text, *one) is not None for one in (word, following)
    )


def are_whole_words(text: str, start: int, end: int) -> bool:
    """Whether characters [start, end) neither begin nor end inside a word of letters or digits."""
    return not any(0 < at < len(text) and _is_inside_word(text, at) for at in (start, end))


def _is_inside_word(text: str, at: int) -> bool:
    before = at - 1
    while before > 0 and _ATTACHED_CHARACTER.fullmatch(text[before]):
        before -= 1
    return text[before].isalnum() and _WORD.fullmatch(text, before, at + 1) is not None


def tag_words(words: Sequence[tuple[int, int]], entities: Iterable[Entity]) -> list[str]:
    """A BIO tag per word; a word that several entities touch belongs to the first of them."""
    tags = [OUTSIDE] * len(words)
    ends = [end for _, end in words]
    for entity in sorted(entities):
        prefix = "B"
        for number in range(bisect_right(ends, entity.start), len(words)):
            if words[number][0] >= entity.end:
                break
            if tags[number] == OUTSIDE:
                tags[number] = f"{prefix}-{entity.label}"
                prefix = "I"
    return tags


def word_at(words: Sequence[tuple[int, int]], character: int) -> int | None:
    """Number of the word that holds `character`."""
    number = bisect_right(words, (character, float("inf"))) - 1
    return number if number >= 0 and words[number][0] <= character < words[number][1] else None
