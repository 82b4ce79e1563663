"""The places at which GPT-2's byte-level BPE, and so RoBERTa's, cuts a text before it merges anything."""

import re
import unicodedata

_KNOWN_CHARACTERS = 0x3000
"""Code point below which are the letters, numbers and signs of nearly all notes in languages with spaces."""


def _class_of(category: str) -> str:
    """The known characters of a Unicode category, as they are between the brackets of a regular expression."""
    characters = map(chr, range(_KNOWN_CHARACTERS))
    return "".join(re.escape(one) for one in characters if unicodedata.category(one).startswith(category))


_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f"
_LETTER, _NUMBER = _class_of("L"), _class_of("N")
WORD = re.compile(
    rf" ?[{_LETTER}]+| ?[{_NUMBER}]+|'(?:s|t|re|ve|m|ll|d)| ?[^{_SPACE}{_LETTER}{_NUMBER}]+"
    rf"|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
)
"""The pieces into which GPT-2's byte-level BPE, and so RoBERTa's, cuts a text.

Its `s` and `L` are those of Unicode, `re`'s are not.
"""
OTHER_CHARACTERS = re.compile("[^\0-\u1c7f\u1c90-\u2fff]")
"""Here Unicode's versions, and so two libraries, may differ in what is a letter."""


def words_of(text: str) -> list[str]:
    """The words into which a byte-level BPE cuts a text, each with the space before it; it merges nothing across."""
    from tokenizers import pre_tokenizers

    if OTHER_CHARACTERS.search(text) is None:
        return WORD.findall(text)
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [text[start:stop] for _, (start, stop) in cut]


def is_number(word: str) -> bool:
    """Whether a word of `words_of` is one of digits and other numbers: none holds them and anything else."""
    return unicodedata.category(word[-1]).startswith("N")
