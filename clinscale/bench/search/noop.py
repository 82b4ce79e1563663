"""Cost of a trial that does nothing, under stock Ray Tune and in a sweep."""

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinscale.bench.measure import ratio
from clinscale.bench.record import Ratio
from clinscale.errors import ConfigError
from clinscale.runtime import ray_session
from clinscale.sweep import (
    Ledger,
    Proposer,
    Report,
    SearchSpace,
    Segment,
    SweepConfig,
    SweepController,
    quiet_optuna,
    run_segments,
)


def noop_ratio(count: int, *, asked: float | None = None, repeats: int = 3) -> Ratio:
    """Seconds of a trial that does nothing: stock Tune with OptunaSearch over a sweep, in turns, on two slots."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    space = SearchSpace.parse(
        {"fixed": {"epochs": 1}, "parameters": {"dropout": {"type": "float", "low": 0.0, "high": 0.5}}},
        source="bench search",
    )
    ratios, seconds = [], []
    with quiet_optuna(), ray_session(num_cpus=2), tempfile.TemporaryDirectory(prefix="clinscale-noop-") as folder:
        for turn in range(repeats):
            start_s = time.perf_counter()
            tune.Tuner(
                _nothing,
                tune_config=tune.TuneConfig(
                    num_samples=count,
                    max_concurrent_trials=2,
                    search_alg=OptunaSearch(
                        space.distributions({"dropout": 0}), metric="objective", mode="max", seed=0
                    ),
                ),
                run_config=tune.RunConfig(name=f"stock-{turn}", storage_path=folder, verbose=0),
            ).fit()
            stock_s = time.perf_counter() - start_s
            _run_empty_sweep(space, count, Path(folder) / f"ours-{turn}")
            ours_s = time.perf_counter() - start_s - stock_s
            ratios.append(stock_s / ours_s)
            seconds.append((stock_s / count, ours_s / count))
    return ratio(
        ratios,
        asked,
        stock_s=statistics.median(stock for stock, _ in seconds),
        ours_s=statistics.median(ours for _, ours in seconds),
    )


def _run_empty_sweep(space: SearchSpace, count: int, folder: Path) -> None:
    study = {"name": "nothing", "task": "nothing", "data": ".", "models": ["nothing"]}
    config = SweepConfig.parse(
        {"name": folder.name, "recipe": {"studies": [study], "budget": {"trials": count}, "scheduler": "none"}},
        source="bench search",
    )
    folder.mkdir()
    ledger = Ledger(folder / "ledger.jsonl")
    controller = SweepController(config, ledger, [Proposer(space)], slots=lambda: 2, on_change=lambda: None)
    run_segments(controller, _no_segment, folder=folder, resources={"CPU": 1})
    controller.close()
    ledger.close()
    if len(ledger.trials) != count or any(trial.state != "complete" for trial in ledger.trials):
        raise ConfigError(f"the empty sweep must run {count} trials, got {len(ledger.trials)}; look at Ray's logs")


_NOTHING = {"objective": 0.0, "epoch": 1, "step": 1, "device_seconds": 0.0}


def _nothing(config: Mapping[str, Any]) -> None:
    from ray import tune

    tune.report(_NOTHING)


def _no_segment(report: Report, segment: Segment) -> None:
    report(_NOTHING)
