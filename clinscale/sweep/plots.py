"""Pictures of a study, drawn by Optuna and matplotlib: how the search went, and what mattered."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clinscale.permissions import make_folder
from clinscale.sweep.ledger import Trial
from clinscale.sweep.sampler import Objective, study_of
from clinscale.sweep.space import SearchSpace
from clinscale.visible import visible

_LABELS: dict[Objective, str] = {
    "score": "score on the development split",
    "latency": "seconds per document",
    "cost": "device-seconds of the trial",
}


def draw(
    folder: Path,
    *,
    name: str,
    trials: Sequence[Trial],
    space: SearchSpace,
    objectives: Sequence[Objective],
    metric: str,
) -> list[Path]:
    """Write the study's pictures as PNG files into `folder`; those that its trials allow.

    Optimisation history, importances, parallel coordinates and slices, learning curves, and with several objectives the
    Pareto front.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as optuna_plots

    study = study_of(trials, space, objectives, name=name)
    searched = [trial for trial in trials if trial.searched and trial.epochs]
    complete = [trial for trial in searched if trial.state == "complete"]
    one = len(objectives) == 1
    target: dict[str, Any] = {} if one else {"target": lambda trial: trial.values[0], "target_name": metric}
    pictures: dict[str, Callable[[], Any]] = {}
    if complete:
        named = target or {"target_name": metric}
        pictures["optimization_history"] = lambda: optuna_plots.plot_optimization_history(study, **named)
        pictures["parallel_coordinate"] = lambda: optuna_plots.plot_parallel_coordinate(study, **named)
        pictures["slice"] = lambda: optuna_plots.plot_slice(study, **named)
    if len(complete) > 1 and len({trial.objective for trial in complete}) > 1:
        pictures["param_importances"] = lambda: optuna_plots.plot_param_importances(study, **target)
    if searched:
        pictures["learning_curves"] = lambda: _learning_curves(pyplot, searched, f"{name}: {metric}")
    if complete and not one and len(objectives) <= 3:
        pictures["pareto_front"] = lambda: optuna_plots.plot_pareto_front(
            study, target_names=[_LABELS[objective] for objective in objectives]
        )
    make_folder(folder)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    written = []
    for title, picture in pictures.items():
        with warnings.catch_warnings():  # experimental features, and layouts that are already tight
            warnings.simplefilter("ignore")
            picture()
            figure = pyplot.gcf()
            width, height = figure.get_size_inches()
            figure.set_size_inches(max(7.0, width), max(4.5, height))
            if title == "slice":  # narrow axes side by side, where ticks of a learning rate would overlap
                for axes in figure.axes:
                    axes.tick_params(axis="x", which="both", labelrotation=90)
            written.append(folder / f"{title}.png")
            figure.savefig(written[-1], dpi=120, bbox_inches="tight")
            pyplot.close("all")
    return written


def _learning_curves(pyplot: Any, trials: Sequence[Trial], title: str) -> None:
    """The best score so far after each epoch; trials that ended early stop early."""
    _, axes = pyplot.subplots()
    best = max(trials, key=lambda trial: trial.objective or 0.0)
    for trial in trials:
        won = trial.number == best.number
        axes.plot(
            [epoch.epoch for epoch in trial.epochs],
            [epoch.objective for epoch in trial.epochs],
            marker="o",
            markersize=3,
            linewidth=2.5 if won else 0.9,
            color="tab:blue" if won else "0.6",
            zorder=2 if won else 1,
            label=f"trial {trial.number}, the best" if won else None,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("best score so far")
    axes.set_title(visible(title), parse_math=False)  # a task may be called `$x$`
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right")
