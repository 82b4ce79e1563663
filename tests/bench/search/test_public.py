"""A stranger's table is read right, or refused with a sentence."""

import math

import pandas as pd
import pytest

from clinscale.bench.search import bench_budgets, convert_table
from clinscale.bench.search.public import read_public, write_public
from clinscale.bench.search.replay import Task
from clinscale.errors import ConfigError, DataError


def curves(num_configs=12, num_looks=5, tasks=("a", "b"), **changes):
    """Losses that fall to |log10(lr / 1e-3)|."""
    rows = [
        {
            "task": task,
            "config": config,
            "step": step * 10,
            "value": abs(config - 6) + 2.0**-step,
            "seconds": 2.0,
            "lr": 10.0 ** (config / 2 - 6),
            "layers": 1 + config % 3,
            "kind": ("adam", "sgd")[config % 2],
            "fixed": 1,
        }
        for task in tasks
        for config in range(num_configs)
        for step in range(1, num_looks + 1)
    ]
    return pd.DataFrame(rows).assign(**changes)


def read(frame, tmp_path, goal="minimise"):
    write_public(frame, tmp_path / "table.parquet", goal=goal)
    return read_public(tmp_path / "table.parquet")


def test_a_table_is_read_with_its_ranges_and_turned_so_that_more_is_better(tmp_path):
    task = read(curves(), tmp_path)["a"]
    assert set(task.space.parameters) == {"lr", "layers", "kind"}
    assert (task.space.parameters["lr"].log, task.space.parameters["layers"].log) == (True, False)
    assert task.params[3] == {"lr": pytest.approx(10**-4.5), "layers": 1.0, "kind": "sgd"}
    assert Task(task.table("a", 0), "a").best(1) == [6]
    assert Task(task.table("a", 0), "a").whole_s == 10
    assert Task(read(curves(), tmp_path, "maximise")["a"].table("a", 0), "a").best(1) == [0]


def test_other_orders_of_rows_and_exact_copies_of_rows_change_nothing(tmp_path):
    frame = curves()
    mixed = pd.concat([frame, frame.iloc[::7]]).sample(frac=1, random_state=0)
    assert read(mixed, tmp_path) == read(frame, tmp_path)


@pytest.mark.parametrize("mark", [math.nan, math.inf, -1e9, -7.9e9, 1e10])
@pytest.mark.parametrize("goal", ["maximise", "minimise"])
def test_a_training_ends_where_it_diverges_and_is_never_the_best(tmp_path, mark, goal):
    frame = curves()
    best = 6 if goal == "minimise" else 0
    frame.loc[(frame.config == best) & (frame.step == 30), "value"] = mark
    task = read(frame, tmp_path, goal)["a"]
    assert math.isnan(task.curves[best][0].value[-1])
    assert len(task.curves[best][0].value) == 3, "what follows is none of it"
    assert task.ends[best] == -math.inf
    assert Task(task.table("a", 0), "a").best(1) != [best]


def test_a_null_value_and_no_seconds_of_a_dead_training_are_a_divergence(tmp_path):
    frame = curves().astype({"value": "Float64", "seconds": "Float64"})
    frame.loc[(frame.config == 2) & (frame.step == 50), ["value", "seconds"]] = pd.NA
    assert read(frame, tmp_path)["b"].curves[2][0].seconds == (2.0,) * 5


def test_trainings_may_be_shorter_seeds_may_lack_and_a_setting_is_worth_the_lower_median(tmp_path):
    frames = [curves().assign(seed=seed, value=lambda rows, seed=seed: rows.value + seed) for seed in range(3)]
    frame = pd.concat(frames)
    frame = frame[~((frame.config == 6) & (frame.seed == 2)) & ~((frame.config == 1) & (frame.step > 20))]
    task = read(frame, tmp_path)["a"]
    assert [len(trainings) for trainings in task.curves] == [3] * 6 + [2] + [3] * 5
    assert task.ends[6] == pytest.approx(-1 - 2**-5), "the worse one of two"
    assert task.ends[5] == pytest.approx(-2 - 2**-5), "the middle one of three"
    assert len(task.table("a", 2).curves["a"][1].value) == 2


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: f.drop(columns="seconds"), "must have the columns"),
        (lambda f: f.iloc[:0], "must have rows"),
        (lambda f: f.drop(columns=["lr", "layers", "kind"]), "must have hyperparameter columns"),
        (lambda f: pd.concat([f, f.iloc[:1].assign(value=9.0)]), "got 1 more that differ"),
        (lambda f: f[~((f.config == 3) & (f.step == 20))], "at every step of its task"),
        (lambda f: f.assign(seconds=f.step * 0.2), "running totals"),
        (lambda f: f.assign(seconds=0.0), "not 0 in all"),
        (lambda f: f.assign(seconds=-1.0), "seconds must be at least 0"),
        (lambda f: f.assign(value="good"), "value must be numbers"),
        (lambda f: f.assign(step=math.nan), "step must be a number"),
        (lambda f: f.assign(config=f.config.where(f.config > 0)), "config must be given in every row"),
        (lambda f: f.assign(lr=f.lr.where(f.config > 0)), "lr must be given in every row"),
        (lambda f: f.assign(lr=f.lr + f.step), "one value of each hyperparameter"),
        (lambda f: f.assign(lr=math.inf), "must have hyperparameter columns|finite"),
        (lambda f: f.assign(lr=[[1]] * len(f)), "got lists"),
        (lambda f: f.assign(seconds=5 + f.step * 0.2), "running totals"),
        (
            lambda f: f.assign(final=f.groupby(["task", "config"]).value.transform("last")),
            "what the trainings came to",
        ),
        (lambda f: f.assign(value=f.value.where(f.task != "a")), "that does not diverge"),
        (lambda f: f.assign(value=f.value.where(f.step != 10)), "that does not diverge"),
        (lambda f: f.assign(seconds=(f.step * 0.13).round()), "running totals"),
        (
            lambda f: f.assign(seconds=f.step * (1.0 + (f.step == 40) * (f.config == 2) * (f.task == "a"))),
            "running totals",
        ),
        (lambda f: f.assign(step=3 ** (f.step // 10), seconds=2.0 * 3 ** (f.step // 10)), "running totals"),
        (
            lambda f: f.assign(lr=1e-3, layers=1 + f.config % 2),
            "configs must differ in a hyperparameter, got 12 of 12",
        ),
    ],
)
def test_what_cannot_be_read_right_is_refused(tmp_path, spoil, sentence):
    frame = spoil(curves())
    if sentence.endswith("finite"):
        frame = curves().assign(lr=lambda f: f.lr.where(f.config > 0, math.inf))
    with pytest.raises(DataError, match=sentence):
        read(frame, tmp_path)


def test_costs_that_grow_with_geometric_looks_are_no_running_totals(tmp_path):
    steps = {10: 1, 20: 3, 30: 9, 40: 27, 50: 81}
    frame = curves().assign(step=lambda f: f.step.map(steps))
    frame["seconds"] = frame.step.map({1: 1.0, 3: 2.0, 9: 6.0, 27: 18.0, 81: 54.0})
    assert Task(read(frame, tmp_path)["a"].table("a", 0), "a").whole_s == 81


def test_a_label_of_each_config_is_no_hyperparameter(tmp_path):
    frame = curves(num_configs=80, num_looks=2).assign(name=lambda f: "run-" + f.config.astype(str))
    with pytest.raises(DataError, match="column name has another word for each config"):
        read(frame, tmp_path)


def test_a_file_that_is_no_parquet_and_a_goal_that_nobody_says_are_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("task,config")
    with pytest.raises(DataError, match="must be a Parquet file"):
        read_public(tmp_path / "text.parquet", goal="minimise")
    curves().to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(ConfigError, match="goal must be maximise or minimise, got None"):
        read_public(tmp_path / "plain.parquet")
    assert set(read_public(tmp_path / "plain.parquet", goal="maximise")) == {"a", "b"}


@pytest.mark.parametrize("num_looks", [1, 25])
def test_every_search_is_compared_whether_there_is_one_look_or_many(tmp_path, num_looks):
    frame = curves(num_configs=14, num_looks=num_looks)
    frame.loc[frame.config.isin([1, 13]) & (frame.step == frame.step.max()), "value"] = math.nan
    same = frame[frame.task == "a"].assign(task="flat", value=1.0)
    write_public(pd.concat([frame, same]), tmp_path / "table.parquet", goal="minimise")
    record = bench_budgets(table=tmp_path / "table.parquet", seeds=2, tasks=["a", "flat"])
    names = {"random", "qmc", "stock_asha", "sync_halving", "top_2", "ours", "warm"}
    assert names <= record.details["regret"].keys()
    assert record.details["left_out"] == {"flat": "half of its settings are as good as the best"}
    assert record.details["tasks"]["a"]["diverging"] == 2
    assert {"stock_5", "stock_10", "stock_20", "random_20", "top_2", "warm", "decision_s"} <= record.ratios.keys()
    for at in record.details["regret"].values():
        assert all(0 <= low <= mean <= high <= 1 for mean, low, high in at.values())


def test_unknown_tasks_and_too_few_seeds_are_refused(tmp_path):
    write_public(curves(), tmp_path / "table.parquet", goal="minimise")
    with pytest.raises(ConfigError, match="no task c"):
        bench_budgets(table=tmp_path / "table.parquet", seeds=2, tasks=["c"])
    with pytest.raises(ConfigError, match="seeds must be at least 2"):
        bench_budgets(table=tmp_path / "table.parquet", seeds=1)


def test_a_published_table_is_converted_and_another_folder_is_refused(tmp_path):
    rows = [(0, 0, point, point * 5) for point in range(10)] + [(0, 1, point, -1e9) for point in range(10)]
    frame = pd.DataFrame(rows, columns=["seed", "config", "point", "returns"])
    frame.assign(task="t", steps=frame.point * 100 + 100).to_parquet(tmp_path / "curves.parquet")
    pd.DataFrame({"task": "t", "config": [0, 1], "lr": [0.1, 0.2]}).to_csv(tmp_path / "configs.csv", index=False)
    convert_table("arlbench_ppo", tmp_path, tmp_path / "table.parquet")
    assert read_public(tmp_path / "table.parquet")["t"].ends == (45.0, -math.inf)
    with pytest.raises(DataError, match="must hold the files of hpobench_mlp_final"):
        convert_table("hpobench_mlp_final", tmp_path, tmp_path / "other.parquet")


def test_a_column_that_counts_the_configs_is_no_hyperparameter(tmp_path):
    frame = curves(num_configs=80, num_looks=2, tasks=("a",)).assign(number=lambda f: f.config + 7)
    with pytest.raises(DataError, match="column number counts the configs"):
        read(frame, tmp_path)


def test_an_index_that_pandas_wrote_beside_the_columns_is_left_out(tmp_path):
    """`explode` keeps the index of the row that a curve was in: a number of each config."""
    frame = curves()
    frame.set_index(frame.config.to_numpy()).to_parquet(tmp_path / "indexed.parquet")
    assert read_public(tmp_path / "indexed.parquet", goal="minimise") == read(frame, tmp_path)


def test_numbers_in_other_clothes_are_numbers(tmp_path):
    from decimal import Decimal

    frame, plain = curves(), read(curves(), tmp_path)
    assert read(frame.assign(lr=frame.lr.map(repr), layers=frame.layers.astype("int8")), tmp_path) == plain
    assert read(frame.assign(layers=frame.layers.map(Decimal)), tmp_path) == plain
    kinds = {"task": "category", "kind": "category"}
    known = frame[frame.task != "b"].assign(task=lambda f: pd.Categorical(f.task, ["a", "b", "never"]))
    assert read(known.astype({"kind": "category"}), tmp_path)["a"] == plain["a"]
    assert read(frame.astype(kinds), tmp_path) == plain
    half = read(frame.assign(layers=frame.layers.astype("float16")), tmp_path)
    assert half["a"].params == plain["a"].params


def test_a_goal_that_is_not_the_files_own_is_refused(tmp_path):
    write_public(curves(), tmp_path / "table.parquet", goal="minimise")
    with pytest.raises(ConfigError, match="its metadata say minimise, and --goal maximise"):
        read_public(tmp_path / "table.parquet", goal="maximise")
    assert read_public(tmp_path / "table.parquet", goal="minimise")
