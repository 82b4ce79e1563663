"""Groups of forks end as groups of Ray Train do: a worker that dies is replaced, an error of ours is an answer."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from ray import cloudpickle

from clinscale import runtime
from clinscale.errors import CapacityError, ClusterError, ConfigError, DataError, OutOfMemoryError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file


def run(function, folder, *, on_log=None, **changes):
    """What the driver was told: metrics, and sentences."""
    logged, told = [], []
    settings = {"num_workers": 2, "max_failures": 1, "collective_timeout_s": 60} | changes
    runtime.run_workers(
        function,
        str(folder),
        group=runtime.GroupConfig(**settings),
        scratch=folder / "ray",
        on_log=on_log or logged.append,
        on_event=told.append,
    )
    return logged, told


def dies_once(context, folder):
    import torch.distributed

    context.log({"attempt": context.attempt, "workers": context.world_size})
    torch.distributed.barrier()
    if context.rank == 1 and context.attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def test_a_worker_that_dies_is_replaced(forks, tmp_path):
    logged, told = run(dies_once, tmp_path)
    assert logged == [{"attempt": 0, "workers": 2}, {"attempt": 1, "workers": 2}]
    assert "worker 1: it was killed" in told[0]
    assert told[1] == "starting again (attempt 1, world size 2)"
    assert not (tmp_path / "ray").exists()
    with pytest.raises(ClusterError, match=r"the group of workers failed \(.*worker 1: it was killed"):
        run(dies_once, tmp_path, max_failures=0)


def answers(context, folder):
    """Rank 0 waits for a partner that never comes, as in a collective."""
    Path(folder, f"{context.attempt}-{context.rank}").touch()
    if context.rank == 1:
        raise DataError("the rule that was broken")
    time.sleep(600)


def quotes_a_note(context, folder):
    raise ValueError("canary: the patient's name")


def asks_for_too_much(context, folder):
    import torch

    torch.empty(2**50)


def test_an_error_of_ours_is_an_answer_and_another_is_named_by_its_kind(forks, tmp_path):
    with pytest.raises(DataError, match="the rule that was broken"):
        run(answers, tmp_path)
    assert not (tmp_path / "1-1").exists(), "the group was started again"
    with pytest.raises(ClusterError, match="worker 0: ValueError, worker 1: ValueError") as caught:
        run(quotes_a_note, tmp_path, max_failures=0)
    assert "canary" not in str(caught.value)
    with pytest.raises(OutOfMemoryError, match=r"worker \d of 2 ran out of host memory"):
        run(asks_for_too_much, tmp_path)
    with pytest.raises(CapacityError, match=r"3 workers of 1 CPU each do not fit into this machine \(2 CPU\)"):
        run(answers, tmp_path, num_workers=3)


def speaks(context, folder):
    context.log({"rank": context.rank})


def test_what_the_driver_cannot_take_is_raised_when_the_work_is_done(forks, tmp_path):
    def refuse(metrics):
        heard.append(metrics)
        raise ConfigError("no")

    heard = []
    with pytest.raises(ConfigError, match="no"):
        run(speaks, tmp_path, on_log=refuse)
    assert heard == [{"rank": 0}]
    assert runtime.current_cluster().hardware().startswith("2 CPUs of ")
