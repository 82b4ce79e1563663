"""Invented phrases planted in training rows, by which it is measured whether a model memorises (Carlini et al. 2019).

A canary is random tokens: a name, and behind it a secret. It is behind the first token of each row that was chosen
for it. Phrases and rows are functions of the seed, laid over the rows as they are read: the shards stay as they are,
and so do all other rows, their order and their masks. The held-out rows are never planted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clinscale.config import Config
from clinscale.corpus.loader import epoch_order
from clinscale.corpus.masking import ordinary
from clinscale.corpus.packing import FRAME_TOKENS, Rows
from clinscale.corpus.streams import CANARIES, CANARY_ALTERNATIVES, CANARY_ROWS, generator
from clinscale.errors import ConfigError
from clinscale.tokenizers import SpecialIds

NAME_TOKENS, SECRET_TOKENS = 8, 6
CANARY_TOKENS = NAME_TOKENS + SECRET_TOKENS
ALTERNATIVES = 2**16 - 1
"""Secrets that were not planted and might have been, with which each planted one is compared."""


class CanaryConfig(Config):
    """Canaries of a pretraining run; each is read `repeats` times in every epoch."""

    count: int = Field(default=8, ge=1, le=1000)
    """Number of different canaries; more make a weaker memory visible."""

    repeats: int = Field(default=4, ge=1)
    """Training rows that hold each; as often as a phrase that must not be learnt may be in the notes."""


@dataclass(frozen=True)
class CanaryProbe:
    """A question for one canary's secret."""

    seen: NDArray[np.int64]
    """A row of the canary alone, its secret masked; (CANARY_TOKENS + FRAME_TOKENS,)."""
    secret_at: slice
    """Positions in `seen` at which the secret is asked for."""
    secrets: NDArray[np.int64]
    """The planted secret, then its alternatives; (ALTERNATIVES + 1, SECRET_TOKENS)."""


def plant_canaries(rows: Rows, config: CanaryConfig, *, seed: int, rows_read: int) -> Rows:
    """Training `rows` with the canaries of `seed` in some of the first `rows_read` that a run of that seed reads.

    Raises:
        ConfigError: too few of them can hold a canary in their first segment.
    """
    wanted = config.count * config.repeats
    read = epoch_order(len(rows), seed, 0)[:rows_read]
    shuffled = generator(seed, CANARY_ROWS).permutation(read).tolist()
    fitting = (row for row in shuffled if rows.segments(row)[0] >= CANARY_TOKENS + FRAME_TOKENS)
    chosen = list(islice(fitting, wanted))
    if len(chosen) < wanted:
        raise ConfigError(
            f"recipe.canaries needs {wanted} training rows ({config.count} canaries, {config.repeats} times each) that "
            f"begin with a note of {CANARY_TOKENS} tokens or more, and the run reads {len(chosen)}; lower "
            "recipe.canaries.count or recipe.canaries.repeats, or train longer or on more notes"
        )
    phrases = np.repeat(_canaries(config, seed, rows.special), config.repeats, axis=0)
    return rows.beginning_with(dict(zip(chosen, phrases, strict=True)))


def canary_probes(config: CanaryConfig, *, seed: int, special: SpecialIds) -> Iterator[CanaryProbe]:
    """One for each canary of `seed`."""
    secret_at = slice(1 + NAME_TOKENS, 1 + CANARY_TOKENS)
    for number, phrase in enumerate(_canaries(config, seed, special)):
        seen = np.array([special.cls, *phrase, special.sep])
        secret = seen[secret_at].copy()
        seen[secret_at] = special.mask
        # drawn as the planted one was: to a model that has not seen that one, none of them is conspicuous
        others = _tokens(generator(seed, CANARY_ALTERNATIVES, number), (ALTERNATIVES, SECRET_TOKENS), special)
        yield CanaryProbe(seen, secret_at, np.vstack([secret, others]))


def _canaries(config: CanaryConfig, seed: int, special: SpecialIds) -> NDArray[np.int64]:
    """(count, CANARY_TOKENS)."""
    return _tokens(generator(seed, CANARIES), (config.count, CANARY_TOKENS), special)


def _tokens(random: np.random.Generator, shape: tuple[int, int], special: SpecialIds) -> NDArray[np.int64]:
    return random.choice(np.flatnonzero(ordinary(special)), size=shape)
