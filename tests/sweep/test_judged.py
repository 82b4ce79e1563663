"""The file of a judged winner, as each later start of a sweep reads it."""

import json

import numpy as np
import pytest

from clinscale.errors import DataError
from clinscale.finetune import FinetuneRecipe, Scores
from clinscale.sweep.choose import Finalist
from clinscale.sweep.judged import WINNER_FILE, JudgedWinner
from clinscale.tasks import Band, Comparison, Estimate, Outcomes, load_task

SPREAD = Estimate(0.8, 0.7, 0.9)


def winner():
    task = load_task("demo_pairs")
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    outcomes = Outcomes(
        task, ("a", "b"), np.array([0, 1]), np.array([7, 900]), rows, ("no", "yes"), task.scored_by
    )
    return JudgedWinner(
        id="0001",
        dev=0.75,
        recipe=FinetuneRecipe(model="base", max_tokens=1024),
        base=0,
        trials=3,
        device_seconds=12.5,
        finalists=(Finalist("0001", "winner", {"dropout": 0.1}, {"0": 0.75}, 0.75, None),),
        winner_run="run",
        outcomes=(outcomes,),
        linear={"accuracy": 0.6},
        remarks=("one sentence",),
        scores=Scores(
            metric="accuracy",
            test={"accuracy": 0.8},
            trivial={"accuracy": 0.5},
            interval=SPREAD,
            lengths=(Band(0, 512, 1, SPREAD), Band(4096, None, 1, SPREAD)),
            calibration={},
            max_tokens=1024,
            short=Comparison(SPREAD, 0.01),
        ),
        model="0123456789ab",
    )


def test_what_is_written_is_read_back_to_the_byte(tmp_path):
    winner().write(tmp_path)
    written = (tmp_path / WINNER_FILE).read_bytes()
    read = JudgedWinner.read(tmp_path)
    assert read.scores == winner().scores
    assert read.finalists == winner().finalists
    read.write(tmp_path)
    assert (tmp_path / WINNER_FILE).read_bytes() == written


def test_a_file_of_an_earlier_version_has_no_linear_baseline_and_no_remarks(tmp_path):
    values = {key: value for key, value in winner().plain().items() if key not in ("linear", "remarks")}
    (tmp_path / WINNER_FILE).write_text(json.dumps(values))
    read = JudgedWinner.read(tmp_path)
    assert (read.linear, read.remarks) == ({}, ())


@pytest.mark.parametrize("key", ["id", "outcomes", "finalists", "interval", "lengths", "metric"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_a_file_that_holds_something_else_is_refused_by_its_name(key, value, tmp_path):
    values = {**winner().plain(), key: 3}
    if value == "absent":
        del values[key]
    elif key in ("id", "metric"):  # any text may be there
        values = [values]
    (tmp_path / WINNER_FILE).write_text(json.dumps(values))
    with pytest.raises(DataError, match=f"{WINNER_FILE} holds no"):
        JudgedWinner.read(tmp_path)
