"""Names that users did not give."""

import pytest

from clinscale.cli.names import default_name


@pytest.mark.parametrize(
    ("task", "model", "name"),
    [
        ("mednli", "yikuan8/Clinical-Longformer", "mednli-Clinical-Longformer"),
        ("my/task.yaml", "clinical-longformer@champion", "task-clinical-longformer"),
        ("mednli", "runs/pretrain/ours/hf", "mednli-ours"),
        ("mednli", "runs/pretrain/ours/hf/", "mednli-ours"),
        ("mednli", "hf", "mednli-hf"),
        ("mednli", "a b/c d", "mednli-c-d"),
    ],
)
def test_a_name_says_task_and_model(task, model, name):
    assert default_name(task, model) == name


def test_the_window_is_told_where_it_is_given():
    assert default_name("mednli", "base", 512) == "mednli-base-512"
