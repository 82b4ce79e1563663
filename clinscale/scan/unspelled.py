"""Numbers in a row that are as the token ids of a text, where no tokenizer that was met reads them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clinscale.tokenizers import cut_nothing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_TOKENIZER = "token ids, and no tokenizer was met that reads them"
"""Reason for which what holds them is not looked into."""

_LEAST_IDS, _LEAST_KINDS, _LARGEST = 48, 24, 2**18
"""Least number of ids, and of different ones, that are judged; ids of the largest vocabularies are below the last."""
_MOST_COLUMNS = 3
_LEAST_MIDDLE = 128
"""Least median: of the numbers that are in prose it is 30, as half of them are of lists and references."""
_RISING = (0.3, 0.7)
"""Shares of numbers that are larger than the one before: in between for words, beside it for positions and counts."""
_STEPS, _MOST_IN_STEP = (2, 5), 0.8
"""Steps in which sizes and counts go, and the largest share of ids with the same rest."""
_MOST_FREQUENT = 0.2
"""Largest share of one word in a text."""
_LUMPY = 3.0
"""Chance that two of the numbers are the same, times the range of the middle half: of counts, sizes and indices drawn
from any smooth distribution it is below 1, of words, of which few are frequent and most are rare, 4 to 100."""
_SAMPLE_IDS, _LEAST_SAME = 512, 0.8
"""Ids that are read and written again, and the least share of them that a tokenizer which made them writes again."""


def are_unspelled(numbers: "npt.NDArray[np.int64] | Sequence[int]", tokenizers: Sequence["Tokenizer"]) -> bool:
    """Whether whole numbers in a row are as the ids of a text, and none of the tokenizers can have made them."""
    texts = list(_texts(np.asarray(numbers, np.int64)))
    return bool(texts) and not any(_made(ids, tokenizer) for ids in texts for tokenizer in tokenizers)


def _texts(numbers: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The numbers, every second or every third one, where they are as a text: padding and masks are passed over."""
    numbers = numbers[numbers > 0]
    for columns in range(1, _MOST_COLUMNS + 1):
        for first in range(columns):
            ids = numbers[first::columns]
            ids = ids[np.diff(ids, prepend=-1) != 0]
            if len(ids) >= _LEAST_IDS and _is_text(ids):
                yield ids


def _is_text(ids: npt.NDArray[np.int64]) -> bool:
    if ids.max() >= _LARGEST or any(np.bincount(ids % step).max() > _MOST_IN_STEP * len(ids) for step in _STEPS):
        return False
    if not _RISING[0] < (np.diff(ids) > 0).mean() < _RISING[1]:
        return False
    counts, num_ids = np.unique(ids, return_counts=True)[1], len(ids)
    if len(counts) < _LEAST_KINDS or counts.max() > _MOST_FREQUENT * num_ids:
        return False
    same = float((counts * (counts - 1)).sum()) / (num_ids * (num_ids - 1))
    low, middle, high = np.quantile(ids, (0.25, 0.5, 0.75))
    return bool(middle >= _LEAST_MIDDLE and same * (high - low) > _LUMPY)


def _made(ids: npt.NDArray[np.int64], tokenizer: "Tokenizer") -> bool:
    """Whether a tokenizer writes the ids again from the text that they are by it."""
    sample = ids[:_SAMPLE_IDS].tolist()
    if (ids >= tokenizer.get_vocab_size()).any():
        return False
    cut_nothing(tokenizer)
    again = tokenizer.encode(tokenizer.decode(sample), add_special_tokens=False).ids
    same = Counter(again) & Counter(sample)
    return sum(same.values()) >= _LEAST_SAME * len(sample)
