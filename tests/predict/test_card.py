"""The card beside the weights: what a folder answers."""

import json
import shutil

import pytest

from clinscale.errors import ConfigError, DataError
from clinscale.predict import TaskCard, load_predictor
from clinscale.tasks import load_task


@pytest.mark.parametrize("task", ["demo_documents", "demo_pairs", "demo_entities", "demo_questions", "tcga_organ"])
def test_what_is_written_is_read(task, tmp_path):
    card = TaskCard(task=load_task(task), labels=("b", "a"), max_tokens=512, stride_tokens=32)
    card.write(tmp_path)
    assert TaskCard.read(tmp_path) == card


def test_a_base_model_answers_no_task(base_models):
    with pytest.raises(DataError, match=r"has no task_card\.json, so it answers no task"):
        load_predictor(base_models["bigbird"])


@pytest.mark.parametrize("change", [lambda names: names[::-1], lambda names: names[:1], lambda names: ()])
@pytest.mark.parametrize("task", ["demo_documents", "demo_entities"])
def test_a_card_of_other_outputs_than_the_models_is_refused(task, change, folders, tmp_path):
    """Else each answer would have the name of another, or the first document a traceback."""
    folder = shutil.copytree(folders(task, "longformer"), tmp_path / "hf")
    card = TaskCard.read(folder)
    card.model_copy(update={"labels": tuple(change(card.labels))}).write(folder)
    with pytest.raises(DataError, match=r"must name the same outputs in one order"):
        load_predictor(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stride_tokens": 64}, "below max_tokens 64"),
        ({"stride_tokens": -1}, "from 0"),
        ({"threshold": 0.5}, "got 3"),
    ],
)
def test_a_card_that_would_leave_out_text_or_answer_by_no_label_is_refused(change, says):
    task = load_task("demo_documents").model_copy(update=change)
    fields = {"max_tokens": 64, "stride_tokens": 8} | {key: change[key] for key in change if key != "threshold"}
    with pytest.raises(ConfigError, match=says):
        TaskCard(task=task, labels=("a", "b", "c"), **fields)


def test_what_is_no_model_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no config\.json"):
        load_predictor(tmp_path)


def test_a_damaged_card_is_refused(tmp_path):
    (tmp_path / "task_card.json").write_text('{"labels": ["a"]}')
    with pytest.raises(ConfigError, match=r"task_card\.json"):
        TaskCard.read(tmp_path)
    (tmp_path / "task_card.json").write_text("{")
    with pytest.raises(DataError, match=r"task_card\.json"):
        TaskCard.read(tmp_path)


def test_a_card_of_another_version_says_where_that_is_named(tmp_path):
    TaskCard(task=load_task("demo_documents"), labels=("a", "b"), max_tokens=64, stride_tokens=8).write(tmp_path)
    values = json.loads((tmp_path / "task_card.json").read_text())
    (tmp_path / "task_card.json").write_text(json.dumps({**values, "reads_backwards": True}))
    with pytest.raises(ConfigError, match=r"reads_backwards is not a known key.*requirements\.txt beside it says"):
        TaskCard.read(tmp_path)
