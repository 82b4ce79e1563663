"""Whether a pretrained model has memorised what it read: the exposure of planted canaries.

A canary's exposure (Carlini et al. 2019, arXiv:1802.08232) is how many bits of guessing the model spares one who looks
for its secret: among n secrets that might have been planted, the one that was has rank r in the model's opinion, and
the exposure is log2(n) - log2(r). A model that has not seen the canary gives every rank alike, so that an exposure of e
bits or more comes with probability 2^-e, whatever the model, and 1.44 bits on average. That makes the verdict a test
with a known rate of false alarms.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clinscale import corpus, models
from clinscale.pretrain.config import PretrainRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEMORISATION_FILE = "memorisation.json"
"""File in the run's folder and artifacts: count, repeats, and the exposure of each canary in bits."""

FALSE_ALARMS = 0.05
"""Share of models without any memory of their canaries that `memorised` takes for ones that have."""


def memorised(exposures: Sequence[float], *, false_alarms: float = FALSE_ALARMS) -> bool:
    """Whether the exposures of a run's canaries, in bits, are larger than chance explains."""
    return p_value(exposures) <= false_alarms


def p_value(exposures: Sequence[float]) -> float:
    """Probability that a model which has seen no canary shows such exposures, all canaries together; at most 1.

    One canary known by heart shows in the largest exposure, a weak memory of all in their sum (Fisher's method); the
    stricter of the two counts, doubled because there are two.
    """
    from scipy.stats import chi2

    count = len(exposures)
    largest = float(1 - (1 - 2.0 ** -max(exposures)) ** count)
    together = float(chi2.sf(2 * math.log(2) * sum(exposures), 2 * count))
    return min(1.0, 2 * min(largest, together))


def exposure_metrics(exposures: Sequence[float]) -> dict[str, float]:
    """The exposures of a run's canaries as its metrics; none where there are none."""
    if not exposures:
        return {}
    return {
        "memorisation/exposure_max": max(exposures),
        "memorisation/exposure_mean": fmean(exposures),
        "memorisation/p_value": p_value(exposures),
    }


def measure_exposures(folder: str | Path, recipe: PretrainRecipe, special: corpus.SpecialIds) -> list[float]:
    """Exposure in bits of each canary of `recipe` in the HF model in `folder`, with all of the secret masked."""
    import transformers

    if recipe.canaries is None:
        return []
    model = models.load_hf(str(folder), head="mlm", new_head=False)
    global_first = recipe.has_global_tokens(model.config.model_type)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # that a row is shorter than a block or a window is no news
    try:
        return [
            _exposure(_logits(model, probe.seen, global_first)[probe.secret_at], probe.secrets)
            for probe in corpus.canary_probes(recipe.canaries, seed=recipe.seed, special=special)
        ]
    finally:
        transformers.logging.set_verbosity(verbosity)


def _logits(model: "PreTrainedModel", row: NDArray[np.int64], global_first: bool) -> NDArray[np.float64]:
    """(L, V), of a row alone."""
    import torch

    inputs = {"input_ids": torch.from_numpy(row)[None]}
    if global_first:
        inputs["global_attention_mask"] = (torch.arange(len(row)) == 0).long()[None]
    with torch.no_grad():
        logits: NDArray[np.float64] = model(**inputs).logits[0].double().numpy()
    return logits


def _exposure(logits: NDArray[np.float64], secrets: NDArray[np.int64]) -> float:
    """Exposure of the first of `secrets` (n, k) among all of them, by `logits` (k, V) at its places.

    Sums of logits order the secrets as sums of log-probabilities do. A tie counts as lost.
    """
    scores = logits[np.arange(len(logits)), secrets].sum(axis=1)
    return math.log2(len(scores)) - math.log2(np.count_nonzero(scores >= scores[0]))
