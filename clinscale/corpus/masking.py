"""Masked language modelling: which tokens of a row the encoder must recover, and what it sees in their place."""

import json
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clinscale.config import Config
from clinscale.errors import ConfigError
from clinscale.tokenizers import SpecialIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of the positions that are not predicted, as everywhere in HF."""


class MaskingConfig(Config):
    """The rule by which tokens are masked for the encoder to recover.

    The defaults are those of BERT and of HF's collator.
    """

    mask_fraction: float = 0.15
    """Probability of each non-special token to be chosen; a row that has any has at least one."""

    mask_token_share: float = 0.8
    """Share of the chosen tokens that are replaced by the mask token."""

    random_token_share: float = 0.1
    """Share of the chosen tokens that are replaced by a random token; the rest stays as it is."""

    whole_words: bool = False
    """Choose all tokens of a word together, each word with probability `mask_fraction`, so that none is recovered
    from its own pieces. What becomes of a chosen token is decided for each, as in BERT and HF."""

    def check(self) -> None:
        """Shares are shares, and leave no more than everything."""
        if not 0 < self.mask_fraction < 1:
            raise ConfigError(
                f"masking.mask_fraction is a share between 0 and 1, got {self.mask_fraction}; 0.15 is usual"
            )
        shares = (self.mask_token_share, self.random_token_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(
                "masking.mask_token_share and masking.random_token_share must not be negative nor exceed 1 "
                f"together, got {shares[0]} and {shares[1]}; 0.8 and 0.1 are usual"
            )


def word_starts(tokenizer: "PreTrainedTokenizerBase") -> NDArray[np.bool_]:
    """Table by token id: whether a word starts at the token, and whether one starts behind it; (2, vocab_size).

    A word of a byte-level BPE or SentencePiece vocabulary is what is between white space, as in fairseq's
    whole-word masking; one of WordPiece is what BERT splits before it looks for pieces, so punctuation is apart.
    Special tokens are words of their own, so that no word goes on from one row or document to the next.

    Raises:
        ConfigError: the vocabulary does not mark where words start.
    """
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    if pipeline["model"]["type"] == "WordPiece":
        prefix = pipeline["model"]["continuing_subword_prefix"]
        starts, ends = [not token.startswith(prefix) for token in tokens], [False] * len(tokens)
    else:
        # a space begins the word behind it; other white space is alone
        is_bytes = '"ByteLevel"' in json.dumps(pipeline["pre_tokenizer"])
        space, others = ("Ġ", ("Ċ", "ĉ", "č")) if is_bytes else ("▁", ("\n", "\t", "\r", "<0x0A>"))
        starts = [token.startswith((space, *others)) for token in tokens]
        ends = [token.endswith(others) for token in tokens]
    table = np.array([starts, ends])
    is_special = np.zeros(len(tokens), dtype=np.bool_)
    is_special[tokenizer.all_special_ids] = True
    if len(set(table[0][~is_special])) < 2:
        raise ConfigError(
            f"masking.whole_words needs a vocabulary that marks where words start (Ġ, ▁ or ##), tokenizer "
            f"{tokenizer.name_or_path or 'given'} does not; set masking.whole_words=false"
        )
    return table | is_special


def mask_row(
    row: NDArray[np.int64],
    generator: np.random.Generator,
    masking: MaskingConfig,
    special: SpecialIds,
    word_starts: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A row as the model sees it, and its labels, -100 where nothing is asked; both (row_tokens,).

    `word_starts` is the table of that name; `masking.whole_words` needs it, ConfigError without.
    """
    is_ordinary = ordinary(special)
    candidates = is_ordinary[row]
    draw, treatment = generator.random((2, len(row)))
    if masking.whole_words:
        draw = draw[_first_of_word(row, word_starts)]
    draw[~candidates] = 1.0
    chosen = draw < masking.mask_fraction
    if candidates.any() and not chosen.any():
        chosen = draw == draw.min()  # a row without labels would teach nothing
    seen, labels = row.copy(), np.where(chosen, row, IGNORED)
    random_above = masking.mask_token_share + masking.random_token_share
    seen[chosen & (treatment < masking.mask_token_share)] = special.mask
    at_random = chosen & (treatment >= masking.mask_token_share) & (treatment < random_above)
    # HF draws from the whole vocabulary; a special token in mid-row is no useful noise
    seen[at_random] = generator.choice(np.flatnonzero(is_ordinary), size=int(at_random.sum()))
    return seen, labels


def _first_of_word(row: NDArray[np.int64], word_starts: NDArray[np.bool_] | None) -> NDArray[np.intp]:
    """Index at which each token's word starts; (row_tokens,)."""
    if word_starts is None:
        raise ConfigError("masking.whole_words needs the table of word starts; pass corpus.word_starts(tokenizer)")
    starts_here, starts_behind = word_starts[:, row]
    is_start = starts_here
    is_start[1:] |= starts_behind[:-1]
    is_start[0] = True
    return np.maximum.accumulate(np.where(is_start, np.arange(len(row)), 0))


@lru_cache(maxsize=4)
def ordinary(special: SpecialIds) -> NDArray[np.bool_]:
    """Whether each id is an ordinary token; (vocab_size,)."""
    table = np.ones(special.vocab_size, dtype=np.bool_)
    table[list(special.all)] = False
    return table
