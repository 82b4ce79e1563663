"""The order of a worker's work, whatever trains and keeps: what a node that is about to go leaves behind."""

from types import SimpleNamespace

import pytest

from clinscale.pretrain.worker import _steps


class Loop:
    """Says what it is asked for in place of doing it."""

    def __init__(self, begun):
        self.done, self._begun = [], begun
        self.checkpoints = SimpleNamespace(wait=lambda: self.done.append("wait"))

    def restore(self):
        return self._begun

    def train(self, step):
        self.done.append(step + 1)
        return {"train/loss": 1.0}

    def evaluate(self):
        self.done.append("evaluate")
        return {"eval/loss": 2.0}

    def save(self, step, validation_loss):
        self.done.append(("save", step, validation_loss))

    def speed(self):
        return {}

    def log(self, step, metrics):
        pass


def done(*, begun=0, preempted_from=99, **every):
    """What the loop was asked for in 6 steps."""
    loop = Loop(begun)
    context = SimpleNamespace(
        preempted=lambda: [one for one in loop.done if isinstance(one, int)][-1] >= preempted_from
    )
    runtime = {"log_every_steps": 50, "evaluate_every_steps": 50, "checkpoint_every_steps": 50, **every}
    _steps(
        loop, context, SimpleNamespace(config=SimpleNamespace(runtime=SimpleNamespace(**runtime)), total_steps=6)
    )
    return loop.done


def test_a_node_that_is_about_to_go_has_its_work_saved_once_and_whole_before_the_next_step():
    last = ["evaluate", ("save", 6, 2.0)]
    assert done(preempted_from=2) == ["evaluate", 1, 2, ("save", 2, None), "wait", 3, 4, 5, 6, *last]
    assert done() == ["evaluate", 1, 2, 3, 4, 5, 6, *last]


@pytest.mark.parametrize("begun", [0, 3])
def test_checkpoints_and_evaluations_come_at_their_steps_and_at_the_end(begun):
    whole = [1, 2, ("save", 2, None), 3, "evaluate", 4, ("save", 4, None), 5, 6, "evaluate", ("save", 6, 2.0)]
    first = [] if begun else ["evaluate"]
    found = done(begun=begun, evaluate_every_steps=3, checkpoint_every_steps=2)
    assert found == [*first, *whole[whole.index(begun + 1) :]]
