"""Public tables as they are published, turned into the form that `bench search` replays.

Each function takes the folder of one published table and returns rows of the form of `public`; a table of yours is
another such function of a few lines, or any Parquet file with those columns.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clinscale.bench.search.public import Goal, write_public
from clinscale.errors import DataError

if TYPE_CHECKING:
    import pandas


def arlbench_ppo(folder: Path) -> "pandas.DataFrame":
    """ARLBench (Becktepe et al. 2024): PPO on 11 environments, 10 looks, up to 10 seeds; every look costs the same."""
    import pandas

    curves = pandas.read_parquet(folder / "curves.parquet")
    rows = curves.rename(columns={"steps": "step", "returns": "value"}).drop(columns="point")
    return rows.assign(seconds=1.0).merge(pandas.read_csv(folder / "configs.csv"), on=["task", "config"])


def hpobench_mlp_final(folder: Path) -> "pandas.DataFrame":
    """HPOBench (Eggensperger et al. 2021): final validation accuracy of 30,000 perceptrons on 8 tasks, with seconds."""
    import pandas

    final = pandas.read_parquet(folder / "final.parquet")
    grids = {
        "alpha": [10.0 ** (-8 + 8 * step / 9) for step in range(10)],
        "batch_size": [4, 6, 10, 16, 25, 40, 64, 101, 161, 256],
        "depth": [1, 2, 3],
        "learning_rate_init": [10.0 ** (-5 + 5 * step / 9) for step in range(10)],
        "width": [16, 25, 40, 64, 101, 161, 256, 406, 645, 1024],
    }
    settings = {
        name: final["key"].str[place].astype(int).map(dict(enumerate(grid)))
        for place, (name, grid) in enumerate(grids.items())
    }
    named = {"key": "config", "val_acc_mean": "value", "train_seconds_mean": "seconds"}
    rows = final[["task", *named]].rename(columns=named)
    return rows.assign(step=1, **settings)


CONVERTERS: dict[str, tuple[Callable[[Path], "pandas.DataFrame"], Goal]] = {
    "arlbench_ppo": (arlbench_ppo, "maximise"),
    "hpobench_mlp_final": (hpobench_mlp_final, "maximise"),
}
"""Functions by name of the table, with its goal."""


def convert_table(name: str, folder: str | Path, path: str | Path) -> None:
    """Write the published table called `name` in `folder` as the Parquet file `path`; DataError where it is not."""
    read, goal = CONVERTERS[name]
    try:
        rows = read(Path(folder))
    except (OSError, KeyError) as error:
        raise DataError(
            f"{folder} must hold the files of {name} as published, got {type(error).__name__}; name their folder"
        ) from None
    write_public(rows, path, goal=goal)
