"""Task contracts: what is refused says how to repair it, and the catalog is read by name or by file."""

import subprocess
import sys

import pytest

from clinscale.errors import ConfigError
from clinscale.synthetic import write_demo_data
from clinscale.tasks import TaskConfig, catalog, kind_of, load_task, metric_of, read_task


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("sequence", {"format": "brat"}, "reads format records"),
        ("tokens", {"format": "squad"}, "records or bio or brat or i2b2_xml"),
        ("sequence", {"splits": {"train": "a", "test": "b"}}, "train, dev, test"),
        ("sequence", {"splits": {"all": "a"}}, "split_ratios"),
        ("sequence", {"splits": {"all": "a"}, "split_ratios": (0.5, 0.1, 0.1)}, "sum to 1"),
        ("sequence", {"splits": {"all": "a"}, "split_ratios": (1.0, 0.0, 0.0)}, "positive"),
        ("tokens", {"group_column": "patient"}, "group_column and split_column are for records"),
        (
            "sequence",
            {"format": "mimic_aki", "splits": {}, "group_column": "a"},
            "splits of its own; remove group_column",
        ),
        ("sequence", {"columns": {"label": "text"}}, "columns.label is a column of the text, too"),
        ("sequence", {"columns": {"text_pair": "b"}}, "text_pair"),
        ("pair", {"columns": {}}, "text_pair"),
        ("pair", {"multi_label": True}, "multi_label"),
        ("sequence", {"columns": {"labels": ("a", "b")}}, "multi_label: true"),
        ("sequence", {"multi_label": True, "label_separator": ""}, "label_separator"),
        ("sequence", {"labels": ("a", "a")}, "distinct"),
        ("sequence", {"labels": ()}, "at least one"),
        ("spans", {"max_answer_tokens": 0}, "at least 1"),
        ("sequence", {"colums": {}}, "did you mean columns"),
        ("sequence", {"options": {"a": 1}}, "options belong to distributions"),
        ("sequence", {"unit": "line"}, "unit: line is for kind tokens"),
        ("sequence", {"splits": {"all": "a"}, "split_ratios": (0.5, 0.2, 0.3), "split_column": "x"}, "keep one"),
        (
            "sequence",
            {"splits": {"all": "a"}, "split_ids": {"train": "a"}},
            "split_ids must name train, dev, test",
        ),
        ("tokens", {"drop_rows": {"a": ["1"]}}, "are for format records"),
        ("tokens", {"group_pattern": "x"}, "parentheses"),
        ("tokens", {"splits": {"all": "a"}, "split_ratios": (0.5, 0.2, 0.3), "group_pattern": "("}, "no regular"),
        ("tokens", {"splits": {"all": "a"}, "split_ratios": (0.5, 0.2, 0.3), "group_pattern": "x"}, "parentheses"),
        ("tokens", {"format": "records"}, "columns.entities, or columns.tokens"),
        ("spans", {"format": "records"}, "question of kind spans"),
        ("sequence", {"encoding": "latin-11"}, "encoding 'latin-11' is unknown"),
    ],
)
def test_contradictions_are_refused_with_the_repair(task_of, kind, fields, message):
    with pytest.raises(ConfigError, match=message):
        task_of(kind, **fields)


def test_a_metric_of_another_kind_is_refused(task_of):
    with pytest.raises(ConfigError, match=r"known: accuracy, .*micro_f1"):
        kind_of(task_of("sequence", metric="exact_match"))


@pytest.mark.parametrize(
    ("kind", "fields", "metric"),
    [
        ("sequence", {}, "accuracy"),
        ("sequence", {"multi_label": True}, "micro_f1"),
        ("sequence", {"metric": "roc_auc"}, "roc_auc"),
        ("pair", {}, "accuracy"),
        ("tokens", {}, "f1"),
        ("spans", {}, "f1"),
    ],
)
def test_the_metric_is_the_tasks_or_its_kinds(task_of, kind, fields, metric):
    assert metric_of(task_of(kind, **fields)) == metric


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean demo_pairs"):
        load_task("demo_pair")


def test_a_yaml_file_is_a_task(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, kind: spans, format: squad, splits: {train: a, dev: b, test: c}}")
    assert load_task(str(path)).name == "mine"
    with pytest.raises(ConfigError, match="does not exist"):
        load_task(str(tmp_path / "other.yaml"))


def test_a_yaml_file_can_change_a_task_of_the_catalog(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{extends: demo_entities, name: lines, unit: line}")
    task = load_task(str(path))
    assert (task.name, task.unit, task.format) == ("lines", "line", "brat")
    assert load_task("demo_entities", ["unit=line"]).unit == "line"
    assert load_task("demo_entities", {"unit": "line"}).unit == "line"


def test_a_format_that_nobody_reads_is_answered_with_the_nearest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, kind: tokens, format: bratt, splits: {train: a, dev: b, test: c}}")
    with pytest.raises(ConfigError, match="format 'bratt' is unknown; did you mean brat"):
        load_task(str(path))


def test_every_demo_task_reads_the_demo_data(tmp_path):
    write_demo_data(tmp_path, scale=0.05)
    demo = [task for name, task in catalog().items() if name.startswith("demo_")]
    assert {task.kind for task in demo} == {"sequence", "pair", "tokens", "spans"}
    for task in demo:
        data = read_task(task, str(tmp_path))
        assert all(data.splits[split] for split in ("train", "dev", "test"))
        assert kind_of(task).num_outputs(data.labels) >= 2


def test_the_room_is_light():
    """`clinscale tasks` must answer at once: no deep learning library is loaded with the room."""
    code = "import sys, clinscale.tasks; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout.split()
    assert "clinscale.tasks" in loaded
    assert not {"torch", "transformers", "sklearn", "seqeval", "pandas", "ray", "mlflow"} & set(loaded)


def test_a_task_without_options_of_its_kind_is_recorded_as_before_there_were_any():
    values = {"name": "t", "kind": "sequence", "format": "records", "splits": {"all": "a.csv"}}
    task = TaskConfig.parse({**values, "split_ratios": (0.5, 0.25, 0.25)}, source="test")
    assert "kind_options" not in task.plain()
    assert TaskConfig.parse(task.plain(), source="test") == task


def test_an_unknown_kind_and_an_unknown_option_of_a_kind_are_named():
    values = {"name": "t", "format": "records", "splits": {"all": "a.csv"}, "split_ratios": (0.5, 0.25, 0.25)}
    with pytest.raises(ConfigError, match="kind must be a known one, got 'tokns'; did you mean tokens"):
        TaskConfig.parse({**values, "kind": "tokns"}, source="test")
    with pytest.raises(ConfigError, match=r"kind_options.*max_pairs"):
        TaskConfig.parse({**values, "kind": "sequence", "kind_options": {"max_pairs": 3}}, source="test")


@pytest.mark.parametrize(
    ("splits", "folder"),
    [
        ({"train": "data", "dev": "data/dev", "test": "data/test"}, "train"),
        ({"train": "./train", "dev": "dev.csv", "test": "."}, "test"),
    ],
)
def test_a_split_that_holds_another_is_refused(task_of, splits, folder):
    with pytest.raises(ConfigError, match=rf"splits\.{folder} is a folder that holds splits\."):
        task_of("sequence", splits=splits)
    task_of("sequence", splits={"train": "data", "dev": "data-dev", "test": "data2"})


def test_a_pair_of_one_column_is_refused(task_of):
    with pytest.raises(ConfigError, match="text_pair is a column of the text, too"):
        task_of("pair", columns={"text": ["premise", "note"], "text_pair": "note"})
