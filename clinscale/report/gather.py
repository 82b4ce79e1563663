"""Content of the page, read from the registry alone. A value that was not recorded is None, never a guess."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clinscale import registry
from clinscale.registry import Link, ModelVersion, RunRecord, Tag, Tracking
from clinscale.report.league import League, leagues
from clinscale.report.lengths import LengthAnswer, length_answers
from clinscale.report.recorded import finite, recorded_number
from clinscale.tasks import threshold_sentence

_YEAR_10000_S = 253_402_300_800  # a client may write any time, and calendars end there

Curve = list[tuple[int, float]]
"""`(step, value)` by step."""


@dataclass(frozen=True)
class Base:
    """A pretraining run and the version it became."""

    name: str
    status: str
    versions: tuple[ModelVersion, ...]
    """Usually one; none while the run goes on or when it failed."""
    shards: str | None
    loss: Curve
    perplexity: Curve
    tokens_per_second: float | None
    seconds: float | None

    @property
    def family(self) -> str | None:
        """Model family as recorded on the version."""
        return next((version.tags.get(Tag.FAMILY) for version in self.versions), None)

    @property
    def before(self) -> float | None:
        """Perplexity before the first step; None when step 0 was not evaluated."""
        return self.perplexity[0][1] if self.perplexity and self.perplexity[0][0] == 0 else None

    @property
    def after(self) -> float | None:
        """Perplexity at the last evaluation after training began."""
        return self.perplexity[-1][1] if self.perplexity and self.perplexity[-1][0] > 0 else None

    @property
    def steps(self) -> int | None:
        """The last step that was logged."""
        return max((step for step, _ in (*self.loss, *self.perplexity)), default=None)


@dataclass(frozen=True)
class TrialRow:
    """One trial of a sweep."""

    number: int
    """Counted from 1 in the order of their starts."""
    name: str
    status: str
    value: float | None
    """Best score on the development split."""
    epochs: int
    seconds: float | None
    params: Mapping[str, str]
    won: bool


@dataclass(frozen=True)
class Sweep:
    """A search and its trials."""

    name: str
    status: str
    task: str | None
    metric: str | None
    trials: tuple[TrialRow, ...]
    versions: tuple[ModelVersion, ...]

    @property
    def winner(self) -> TrialRow | None:
        """The trial that the sweep itself named."""
        return next((trial for trial in self.trials if trial.won), None)

    @property
    def varied(self) -> list[str]:
        """Hyperparameters that differ between trials, in the order of first use."""
        return [key for key in self._keys() if len({trial.params.get(key) for trial in self.trials}) > 1]

    @property
    def fixed(self) -> dict[str, str]:
        """Hyperparameters that are the same in all trials."""
        varied = set(self.varied)
        return {key: self.trials[0].params[key] for key in self._keys() if key not in varied}

    def _keys(self) -> list[str]:
        return list(dict.fromkeys(key for trial in self.trials for key in trial.params))


@dataclass(frozen=True)
class Single:
    """A fine-tuning outside of any sweep."""

    name: str
    status: str
    task: str | None
    metric: str | None
    max_tokens: str | None
    value: float | None
    interval: tuple[float, float] | None
    trivial: float | None


@dataclass(frozen=True)
class Step:
    """One step on the way from the notes to a task model."""

    stage: str
    name: str
    detail: str = ""
    missing: bool = False
    """The registry does not know this step; `name` says so."""


@dataclass(frozen=True)
class Winner:
    """A registered task model, judged once on the test split."""

    version: ModelVersion
    task: str | None
    kind: str | None
    family: str | None
    metric: str | None
    max_tokens: str | None
    value: float | None
    interval: tuple[float, float] | None
    """95 % of `value`."""
    trivial: float | None
    linear: float | None
    remark: str | None
    """Sentences on a score that is not what it seems, as on a baseline that it does not beat."""
    threshold: str
    """Sentence on what a threshold that was fixed before the test did there; empty where there was none."""
    trials: str | None
    lineage: tuple[Step, ...]


@dataclass(frozen=True)
class Findings:
    """The whole page."""

    place: str
    as_of: datetime | None
    """Time at which the last run started or ended; None for an empty registry."""
    winners: tuple[Winner, ...]
    bases: tuple[Base, ...]
    sweeps: tuple[Sweep, ...]
    singles: tuple[Single, ...]
    lengths: tuple[LengthAnswer, ...]
    leagues: tuple[League, ...]


def gather(tracking: Tracking) -> Findings:
    """Read runs and versions; RegistryError when the server fails."""
    runs = {run.id: run for run in registry.read_runs(tracking)}
    versions = registry.list_versions(tracking)
    times = [
        time for run in runs.values() for time in (run.start_time, run.end_time) if time and time < _YEAR_10000_S
    ]
    of_kind = {
        kind: [run for run in runs.values() if run.kind == kind]
        for kind in ("pretrain", "sweep", "trial", "finetune")
    }

    def run_of(run_id: str) -> RunRecord | None:
        return runs.get(run_id) or registry.read_run(tracking, run_id)

    winners = [
        _winner(version, runs.get(version.run_id), registry.lineage_among(version, versions, run_of))
        for version in versions
        if version.tags.get(Tag.KIND) == "task"
    ]
    return Findings(
        place=tracking.place,
        as_of=datetime.fromtimestamp(max(times), UTC) if times else None,
        winners=tuple(sorted(winners, key=_best_first)),
        bases=tuple(_base(tracking, run, versions) for run in of_kind["pretrain"]),
        sweeps=tuple(_sweep(tracking, run, of_kind["trial"], versions) for run in of_kind["sweep"]),
        singles=tuple(_single(run) for run in of_kind["finetune"]),
        lengths=length_answers(tracking, runs.values()),
        leagues=leagues(tracking, runs.values()),
    )


def _base(tracking: Tracking, run: RunRecord, versions: Sequence[ModelVersion]) -> Base:
    return Base(
        name=run.name,
        status=run.status,
        versions=_made_by(run, versions),
        shards=run.tags.get(Tag.SHARDS),
        loss=registry.metric_history(tracking, run.id, "train/loss"),
        perplexity=registry.metric_history(tracking, run.id, "eval/perplexity"),
        tokens_per_second=finite(run.metrics.get("perf/tokens_per_second")),
        seconds=finite(run.metrics.get("perf/training_s")) or _seconds(run),  # a pause is no work
    )


def _sweep(
    tracking: Tracking, run: RunRecord, trials: Sequence[RunRecord], versions: Sequence[ModelVersion]
) -> Sweep:
    task, metric = run.tags.get(Tag.TASK), run.tags.get(Tag.METRIC)
    mine = [trial for trial in trials if trial.parent == run.id]
    return Sweep(
        name=run.name,
        status=run.status,
        task=task,
        metric=metric,
        trials=tuple(
            _trial(number, trial, registry.metric_history(tracking, trial.id, f"eval/{task}/{metric}"), run)
            for number, trial in enumerate(mine, 1)
        ),
        versions=_made_by(run, versions),
    )


def _trial(number: int, trial: RunRecord, scores: Curve, sweep: RunRecord) -> TrialRow:
    return TrialRow(
        number=number,
        name=trial.name,
        status=trial.status,
        value=max((value for _, value in scores if finite(value) is not None), default=None),
        epochs=len(scores),
        seconds=recorded_number(trial.tags.get(Tag.DEVICE_SECONDS)) or _seconds(trial),
        params=trial.params,
        won=trial.id == sweep.tags.get(Tag.WINNER_RUN),
    )


def _single(run: RunRecord) -> Single:
    task, metric = run.tags.get(Tag.TASK), run.tags.get(Tag.METRIC)
    return Single(
        name=run.name,
        status=run.status,
        task=task,
        metric=metric,
        max_tokens=run.tags.get(Tag.MAX_TOKENS),
        value=finite(run.metrics.get(f"test/{task}/{metric}")),
        interval=_interval(run, task, metric),
        trivial=finite(run.metrics.get(f"trivial/{task}/{metric}")),
    )


def _winner(version: ModelVersion, run: RunRecord | None, links: Sequence[Link]) -> Winner:
    tags = version.tags
    at = f"test/{tags.get(Tag.TASK)}/"
    tested = {
        key.removeprefix(at): value
        for key, value in (run.metrics if run else {}).items()
        if key.startswith(at) and finite(value) is not None
    }
    return Winner(
        version=version,
        task=tags.get(Tag.TASK),
        kind=tags.get(Tag.TASK_KIND),
        family=tags.get(Tag.FAMILY),
        metric=tags.get(Tag.METRIC),
        max_tokens=tags.get(Tag.MAX_TOKENS),
        value=recorded_number(tags.get(Tag.VALUE)),
        interval=_interval(run, tags.get(Tag.TASK), tags.get(Tag.METRIC)),
        trivial=recorded_number(tags.get(Tag.TRIVIAL)),
        linear=recorded_number(tags.get(Tag.LINEAR)),
        remark=tags.get(Tag.REMARK),
        threshold=threshold_sentence(tested),
        trials=tags.get(Tag.TRIALS),
        lineage=_steps(links, tags.get(Tag.TRIALS)),
    )


def _steps(links: Sequence[Link], trials: str | None) -> tuple[Step, ...]:
    """Notes, base, data, search, version: those links of `models lineage` that the page has room for."""
    of = {link.what: link for link in links}
    base, data, study, made = of["base version"], of["task data"], of["study"], of["task version"]
    if shards := of["shards"].id if "shards" in of else "":
        notes = Step("Notes", f"ShardSet {shards}")
    else:
        outside = base.missing and base.name
        notes = Step("Notes", "outside this registry" if outside else "not recorded", missing=True)
    if not base.missing:
        encoder = Step("Base model", base.name, base.facts.get("family", ""))
    elif base.name:
        encoder = Step("Base model", base.name, "not in this registry", missing=True)
    else:
        encoder = Step("Base model", "not recorded", missing=True)
    return (
        notes,
        encoder,
        Step("Task data", "not recorded", missing=True) if data.missing else Step("Task data", data.id, data.name),
        Step("Search", "its run is not in MLflow", missing=True)
        if study.missing
        else Step("Search", study.name, f"{trials} trials" if trials else ""),
        Step("Task model", made.name, f"digest {made.id[:12]}"),
    )


def _made_by(run: RunRecord, versions: Sequence[ModelVersion]) -> tuple[ModelVersion, ...]:
    return tuple(version for version in versions if version.run_id == run.id)


def _best_first(winner: Winner) -> tuple[str, float, str]:
    return winner.task or "", -(winner.value if winner.value is not None else -math.inf), winner.version.label


def _interval(run: RunRecord | None, task: str | None, metric: str | None) -> tuple[float, float] | None:
    ends = [finite(run.metrics.get(f"test/{task}/{metric}_{end}")) for end in ("low", "high")] if run else [None]
    return (ends[0], ends[1]) if None not in ends else None  # type: ignore[return-value]


def _seconds(run: RunRecord) -> float | None:
    return run.end_time - run.start_time if run.end_time else None
