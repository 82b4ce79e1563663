"""Masked language modelling: which tokens of a row the encoder must recover, and what it sees in their place."""

import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clinscale.config import Config
from clinscale.errors import ConfigError
from clinscale.tokenizers import SpecialIds, num_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of the positions that are not predicted, as everywhere in HF."""


class MaskingConfig(Config):
    """The rule by which tokens are masked for the encoder to recover.

    The defaults are those of BERT, of HF's collator and of the paper. Held-out rows are masked by the defaults whatever
    is set here, so that the evaluation losses of recipes compare.
    """

    mask_fraction: float = 0.15
    """Probability of each non-special token to be chosen; a row that has any has at least one. Where a `schedule` is
    set, that of the first step."""

    # keys younger than the first runs are left out of `plain` where they are not set: those keep their fingerprint
    schedule: Literal["constant", "linear", "cosine", "steps"] = Field(
        default="constant", exclude_if=lambda value: value == "constant"
    )
    """Shape of the way from `mask_fraction` to `final_mask_fraction`: `linear`, `cosine` (slow at both ends) or
    `steps` (stairs). A fraction that falls from 0.3 to 0.15 saves steps (arXiv 2305.15096)."""

    final_mask_fraction: float | None = Field(default=None, exclude_if=lambda value: value is None)
    """Probability at the last step; needs a `schedule`."""

    schedule_stairs: int | None = Field(default=None, ge=2, exclude_if=lambda value: value is None)
    """Number of equally long stairs of `schedule: steps`, the first and the last fraction included; null is 4."""

    mask_token_share: float = 0.8
    """Share of the chosen tokens that are replaced by the mask token."""

    random_token_share: float = 0.1
    """Share of the chosen tokens that are replaced by a random token; the rest stays as it is."""

    all_mask: bool = Field(default=False, exclude_if=lambda value: not value)
    """Replace every chosen token by the mask token, in place of the two shares."""

    whole_words: bool = False
    """Choose all tokens of a word together, each word with probability `mask_fraction`, so that none is recovered
    from its own pieces. What becomes of a chosen token is decided for each, as in BERT and HF."""

    span_length: float | None = Field(default=None, gt=1, le=100, exclude_if=lambda value: value is None)
    """Choose spans together, each with probability `mask_fraction`: so many neighbouring tokens on average, or words
    with `whole_words`, geometrically distributed; 3.8 words are SpanBERT's. No span leaves its note. As in SpanBERT,
    what becomes of its tokens is decided for the span."""

    def check(self) -> None:
        """Check that fractions are between 0 and 1, add up to 1 at most, and that no setting is without effect."""
        for name, value in (
            ("mask_fraction", self.mask_fraction),
            ("final_mask_fraction", self.final_mask_fraction),
        ):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"masking.{name} is a share between 0 and 1, got {value}; 0.15 is usual")
        shares = (self.mask_token_share, self.random_token_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(
                "masking.mask_token_share and masking.random_token_share must not be negative nor exceed 1 "
                f"together, got {shares[0]} and {shares[1]}; 0.8 and 0.1 are usual"
            )
        if self.all_mask and shares not in ((0.8, 0.1), (1, 0)):
            raise ConfigError(
                "masking.all_mask must stand without masking.mask_token_share and masking.random_token_share, got "
                f"{shares[0]} and {shares[1]}; drop all_mask or both shares"
            )
        if (self.schedule == "constant") != (self.final_mask_fraction is None):
            raise ConfigError(
                f"masking.schedule and masking.final_mask_fraction must be set together, got {self.schedule} and "
                f"{self.final_mask_fraction}; write schedule=linear and final_mask_fraction=0.15"
            )
        if self.schedule_stairs is not None and self.schedule != "steps":
            raise ConfigError(
                f"masking.schedule_stairs needs masking.schedule=steps, got schedule={self.schedule}; drop one"
            )

    def fraction_at(self, step: int, total_steps: int | None) -> float:
        """The probability of being chosen in optimiser step `step`, from 0, of `total_steps`.

        Raises:
            ConfigError: the fraction has a schedule, and nobody says how long the training is.
        """
        first, last = self.mask_fraction, self.final_mask_fraction
        if last is None:
            return first
        if total_steps is None:
            raise ConfigError(
                f"masking.schedule={self.schedule} needs the length of the training; pass total_steps"
            )
        progress = min(step / max(total_steps - 1, 1), 1.0)
        if self.schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        elif self.schedule == "steps":
            stairs = min(self.schedule_stairs or 4, total_steps)
            progress = min(step * stairs // total_steps, stairs - 1) / max(stairs - 1, 1)
        return first * (1 - progress) + last * progress

    @property
    def mean_fraction(self) -> float:
        """Mean of `fraction_at` over a training: every shape is symmetric about its middle."""
        last = self.final_mask_fraction
        return self.mask_fraction if last is None else (self.mask_fraction + last) / 2


HELD_OUT_MASKING = MaskingConfig()
"""The paper's masking, by which held-out rows are masked whatever the recipe's, so that losses of recipes compare."""


def word_starts(tokenizer: "PreTrainedTokenizerBase") -> NDArray[np.bool_]:
    """Table by token id: whether a word starts at the token, and whether one starts behind it; (2, vocab_size).

    A word of a byte-level BPE or SentencePiece vocabulary is what is between white space, as in fairseq's
    whole-word masking; one of WordPiece is what BERT splits before it looks for pieces, so punctuation is apart.
    Special tokens are words of their own, so that no word goes on from one row or document to the next.

    Raises:
        ConfigError: the vocabulary does not mark where words start.
    """
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(range(num_ids(tokenizer)))]
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
    fraction: float | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A row as the model sees it, and its labels, -100 where nothing is asked; both (row_tokens,).

    Args:
        row: token ids.
        generator: of this row's masks.
        masking: which tokens are asked for.
        special: ids of the tokenizer.
        word_starts: the table of that name, for `masking.whole_words`.
        fraction: what `masking.fraction_at` gives for the step; None where it has no schedule.

    Raises:
        ConfigError: whole words are asked for without their table, or a scheduled fraction without its value.
    """
    if fraction is None:
        fraction = masking.fraction_at(0, None)
    is_ordinary = ordinary(special)
    candidates = is_ordinary[row]
    draw, treatment = generator.random((2, len(row)))
    if masking.whole_words or masking.span_length:
        starts = _starts_of_words(row, word_starts) if masking.whole_words else np.ones(len(row), dtype=np.bool_)
        if masking.span_length:
            starts &= generator.random(len(row)) < 1 / masking.span_length
            starts |= ~candidates
            starts[1:] |= ~candidates[:-1]
        first = np.maximum.accumulate(np.where(starts, np.arange(len(row)), 0))
        draw, treatment = draw[first], treatment[first] if masking.span_length else treatment
    draw[~candidates] = 1.0
    chosen = draw < fraction
    if candidates.any() and not chosen.any():
        chosen = draw == draw.min()  # a row without labels would teach nothing
    seen, labels = row.copy(), np.where(chosen, row, IGNORED)
    mask_share, random_share = (
        (1.0, 0.0) if masking.all_mask else (masking.mask_token_share, masking.random_token_share)
    )
    seen[chosen & (treatment < mask_share)] = special.mask
    at_random = chosen & (treatment >= mask_share) & (treatment < mask_share + random_share)
    # HF draws from the whole vocabulary; a special token in mid-row is no useful noise
    seen[at_random] = generator.choice(np.flatnonzero(is_ordinary), size=int(at_random.sum()))
    return seen, labels


def _starts_of_words(row: NDArray[np.int64], word_starts: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Whether a word starts at each token; (row_tokens,)."""
    if word_starts is None:
        raise ConfigError("masking.whole_words needs the table of word starts; pass corpus.word_starts(tokenizer)")
    starts: NDArray[np.bool_] = word_starts[0, row]
    starts[1:] |= word_starts[1, row[:-1]]
    return starts


@lru_cache(maxsize=4)
def ordinary(special: SpecialIds) -> NDArray[np.bool_]:
    """Whether each id is an ordinary token; (vocab_size,)."""
    table = np.ones(special.vocab_size, dtype=np.bool_)
    table[list(special.all)] = False
    return table
