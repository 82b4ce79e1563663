"""Every picture that a study's trials allow is drawn, and none that would be empty."""

import random

import pytest
from PIL import Image

from clinscale.sweep import SearchSpace
from clinscale.sweep.ledger import Epoch, Trial
from clinscale.sweep.plots import draw

SPACE = SearchSpace.parse(
    {
        "parameters": {
            "optimizer.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "batch_size": {"type": "categorical", "choices": [4, 8]},
        }
    },
    source="test",
)


def trials(count):
    rng, found = random.Random(0), []
    for number, point in enumerate(SPACE.quasi_random(count)):
        epochs = 4 if number % 3 == 0 else 1
        curve = tuple(
            Epoch(epoch, rng.random() / 2 + epoch / 10, 1.0, {"perf/latency_s": rng.random()})
            for epoch in range(1, epochs + 1)
        )
        state = "complete" if epochs == 4 else "pruned"
        found.append(Trial(0, number, point, "sampler", 0, epochs=curve, state=state))
    return found


@pytest.mark.parametrize(
    ("objectives", "more"), [(("score",), "optimization_history"), (("score", "latency", "cost"), "pareto_front")]
)
def test_pictures(tmp_path, objectives, more):
    written = draw(tmp_path, name="s", trials=trials(12), space=SPACE, objectives=objectives, metric="f1")
    names = {path.stem for path in written}
    assert names >= {more, "parallel_coordinate", "param_importances", "learning_curves", "slice"}
    for path in written:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10, f"{path.name} is empty"


def test_what_the_trials_do_not_allow_is_not_drawn(tmp_path):
    assert draw(tmp_path, name="s", trials=[], space=SPACE, objectives=("score",), metric="f1") == []
    unfinished = [trial for trial in trials(6) if trial.state == "pruned"]
    written = draw(tmp_path, name="s", trials=unfinished, space=SPACE, objectives=("score",), metric="f1")
    assert [path.stem for path in written] == ["learning_curves"]
