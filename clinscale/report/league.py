"""The league table of a study or a sweep: tasks by models, with what the paired tests say and nothing beyond that.

A model is a base model and how it reads; `StudyConfig.arm` names it. Scores are means over the seeds of the chosen
setting on the sealed test set. The p-values of all tests in the table are adjusted together by Holm's method; ranks
are compared as in Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clinscale.errors import DataError
from clinscale.finetune import SHORT_TOKENS, stored_outcomes
from clinscale.registry import RunRecord, Tag, Tracking
from clinscale.report.recorded import finite, recorded_number
from clinscale.tasks import (
    Comparison,
    Estimate,
    Outcomes,
    compare_seeds,
    differences_by_length,
    estimate_seeds,
    holm,
)

_LEVEL = 0.05


@dataclass(frozen=True)
class Entry:
    """One model on one task."""

    model: str
    max_tokens: int
    dev: float | None
    """Development score, by which a model is chosen among others; never the test score."""
    score: Estimate
    """Mean test score over seeds, with a 95 % interval over documents and seeds."""
    outcomes: tuple[Outcomes, ...] = field(repr=False)
    """Outcomes by seed."""
    trials: int | None
    device_seconds: float | None


@dataclass(frozen=True)
class Gain:
    """Effect of reading more than 512 tokens on one task: the best long model against the best short one."""

    long: str
    short: str
    compared: Comparison | None
    """Comparison over documents and seeds; None of one seed each, or of one document: nothing is known."""
    bands: Mapping[str, Estimate]
    """Difference by length of the notes, of the first seeds."""
    long_notes: float
    """Share of the test examples whose text is longer than 512 tokens."""


@dataclass(frozen=True)
class Row:
    """One task of the table."""

    task: str
    metric: str
    entries: Mapping[str, Entry]
    """Entries by model; a model that was not judged on the task is not there."""
    trivial: float | None
    linear: float | None
    best: str
    """Model of the highest mean test score."""
    p_best: float | None
    """Largest Holm-adjusted p of the best model against each other one; None where no test is possible."""
    gain: Gain | None
    p_gain: float | None
    """Holm-adjusted p of the gain of length."""
    compares: bool = True
    """Whether all of its models were judged by one metric and scorer on the same test examples."""

    @property
    def is_clear(self) -> bool:
        """Whether the best model is better than every other one beyond the noise of documents and seeds."""
        return self.p_best is not None and self.p_best < _LEVEL

    @property
    def length_pays(self) -> bool | None:
        """True or False beyond noise, None where the test shows no difference."""
        if self.gain is None or self.gain.compared is None or self.p_gain is None or self.p_gain >= _LEVEL:
            return None
        return self.gain.compared.difference.value > 0


@dataclass(frozen=True)
class League:
    """The table of one study, or of one sweep."""

    name: str
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    mean_ranks: Mapping[str, float]
    """Mean rank by model over the tasks on which all were judged; 1 is best. Empty below two tasks or models."""
    ranked_tasks: int
    critical_difference: float | None
    """Mean ranks that differ by less are not distinguished (Nemenyi, 5 %)."""
    seen_tests: tuple[str, ...] = ()
    """Tasks whose test documents a base model may have seen in its pretraining."""
    repeated: tuple[str, ...] = ()
    """Cells of which several searches were judged, in words; the table has the latest of each."""
    apart: tuple[str, ...] = ()
    """Tasks whose models were judged by different metrics, or on different test examples."""
    undefined: tuple[str, ...] = ()
    """Tasks whose metric is not defined on their test examples, as ROC AUC on those of one label; they have no row."""

    @property
    def trials(self) -> int:
        """Trials of all searches together."""
        return sum(entry.trials or 0 for row in self.rows for entry in row.entries.values())

    @property
    def device_hours(self) -> float:
        """Hours of all GPUs, or CPUs, of all searches together."""
        return sum(entry.device_seconds or 0 for row in self.rows for entry in row.entries.values()) / 3600

    @property
    def verdict(self) -> str:
        """Reading of the table in plain words."""
        asked = [row for row in self.rows if row.gain]
        pays = [row.task for row in asked if row.length_pays]
        harms = [row.task for row in asked if row.length_pays is False]
        clear = {row.task: row.best for row in self.rows if row.is_clear}
        beaten = [
            row.task
            for row in self.rows
            if row.compares
            and row.linear is not None
            and max(e.score.value for e in row.entries.values()) <= row.linear
        ]
        said = []
        if asked:
            said.append(
                f"Reading more than {SHORT_TOKENS} tokens is better beyond noise on {_counted(pays, len(asked))}"
                + (f", and worse on {_counted(harms, len(asked))}" if harms else "")
                + ("" if pays or harms else ": these tests show no difference")
                + "."
            )
        if clear:
            said.append(
                "One model is better than all others on "
                + ", ".join(f"{task} ({model})" for task, model in clear.items())
                + "."
            )
        elif len(self.models) > 1:
            said.append("On no task is one model better than all others beyond noise.")
        if beaten:
            said.append(f"No model scores above the linear baseline on {', '.join(beaten)}.")
        if any(len(entry.outcomes) < 2 for row in self.rows for entry in row.entries.values()):
            said.append("Some models have one seed, of which the noise between seeds is not known.")
        if self.seen_tests:
            said.append(f"The base models may have seen the test documents of {', '.join(self.seen_tests)}.")
        if self.repeated:
            said.append(
                f"Several searches were judged of {', '.join(self.repeated)}: the latest of each is shown."
            )
        if self.apart:
            said.append(
                f"The models of {', '.join(self.apart)} were judged by different metrics or on other test examples: "
                "their scores do not compare."
            )
        if self.undefined:
            said.append(
                f"The metric of {', '.join(self.undefined)} is not defined on its test examples, which may all have "
                "one label: there is no score."
            )
        return " ".join(said)


def leagues(tracking: Tracking, runs: Iterable[RunRecord]) -> tuple[League, ...]:
    """The tables of all studies and sweeps that judged two models on a task; RegistryError when the server fails."""
    by_league: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.kind == "sweep" and run.tags.get(Tag.LEAGUE) and run.tags.get(Tag.MAX_TOKENS, "").isdecimal():
            by_league.setdefault(run.tags[Tag.LEAGUE], []).append(run)
    made = (_league(tracking, name, mine) for name, mine in sorted(by_league.items()))
    return tuple(league for league in made if league)


def _league(tracking: Tracking, name: str, runs: Sequence[RunRecord]) -> League | None:
    tasks: dict[str, dict[str, tuple[RunRecord, Entry]]] = {}
    repeated, undefined = dict[str, None](), dict[str, None]()
    for run in sorted(runs, key=lambda run: run.start_time):
        if entry := _entry(tracking, run):
            task = run.tags.get(Tag.TASK, "")
            if math.isnan(entry.score.value):
                undefined[task] = None
                continue
            mine = tasks.setdefault(task, {})
            if entry.model in mine:
                repeated[f"{entry.model} on {task}"] = None
            mine[entry.model] = (run, entry)
    models = tuple(dict.fromkeys(model for mine in tasks.values() for model in mine))
    if all(len(mine) < 2 for mine in tasks.values()):  # one model of each task compares with nothing
        return None
    rows = _adjusted([_row(task, mine) for task, mine in sorted(tasks.items())])
    ranks, count = _mean_ranks(models, rows)
    seen = {run.tags.get(Tag.TASK, "") for run in runs if run.tags.get(Tag.SEEN_TESTS)}
    return League(
        name,
        models,
        rows,
        ranks,
        count,
        _critical_difference(len(models), count) if ranks else None,
        tuple(sorted(seen)),
        tuple(repeated),
        tuple(row.task for row in rows if not row.compares),
        tuple(sorted(undefined)),
    )


def _entry(tracking: Tracking, run: RunRecord) -> Entry | None:
    outcomes = stored_outcomes(tracking, run.id)
    if not outcomes:
        return None
    task, metric = run.tags.get(Tag.TASK), run.tags.get(Tag.METRIC)
    try:
        score = estimate_seeds(outcomes)
    except DataError:  # tags and artifacts can be edited
        return None
    return Entry(
        model=run.tags.get(Tag.ARM) or run.name,
        max_tokens=int(run.tags[Tag.MAX_TOKENS]),
        dev=finite(run.metrics.get(f"dev/{task}/{metric}")),
        score=score,
        outcomes=outcomes,
        trials=int(run.tags[Tag.TRIALS]) if run.tags.get(Tag.TRIALS, "").isdecimal() else None,
        device_seconds=recorded_number(run.tags.get(Tag.DEVICE_SECONDS)),
    )


@dataclass(frozen=True)
class _Unadjusted:
    """A row whose p-values wait for those of the other rows."""

    row: Row
    p_others: tuple[float, ...]


def _row(task: str, judged: Mapping[str, tuple[RunRecord, Entry]]) -> _Unadjusted:
    entries = {model: entry for model, (_, entry) in judged.items()}
    run = next(iter(judged.values()))[0]
    metric = run.tags.get(Tag.METRIC, "")
    best = max(entries.values(), key=lambda entry: entry.score.value)
    compares = all(best.outcomes[0].is_comparable(entry.outcomes[0]) for entry in entries.values())
    others = [_compare(best, entry) for entry in entries.values() if entry.model != best.model]
    row = Row(
        task=task,
        metric=metric,
        entries=entries,
        trivial=finite(run.metrics.get(f"trivial/{task}/{metric}")),
        linear=finite(run.metrics.get(f"linear/{task}/{metric}")),
        best=best.model,
        p_best=None,
        gain=_gain(list(entries.values())),
        p_gain=None,
        compares=compares,
    )
    # one comparison that is not possible leaves the best model unproven
    return _Unadjusted(row, tuple(o.p_value for o in others if o) if others and all(others) else ())


def _adjusted(rows: Sequence[_Unadjusted]) -> tuple[Row, ...]:
    """The rows with the p-values of all tests of the table adjusted together."""
    gains = [one.row.gain.compared if one.row.gain else None for one in rows]
    tests = [p for one in rows for p in one.p_others] + [gain.p_value for gain in gains if gain]
    adjusted = iter(holm(tests))
    best = [max((next(adjusted) for _ in one.p_others), default=None) for one in rows]
    gained = [next(adjusted) if gain else None for gain in gains]
    return tuple(
        replace(one.row, p_best=p_best, p_gain=p_gain)
        for one, p_best, p_gain in zip(rows, best, gained, strict=True)
    )


def _compare(ours: Entry, theirs: Entry) -> Comparison | None:
    try:
        return compare_seeds(ours.outcomes, theirs.outcomes)
    except DataError:  # judged on other files, or by another scorer
        return None


def _gain(entries: Sequence[Entry]) -> Gain | None:
    """The long model and the short one that are best on the development split, compared on the test set."""
    long, short = (
        max(some, key=lambda entry: -math.inf if entry.dev is None else entry.dev, default=None)
        for some in (
            [entry for entry in entries if entry.max_tokens > SHORT_TOKENS],
            [entry for entry in entries if entry.max_tokens <= SHORT_TOKENS],
        )
    )
    if long is None or short is None:
        return None
    try:
        bands = differences_by_length(long.outcomes[0], short.outcomes[0])
    except DataError:
        return None
    share = float((long.outcomes[0].tokens > SHORT_TOKENS).mean())
    return Gain(long.model, short.model, _compare(long, short), bands, share)


def _mean_ranks(models: Sequence[str], rows: Sequence[Row]) -> tuple[dict[str, float], int]:
    """Mean rank of each model over the tasks on which all were judged alike, and the number of these tasks."""
    from scipy.stats import rankdata

    whole = [row for row in rows if row.compares and len(row.entries) == len(models)]
    if len(whole) < 2:
        return {}, len(whole)
    ranks = [rankdata([-row.entries[model].score.value for model in models]) for row in whole]
    means = {model: float(sum(rank[i] for rank in ranks) / len(ranks)) for i, model in enumerate(models)}
    return means, len(whole)


def _critical_difference(models: int, tasks: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 %, from the studentized range (Demsar 2006, section 3.2.2)."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - _LEVEL, models, math.inf)) / math.sqrt(2)
    return q * math.sqrt(models * (models + 1) / (6 * tasks))


def league_markdown(league: League) -> str:
    """The table as Markdown: tasks by models, best in bold only where it is clear."""
    lines = [f"# {league.name}", "", league.verdict, ""]
    lines += _table(
        ["task", "metric", *map(_name, league.models), "trivial", "linear"],
        [
            [
                _name(row.task),
                row.metric,
                *(_cell(row, model) for model in league.models),
                _score(row.trivial),
                _score(row.linear),
            ]
            for row in league.rows
        ],
    )
    lines += [
        "",
        "Mean test score over seeds, with its 95 % interval over documents and seeds. Bold: better than every other "
        f"model of its row, by paired tests over documents and seeds at {_LEVEL:.0%} after Holm's correction for all "
        "tests of this page.",
    ]
    gains = [row for row in league.rows if row.gain]
    if gains:
        lines += ["", "## Gain of length", ""]
        lines += _table(
            ["task", "long", "short", "gain", "95 % interval", "p (Holm)", "notes above 512", "by length"],
            [_gain_cells(row, row.gain) for row in gains if row.gain],
        )
    if league.mean_ranks and league.critical_difference is not None:
        lines += ["", "## Mean ranks", ""]
        ranked = sorted(league.mean_ranks.items(), key=lambda pair: pair[1])
        lines += _table(["model", "mean rank"], [[_name(model), f"{rank:.2f}"] for model, rank in ranked])
        lines += [
            "",
            f"Over {league.ranked_tasks} tasks; ranks that differ by less than {league.critical_difference:.2f} are "
            "not distinguished (Nemenyi, 5 %).",
        ]
    lines += ["", f"{league.trials} trials, {league.device_hours:.2f} device-hours.", ""]
    return "\n".join(lines)


def _cell(row: Row, model: str) -> str:
    entry = row.entries.get(model)
    if entry is None:
        return "–"
    text = f"{entry.score.value:.3f}"
    if model == row.best and row.is_clear:
        text = f"**{text}**"
    return f"{text} ({entry.score.low:.3f} to {entry.score.high:.3f})"


def _gain_cells(row: Row, gain: Gain) -> list[str]:
    found = gain.compared
    by_band = "; ".join(f"{name}: {one.value:+.3f}" for name, one in gain.bands.items())
    return [
        _name(row.task),
        _name(gain.long),
        _name(gain.short),
        f"{found.difference.value:+.3f}" if found else "not known",
        f"{found.difference.low:+.3f} to {found.difference.high:+.3f}" if found else "–",
        "–" if row.p_gain is None else f"{row.p_gain:.3f}",
        f"{gain.long_notes:.0%}",
        by_band or "–",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [line(header), line(["---"] * len(header)), *map(line, rows)]


def _name(text: str) -> str:
    """A name as Markdown shows it: a bar would end its cell, and mark-up would be seen as such, or not at all."""
    return re.sub(r"([\\`*<|\[\]])", r"\\\1", " ".join(text.split()))


def _counted(tasks: Sequence[str], of: int) -> str:
    """`2 of 8 tasks (a, b)`."""
    named = f" ({', '.join(tasks)})" if tasks else ""
    return f"{len(tasks)} of {of} task{'' if of == 1 else 's'}{named}"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
