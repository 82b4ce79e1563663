"""Learning-curve tables of other people, in one Parquet form, as tasks that searches are replayed on.

One row is one look at one training. Columns:

* `task`, `config`: labels; a config is one setting of the hyperparameters on one task.
* `seed`: optional label of a repetition of the same config.
* `step`: a number that grows within a training: epochs, steps, share of the run.
* `value`: the score at that look. What is no number (null, NaN, infinite, or at least 1e9 in size, as some tables
  write it) says that the training diverged there; it is infeasible, and rows after it do not count.
* `seconds`: device-seconds since the look before (since the start at the first), no running total; 1.0 throughout where
  every look costs the same.
* every other column is a hyperparameter: numbers, booleans or words. It is searched in the logarithm where all its
  values are above 0 and lie more evenly there. A column that is empty throughout a task, or has one value throughout
  the table, is left out there.

Larger values are better with the goal `maximise`, smaller ones with `minimise`; the goal is in the file's metadata
under `goal`, or is an argument of the reader. A training that has fewer looks than others of its task ended by itself.
What a setting is worth is the best value of its training, as a fine-tuning keeps its best weights; the lower median
over its seeds.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from clinscale.bench.search.table import Curve, Table
from clinscale.errors import ConfigError, DataError
from clinscale.storage import open_binary
from clinscale.sweep import SearchSpace

if TYPE_CHECKING:
    import pandas
    import pyarrow

Goal = Literal["maximise", "minimise"]

COLUMNS = ("task", "config", "step", "value", "seconds")
_TRAINING = ["task", "config", "seed"]
"""Columns that one training has in common."""
DIVERGED_FROM = 1e9
"""Values of at least this size, either way, are a mark of divergence and no score."""
_LEAST_KNOWN = 8
"""Configs whose values all equal what they came to, which is no chance."""
_LOOKED_AT = 500
"""Trainings by which it is judged whether seconds are running totals."""
_TOTALS_RISE = 0.95
"""Share of looks from which on seconds that are no fewer than at the look before may be running totals; clocks of runs
that went on after a stop fall once."""
_MOST_WORDS = 64
"""Different words above which a column with another one for each config is a label."""


@dataclass(frozen=True)
class PublicTask:
    """One task of a public table; values are turned so that larger is better."""

    space: SearchSpace
    params: tuple[Mapping[str, Any], ...]
    """Hyperparameters by config."""
    curves: tuple[tuple[Curve, ...], ...]
    """Trainings by config, one for each of its seeds; a last value that is NaN is a divergence."""
    ends: tuple[float, ...]
    """Worth of each config; minus infinity where it diverges."""

    def table(self, name: str, seed: int) -> Table:
        """The task as one repetition saw it: one training of each config."""
        seen = tuple(trainings[seed % len(trainings)] for trainings in self.curves)
        return Table(self.space, self.params, {name: seen}, {name: self.ends})

    @property
    def worth_searching(self) -> str | None:
        """The reason why all searches are alike here; None where one can."""
        finite = [end for end in self.ends if math.isfinite(end)]
        if len(self.params) < 2 or not finite:
            return "it has no two settings that differ"
        if max(finite) <= float(np.median(np.array(self.ends))):
            return "half of its settings are as good as the best"
        return None


def read_public(path: str | Path, *, goal: Goal | None = None) -> dict[str, PublicTask]:
    """The tasks of a table in the form that this module describes, by name.

    Raises:
        ConfigError: the goal is said nowhere, or is none. DataError: the file is no such table.
    """
    frame, said = _read(path)
    if goal and said in get_args(Goal) and said != goal:
        raise ConfigError(
            f"{path}: its metadata say {said}, and --goal {goal}; leave --goal out, or correct the goal in the file"
        )
    goal = goal or said  # type: ignore[assignment]
    if goal not in get_args(Goal):
        raise ConfigError(
            f"{path}: the goal must be maximise or minimise, got {goal}; say --goal, or write it into the file's "
            "metadata as goal"
        )
    frame = _checked(frame, str(path))
    if goal == "minimise":
        frame["value"] = -frame["value"]
    names = [name for name in frame.columns if name not in (*COLUMNS, "seed")]
    # ranges are those of the whole table, so that a point of one task is one of its siblings
    dimensions = {name: dimension for name in names if (dimension := _dimension(frame[name], name, path))}
    if not dimensions:
        raise DataError(
            f"{path} must have hyperparameter columns beside {', '.join(COLUMNS)}, got none that varies; "
            "join the settings of each config to its rows"
        )
    return {
        str(name): _task(rows, dimensions, f"{path}: task {name}")
        for name, rows in frame.groupby("task", sort=True)
    }


def write_public(frame: "pandas.DataFrame", path: str | Path, *, goal: Goal) -> None:
    """Write rows of the form that this module describes."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    pyarrow.parquet.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), b"goal": goal.encode()}), path
    )


def _read(path: str | Path) -> tuple["pandas.DataFrame", str | None]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_binary(str(path)) as stream:
            table = pyarrow.parquet.read_table(stream)
        if nested := [field.name for field in table.schema if pyarrow.types.is_nested(field.type)]:
            raise DataError(
                f"{path}: column {nested[0]} must hold one value in a row, got lists; spread or drop it"
            )
        frame = _plain_columns(table).to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} must be a Parquet file, got one that cannot be read ({type(error).__name__}); write it again"
        ) from None
    said = (table.schema.metadata or {}).get(b"goal")
    return frame, said.decode(errors="replace") if said else None


def _plain_columns(table: "pyarrow.Table") -> "pyarrow.Table":
    """The columns of a table without those of an index, which pandas writes beside them, and with plain types.

    Words that are stored once each (dictionaries) are written out, and decimals are numbers.
    """
    import pyarrow

    table = table.drop_columns([name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)])
    for place, field in enumerate(table.schema):
        kind = field.type.value_type if pyarrow.types.is_dictionary(field.type) else field.type
        kind = pyarrow.float64() if pyarrow.types.is_decimal(kind) else kind
        if kind != field.type:
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    return table


def _checked(frame: "pandas.DataFrame", path: str) -> "pandas.DataFrame":
    """The rows, each once, with numbers where numbers belong; in order of task, config, seed and step."""
    import pandas

    if lacking := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(
            f"{path} must have the columns {', '.join(COLUMNS)}, lacks {', '.join(lacking)}; rename or add them"
        )
    if not len(frame):
        raise DataError(f"{path} must have rows, got none; write it again")
    frame = frame.drop_duplicates()
    for name in ("task", "config", *(["seed"] if "seed" in frame else [])):
        if empty := int(frame[name].isna().sum()):
            raise DataError(f"{path}: {name} must be given in every row, got {empty} without; fill or drop them")
    if "seed" not in frame:
        frame = frame.assign(seed=0)
    numbers = {}
    for name in ("step", "value", "seconds"):
        numbers[name] = pandas.to_numeric(frame[name], errors="coerce").astype("float64")
        if words := int((numbers[name].isna() & frame[name].notna()).sum()):
            raise DataError(
                f"{path}: {name} must be numbers, got {words} rows that are none; correct or drop them"
            )
    frame = frame.assign(**numbers)
    frame.loc[~(frame["value"].abs() < DIVERGED_FROM), "value"] = math.nan
    if odd := int((~np.isfinite(frame["step"])).sum()):
        raise DataError(f"{path}: step must be a number in every row, got {odd} without; fill or drop them")
    if twice := int(frame.duplicated([*_TRAINING, "step"]).sum()):
        raise DataError(
            f"{path} must have one row for each task, config, seed and step, got {twice} more that differ; drop them, "
            "or give repetitions a column seed"
        )
    frame = frame.sort_values([*_TRAINING, "step"], kind="stable")
    bad = frame["value"].isna()
    before = bad.groupby([frame[name] for name in _TRAINING]).cumsum() - bad
    frame = frame[before == 0]  # what follows a divergence is none of the training
    # a run that died often lacks the time of its last look
    usual_s = frame.groupby("task")["seconds"].transform("median")
    frame["seconds"] = frame["seconds"].where(~(frame["value"].isna() & frame["seconds"].isna()), usual_s)
    bad = int((~(np.isfinite(frame["seconds"]) & (frame["seconds"] >= 0))).sum())
    if bad or not frame["seconds"].sum():
        raise DataError(
            f"{path}: seconds must be at least 0 in every row and not 0 in all, got {bad} rows that are not; where "
            "nothing is known, 1.0 says that every look costs the same"
        )
    _check_no_totals(frame, path)
    return frame


def _check_no_totals(frame: "pandas.DataFrame", path: str) -> None:
    """DataError where `seconds` hardly ever fall in a training and fit the steps better as running totals."""
    seconds, steps, starts = frame["seconds"].to_numpy(), frame["step"].to_numpy(), _starts(frame, _TRAINING)
    within = np.ones(len(frame), bool)
    within[starts] = False
    rises = np.diff(seconds)[within[1:]]
    if not len(rises) or (rises >= 0).mean() < _TOTALS_RISE:
        return
    spreads, slopes, with_first = (list[list[float]]() for _ in range(3))
    for first, after in itertools.islice(itertools.pairwise([*starts, len(frame)]), _LOOKED_AT):
        part, at = seconds[first:after], steps[first:after]
        if len(at) >= 3:
            spreads.append(_unlike(part[1:] / at[1:], part[1:] / np.diff(at)))
            slopes.append(_unlike(np.diff(part) / np.diff(at), part[1:] / np.diff(at)))
        if (
            len(at) >= 2 and at[0] > 0
        ):  # where each look is so many times as far as the last, only the first shows it
            with_first.append(_unlike(part / at, part / np.diff(at, prepend=0.0)))
    judged = ((spreads, 0.5), (slopes, 0.5), (with_first, 0.25))
    if any(found and np.less(*np.median(found, axis=0) * (1, least) + (1e-6, 0)) for found, least in judged):
        raise DataError(
            f"{path}: seconds must be those since the look before, got running totals; take their differences within "
            "each task, config and seed"
        )


def _unlike(*rates: np.ndarray) -> list[float]:
    """The distance of each row of rates from one rate throughout: its deviation over its mean."""
    return [float(np.std(rate) / max(np.mean(rate), 1e-12)) for rate in rates]


def _starts(frame: "pandas.DataFrame", keys: Sequence[str]) -> list[int]:
    """Places at which a new combination of `keys` begins, in rows that are sorted by them."""
    new = ~frame.duplicated(list(keys)).to_numpy()
    return np.flatnonzero(new).tolist()


def _dimension(column: "pandas.Series", name: str, path: str | Path) -> dict[str, Any] | None:
    """A hyperparameter's range or choices; None where it has one value."""
    import pandas

    values = column.dropna()
    unique = values.unique()
    if len(unique) < 2:
        return None
    if pandas.api.types.is_bool_dtype(values) or all(isinstance(value, bool | np.bool_) for value in unique):
        return {"type": "categorical", "choices": [False, True]}
    if not all(isinstance(value, int | float | np.number) for value in unique):
        numbers = pandas.to_numeric(pandas.Series(unique), errors="coerce")
        if numbers.isna().any() or not all(isinstance(value, str) for value in unique):
            words = sorted(map(str, unique))
            return {"type": "categorical", "choices": words}
        unique = numbers.unique()  # written as words, as tables that went through text have them
    if len(unique) < 2:
        return None
    low, high = float(min(unique)), float(max(unique))
    if not math.isfinite(low) or not math.isfinite(high):
        raise DataError(f"{path}: column {name} must hold finite numbers, got an infinite one; correct or drop it")
    even = np.sort(unique.astype("float64"))
    log = low > 0 and _unevenness(np.log(even)) < _unevenness(even)
    return {"type": "float", "low": low, "high": high, "log": bool(log)}


def _unevenness(values: np.ndarray) -> float:
    """Largest distance of sorted values from as many evenly spaced ones, as a share of their range."""
    shares = (values - values[0]) / (values[-1] - values[0])
    return float(np.abs(shares - np.linspace(0, 1, len(values))).max())


def _task(rows: "pandas.DataFrame", dimensions: Mapping[str, Mapping[str, Any]], where: str) -> PublicTask:
    here = {name: one for name, one in dimensions.items() if rows[name].notna().any()}
    for name in here:
        if empty := int(rows[name].isna().sum()):
            raise DataError(
                f"{where}: {name} must be given in every row of a task that has it, got {empty} rows without; fill in "
                "the value that the training ran with"
            )
    firsts = rows.iloc[_starts(rows, ["config"])]
    if two := int((rows.groupby("config")[list(here)].nunique() > 1).any(axis=1).sum()):
        raise DataError(
            f"{where}: a config must have one value of each hyperparameter, got {two} configs with several; number the "
            "configs anew"
        )
    params = [
        {name: _plain(value, here[name]) for name, value in zip(here, row, strict=True)}
        for row in firsts[list(here)].itertuples(index=False)
    ]
    curves = _curves(rows, where)
    longest = max(len(curve.value) for trainings in curves for curve in trainings)
    if all(math.isnan(curve.value[-1]) for trainings in curves for curve in trainings):
        raise DataError(
            f"{where} must have a training that does not diverge, got none in {longest} looks; drop looks at which "
            "nothing was measured, or the task"
        )
    _check_labels(here, params, where)
    _check_no_outcome(here, params, curves, where)
    return PublicTask(SearchSpace.of_any(here), tuple(params), tuple(curves), tuple(_end(one) for one in curves))


def _curves(rows: "pandas.DataFrame", where: str) -> list[tuple[Curve, ...]]:
    """The trainings of each config, in the order of the rows."""
    at, values, seconds = (rows[name].to_numpy() for name in ("step", "value", "seconds"))
    configs, starts = set(_starts(rows, ["config"])), _starts(rows, ["config", "seed"])
    places = np.arange(len(rows)) - np.repeat(starts, np.diff([*starts, len(rows)]))
    if odd := int((np.unique(at)[places] != at).sum()):
        raise DataError(
            f"{where}: each training must have a row at every step of its task until it ends, got {odd} rows after one "
            "that is left out; keep the steps that all trainings have"
        )
    found: list[list[Curve]] = []
    for first, after in itertools.pairwise([*starts, len(rows)]):
        if first in configs:
            found.append([])
        found[-1].append(Curve(tuple(values[first:after].tolist()), tuple(seconds[first:after].tolist())))
    return [tuple(trainings) for trainings in found]


def _plain(value: Any, dimension: Mapping[str, Any]) -> Any:
    if dimension["type"] == "float":
        return float(value)
    return bool(value) if dimension["choices"] == [False, True] else str(value)


def _check_labels(
    dimensions: Mapping[str, Mapping[str, Any]], params: Sequence[Mapping[str, Any]], where: str
) -> None:
    settings = Counter(tuple(sorted(point.items())) for point in params)
    twins = sum(count for count in settings.values() if count > 1)
    if twins > len(params) / 2:
        raise DataError(
            f"{where}: configs must differ in a hyperparameter, got {twins} of {len(params)} with the settings of "
            "another; give repetitions one config and a column seed, or join the columns in which they differ"
        )
    for name, dimension in dimensions.items():
        numbers = sorted({point[name] for point in params}) if dimension["type"] == "float" else []
        if len(dimensions) > 1 and len(params) == len(numbers) > _MOST_WORDS and set(np.diff(numbers)) == {1.0}:
            raise DataError(f"{where}: column {name} counts the configs, which a hyperparameter does not; drop it")
        words = {point[name] for point in params} if dimension["type"] == "categorical" else set()
        if len(words) > _MOST_WORDS and len(words) == len(params):
            raise DataError(
                f"{where}: column {name} has another word for each config, which a hyperparameter has not; drop it"
            )


def _check_no_outcome(
    dimensions: Mapping[str, Mapping[str, Any]],
    params: Sequence[Mapping[str, Any]],
    curves: Sequence[Sequence[Curve]],
    where: str,
) -> None:
    """DataError where a column is what the trainings came to, by which every search would know the best setting."""
    lasts = np.abs([trainings[0].value[-1] for trainings in curves])  # values may be turned
    bests = np.abs([max(trainings[0].value) for trainings in curves])
    for name, dimension in dimensions.items():
        if dimension["type"] == "float" and len(params) >= _LEAST_KNOWN:
            given = np.abs([point[name] for point in params])
            if any(np.allclose(given, came_to, rtol=1e-6, atol=0, equal_nan=True) for came_to in (lasts, bests)):
                raise DataError(
                    f"{where}: column {name} is what the trainings came to, which no search knows before; drop it"
                )


def _end(trainings: Sequence[Curve]) -> float:
    """The lower median of what the repetitions came to."""
    ends = sorted(-math.inf if math.isnan(one.value[-1]) else max(one.value) for one in trainings)
    return ends[(len(ends) - 1) // 2]
