"""Costs of each lever to the paper's loss, over seeds."""

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from clinscale.bench.measure import ratio
from clinscale.bench.recipe.levers import Lever
from clinscale.bench.recipe.run import Evaluation
from clinscale.bench.record import BenchRecord, Ratio
from clinscale.tasks import estimate_mean


@dataclass(frozen=True)
class SeedResult:
    """One lever under one seed, beside the paper's recipe under it."""

    seed: int
    paper: Evaluation
    """The point at which the paper's recipe first had its final loss."""
    reached: Evaluation | None
    """The point at which the lever first had it; None where it never had it within the paper's steps."""
    ended: Evaluation
    """The lever's last evaluation, with the loss that was measured there."""
    load: tuple[float, float]
    """Load of the machine over one minute, as the lever's run began and as it ended."""


@dataclass(frozen=True)
class LeverResult:
    """One lever over all seeds."""

    lever: Lever
    seeds: tuple[SeedResult, ...]

    @property
    def reached(self) -> int:
        """Number of seeds under which the loss was reached."""
        return sum(one.reached is not None for one in self.seeds)

    def ratio(self, cost: str, asked: float | None = None) -> Ratio | None:
        """The paper's `tokens` or `device_s` over the lever's; None unless every seed reached the loss.

        `mean` is geometric, of one value a seed; `low` and `high` are its 95 % t interval.
        """
        values = []
        for one in self.seeds:
            if one.reached is None:  # a mean over those that did would be of the lucky ones
                return None
            values.append(getattr(one.paper, cost) / getattr(one.reached, cost))
        logs = estimate_mean([math.log(value) for value in values])
        mean, low, high = (
            math.exp(value) if math.isfinite(value) else None for value in (logs.value, logs.low, logs.high)
        )
        return ratio(values, asked, mean=mean, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class RecipeRecord(BenchRecord):
    """The record of this bench; `ratios` has no entry for what was not reached under every seed."""

    levers: tuple[LeverResult, ...]

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        levers = {
            result.lever.name: {
                "overrides": list(result.lever.overrides),
                "reached": result.reached,
                "seeds": [asdict(one) for one in result.seeds],
            }
            for result in self.levers
        }
        return {**super().plain(), "levers": levers}

    def rows(self) -> list[dict[str, Any]]:
        """The table for people: one lever a row."""
        return [self._row(result) for result in self.levers]

    def _row(self, result: LeverResult) -> dict[str, Any]:
        name, count = result.lever.name, len(result.seeds)
        losses = [one.ended.loss for one in result.seeds if one.reached is None]
        row = {
            "lever": name,
            "loss to reach": statistics.mean(one.paper.loss for one in result.seeds),
            "reached": f"{result.reached} of {count} seeds"
            if not losses
            else f"not reached by {len(losses)} of {count}",
            "ended at": ", ".join(f"{loss:.4f}" for loss in losses),
        }
        for cost, heading in (("tokens", "tokens"), ("device_s", "device-seconds")):
            found = self.ratios.get(f"{name}_{cost}")
            if found is None:
                row |= {heading: "", f"{heading}, paper / lever": "not reached", f"95 % of {heading}": ""}
                continue
            spent = statistics.mean(getattr(one.reached, cost) for one in result.seeds)
            low, high = found.more["low"], found.more["high"]
            row |= {
                heading: f"{spent:,.0f}" if cost == "tokens" else f"{spent:,.1f}",
                f"{heading}, paper / lever": found.more["mean"],
                f"95 % of {heading}": "one seed" if low is None or high is None else f"{low:.3g} to {high:.3g}",
            }
        return row
