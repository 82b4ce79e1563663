"""Masked language modelling: which tokens of a row the encoder must recover, and what it sees in their place."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clinscale.config import Config
from clinscale.corpus.tokenizing import SpecialIds
from clinscale.errors import ConfigError

IGNORED = -100
"""Label of the positions that are not predicted, as everywhere in HF."""


class MaskingConfig(Config):
    """Which tokens the encoder is asked to recover; the defaults are those of BERT and of HF's collator."""

    mask_fraction: float = 0.15
    """Probability of each non-special token to be chosen; a row always has at least one."""

    mask_token_share: float = 0.8
    """Share of the chosen tokens that are replaced by the mask token."""

    random_token_share: float = 0.1
    """Share of the chosen tokens that are replaced by a random token; the rest stays as it is."""

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


def mask_row(
    row: NDArray[np.int64], generator: np.random.Generator, masking: MaskingConfig, special: SpecialIds
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the model sees of a row, and the labels, -100 where nothing is asked; both (row_tokens,)."""
    ordinary = _ordinary(special)
    candidates = ordinary[row]
    draw, fate = generator.random((2, len(row)))
    draw[~candidates] = 1.0
    chosen = draw < masking.mask_fraction
    if candidates.any() and not chosen.any():
        chosen[np.argmin(draw)] = True  # a row without labels would teach nothing
    seen, labels = row.copy(), np.where(chosen, row, IGNORED)
    random_above = masking.mask_token_share + masking.random_token_share
    seen[chosen & (fate < masking.mask_token_share)] = special.mask
    at_random = chosen & (fate >= masking.mask_token_share) & (fate < random_above)
    # HF draws from the whole vocabulary; a special token in mid-row is no useful noise
    seen[at_random] = generator.choice(np.flatnonzero(ordinary), size=int(at_random.sum()))
    return seen, labels


@lru_cache(maxsize=4)
def _ordinary(special: SpecialIds) -> NDArray[np.bool_]:
    """For each id whether it is an ordinary token; (vocab_size,)."""
    table = np.ones(special.vocab_size, dtype=np.bool_)
    table[list(special.all)] = False
    return table
