"""Whether a version may become champion: a pure function of what is known of it and of the present champion."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clinscale.config import Config
from clinscale.errors import ConfigError
from clinscale.tasks import (
    NEXT_STEP,
    Outcomes,
    compare,
    compare_seeds,
    differences_by_label,
    differences_by_length,
    metric_of,
)

_JUDGE = "give the task's data with --data to judge both now"


class GateRules(Config):
    """Rules that a candidate must satisfy; a limit of None is not checked."""

    min_seeds: int = 3
    """Seeds under which the candidate's recipe was trained, so that the noise between seeds is known."""

    min_over_trivial: float | None = 0.0
    """Least gain of a first champion's metric over the trivial baseline's, beyond the noise of documents; null where
    none is needed. Later champions have to beat the champion."""

    max_loss_in_band: float = 0.02
    """Loss of the metric that is allowed in a length band; more counts where it is beyond noise."""

    max_loss_in_label: float = 0.05
    """Loss of F1 that is allowed on a label; more counts where it is beyond noise."""

    max_calibration_loss: float = 0.02
    """The most by which its calibration error may be above the champion's."""

    max_latency_ratio: float | None = 1.5
    """The most that its seconds may be over the champion's on the same documents, in turns on one machine."""

    max_latency_s_per_1000_tokens: float | None = None
    """Seconds allowed on the machine that decides."""

    max_size_bytes: float | None = None
    """Bytes allowed of its files."""

    require_memorisation_test: bool = False
    """Whether its base must have been pretrained with canaries; where it was, they must not be remembered anyway."""

    def check(self) -> None:
        """Limits are not negative, and seeds can be compared."""
        for name, value in self.plain().items():
            if isinstance(value, float) and value < 0:
                raise ConfigError(f"{name} must not be negative, got {value:g}; 0 allows nothing")
        if self.min_seeds < 1:
            raise ConfigError(f"min_seeds must be at least 1, got {self.min_seeds}; 3 is usual")


@dataclass(frozen=True)
class Evidence:
    """Everything that the gate knows of a version."""

    label: str
    """`NAME/VERSION`, or what will be called so."""
    kind: Literal["base", "task"]
    """A base model answers nothing, so it is not judged here."""
    outcomes: tuple[Outcomes, ...]
    """Outcomes on the test set, by seed of its recipe; those of the weights that are shipped come first."""
    size_bytes: int
    """Bytes of its HF folder."""
    memorised: bool | None
    """Whether its base remembers planted phrases; None where none were planted."""
    note: str = ""
    """A remark on this evidence for the reader of a decision."""
    unfit: str = ""
    """Reason why it can be judged on no test of the other's task; empty where it can."""
    trivial: Outcomes | None = None
    """Outcomes of the trivial baseline on the same test set; None where they are not on record or not asked for."""


@dataclass(frozen=True)
class Latency:
    """Seconds per 1,000 tokens of candidate and champion, measured in turns; the champion's is None without one."""

    candidate_s: float
    champion_s: float | None


@dataclass(frozen=True)
class Check:
    """One rule and what was found."""

    rule: str
    passed: bool
    found: str

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"rule": self.rule, "passed": self.passed, "found": self.found}


@dataclass(frozen=True)
class Decision:
    """The gate's verdict on a candidate, with all its numbers."""

    candidate: str
    champion: str | None
    """The one before."""
    promoted: bool
    because: str
    checks: tuple[Check, ...] = ()
    difference: tuple[float, float, float] | None = None
    """Candidate minus champion on the test set, and its 95 % interval."""
    rules: GateRules | None = None
    """The limits that were applied; None where nothing was compared."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "candidate": self.candidate,
            "champion": self.champion,
            "promoted": self.promoted,
            "because": self.because,
            "difference": self.difference,
            "rules": self.rules and self.rules.plain(),
            "checks": [check.plain() for check in self.checks],
        }


def decide(
    candidate: Evidence,
    champion: Evidence | None,
    rules: GateRules,
    *,
    latency: Latency | None = None,
    resamples: int = 1000,
) -> Decision:
    """Apply every rule; the candidate is promoted when all of them hold."""
    checks = list(_absolute(candidate, rules, latency))
    difference = None
    if champion is None and candidate.outcomes and rules.min_over_trivial is not None:
        checks.append(_above_trivial(candidate.outcomes[0], candidate.trivial, rules.min_over_trivial, resamples))
    if champion and champion.kind != candidate.kind:
        found = f"{candidate.label} is a {candidate.kind} model, {champion.label} a {champion.kind} model"
        checks.append(Check("of the champion's kind", False, f"{found}; register it under another name"))
    elif champion and candidate.kind == "task":
        same = _same_test(candidate, champion)
        checks.append(same)
        if same.passed:
            difference, compared = _against(candidate, champion, rules, latency, resamples)
            checks += compared
    failed = [check for check in checks if not check.passed]
    if failed:
        because = "; ".join(f"{check.rule}: {check.found}" for check in failed)
    elif champion is None:
        because = "there is no champion yet"
        if candidate.outcomes and rules.min_over_trivial is not None:
            because += f", and {checks[-1].rule}: {checks[-1].found}"
    elif difference is None:
        because = "a base model is judged by the tasks that are tuned from it; nothing is known against this one"
    else:
        metric, (value, low, high) = metric_of(candidate.outcomes[0].task), difference
        because = f"{metric} is {value:.4f} above {champion.label}'s (95 % {low:.4f} to {high:.4f})"
    return Decision(
        candidate=candidate.label,
        champion=champion.label if champion else None,
        promoted=not failed,
        because=because,
        checks=tuple(checks),
        difference=difference,
        rules=rules,
    )


def _absolute(candidate: Evidence, rules: GateRules, latency: Latency | None) -> Iterator[Check]:
    """Checks of the candidate alone."""
    if candidate.kind == "task":
        judged = (
            f"{len(candidate.outcomes[0].keys):,} examples" if candidate.outcomes else f"none on record; {_JUDGE}"
        )
        yield Check("judged on a test set", bool(candidate.outcomes), judged)
    remembers = {
        None: "no canaries were planted",
        True: "planted phrases are remembered",
        False: "none is remembered",
    }
    passed = not candidate.memorised and not (candidate.memorised is None and rules.require_memorisation_test)
    yield Check("memorisation", passed, remembers[candidate.memorised])
    if rules.max_size_bytes is not None:
        found = f"{candidate.size_bytes:,} bytes, allowed {rules.max_size_bytes:,.0f}"
        yield Check("size", candidate.size_bytes <= rules.max_size_bytes, found)
    if rules.max_latency_s_per_1000_tokens is not None and latency:
        limit = rules.max_latency_s_per_1000_tokens
        found = f"{latency.candidate_s:.3g} s per 1,000 tokens, allowed {limit:g}"
        yield Check("latency", latency.candidate_s <= limit, found)


def _above_trivial(ours: Outcomes, trivial: Outcomes | None, least: float, resamples: int) -> Check:
    """Check of a first champion: that it has learned more than not to read."""
    metric = metric_of(ours.task)
    rule = f"{metric} above the trivial baseline's" + (f" by {least:g}" if least else "")
    if trivial is None:
        return Check(rule, False, f"no test outcomes of the baseline are on record; {_JUDGE}")
    if not ours.is_comparable(trivial):
        return Check(rule, False, f"the baseline was judged on other examples or by another metric; {_JUDGE}")
    found = compare(ours, trivial, resamples=resamples)
    text = f"{ours.value():.4f} against {trivial.value():.4f}, {found}"
    passed = found.exceeds(least)
    return Check(rule, passed, text if passed else f"{text}, not beyond noise; {NEXT_STEP}")


def _same_test(candidate: Evidence, champion: Evidence) -> Check:
    rule = "judged on the champion's test set"
    if champion.unfit:
        return Check(rule, False, champion.unfit)
    if not candidate.outcomes or not champion.outcomes:
        missing = champion if candidate.outcomes else candidate
        return Check(rule, False, f"no test outcomes of {missing.label} are on record; {_JUDGE}")
    ours, theirs = candidate.outcomes[0], champion.outcomes[0]
    if metric_of(ours.task) != metric_of(theirs.task):
        ours_by, theirs_by = metric_of(ours.task), metric_of(theirs.task)
        return Check(rule, False, f"by {ours_by}, the champion by {theirs_by}; set metric of the task to that")
    if ours.keys != theirs.keys:
        return Check(rule, False, f"{champion.label} was judged on other examples; {_JUDGE}")
    if not ours.is_comparable(theirs):
        found = f"{champion.label} was judged as another kind, or by another threshold, scorer or list of labels"
        return Check(rule, False, f"{found}; set those of the task to its, or register under another name")
    return Check(rule, True, champion.note or "the same examples")


def _against(
    candidate: Evidence, champion: Evidence, rules: GateRules, latency: Latency | None, resamples: int
) -> tuple[tuple[float, float, float], list[Check]]:
    """Checks of the candidate against the champion, on the same documents."""
    ours, theirs = candidate.outcomes[0], champion.outcomes[0]
    metric = metric_of(ours.task)
    found = compare(ours, theirs, resamples=resamples)
    spread = found.difference
    checks = [Check(f"{metric} beyond the noise of documents", found.exceeds(), str(found))]
    checks.append(_beyond_seeds(candidate, champion, rules, resamples))
    checks += _no_loss("length", differences_by_length(ours, theirs, resamples=resamples), rules.max_loss_in_band)
    checks += _no_loss("label", differences_by_label(ours, theirs, resamples=resamples), rules.max_loss_in_label)
    errors = [one.calibration.get("calibration_error", math.nan) for one in (ours, theirs)]
    if not math.isnan(errors[0] + errors[1]):
        text = f"error {errors[0]:.4f}, the champion's {errors[1]:.4f}, allowed above it {rules.max_calibration_loss:g}"
        checks.append(Check("calibration", errors[0] <= errors[1] + rules.max_calibration_loss, text))
    if rules.max_latency_ratio is not None and latency and latency.champion_s:
        ratio = latency.candidate_s / latency.champion_s
        text = f"{ratio:.2f} times the champion's seconds, allowed {rules.max_latency_ratio:g}"
        checks.append(Check("latency beside the champion", ratio <= rules.max_latency_ratio, text))
    return (spread.value, spread.low, spread.high), checks


def _beyond_seeds(candidate: Evidence, champion: Evidence, rules: GateRules, resamples: int) -> Check:
    rule = "better beyond the noise between seeds"
    have = len(candidate.outcomes)
    if have < rules.min_seeds:
        ask = f"trained under {have} seed{'' if have == 1 else 's'}, asked {rules.min_seeds}"
        return Check(rule, False, f"{ask} (recipe.confirm_seeds={rules.min_seeds})")
    compared = compare_seeds(candidate.outcomes, champion.outcomes, resamples=resamples)
    if compared is None:
        return Check(rule, rules.min_seeds == 1, "one seed each, so the noise between seeds is not known")
    spread = compared.difference
    return Check(rule, spread.low > 0, f"{spread.value:+.4f} (95 % {spread.low:+.4f} to {spread.high:+.4f})")


def _no_loss(what: str, differences: Any, allowed: float) -> Iterator[Check]:
    """One check for all bands or labels: none loses more than is allowed, beyond noise."""
    if not differences:
        return
    lost: Sequence[str] = [
        f"{name} {one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})"
        for name, one in differences.items()
        if one.value < -allowed and one.high < 0
    ]
    worst = min(differences, key=lambda name: differences[name].value)
    text = "; ".join(lost) or f"worst {worst} {differences[worst].value:+.4f}"
    yield Check(f"no {what} loses more than {allowed:g}", not lost, text)
