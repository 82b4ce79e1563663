"""Groups of workers that die, hang, run out of memory, and whose nodes come and go."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clinscale import runtime
from clinscale.errors import CapacityError, ClusterError, DataError, OutOfMemoryError

TOO_LARGE = 2**50
MANY = 300
"""Metrics in a row, of which some overtake others where nothing keeps their order."""


class Deadly:
    """A folder that sends a signal to every worker of the first group that is sent it, before it has its work."""

    def __init__(self, folder, number=signal.SIGKILL):
        self.folder, self.number = folder, number

    def __reduce__(self):
        return arrive, (self.folder, self.number)


def arrive(folder, number):
    if os.environ.get("CLINSCALE_ATTEMPT") == "0":
        os.kill(os.getpid(), number)
    return folder


def suffer(context, folder):
    """One mishap of rank 1 after the other, by attempt, while rank 0 waits for it; the first attempt never began."""
    import torch.distributed

    Path(folder, f"{context.attempt}-{context.rank}").touch()
    for number in range(MANY):
        context.log({"attempt": context.attempt, "number": number})
    torch.distributed.barrier()
    if context.rank == 1:
        match context.attempt:
            case 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case 2:
                os.kill(os.getpid(), signal.SIGSTOP)
            case _:
                torch.empty(TOO_LARGE)
    torch.distributed.barrier()


@pytest.mark.ray
@pytest.mark.chaos
def test_a_worker_that_dies_or_hangs_is_replaced_and_one_without_memory_is_an_answer(tmp_path, ray_cluster):
    logged, told = [], []
    with pytest.raises(OutOfMemoryError, match=r"worker 1 of 2 ran out of host memory"):
        runtime.run_workers(
            suffer,
            Deadly(str(tmp_path)),
            group=runtime.GroupConfig(
                num_workers=(1, 2),
                max_failures=5,
                max_preemption_failures=0,
                start_timeout_s=60,
                collective_timeout_s=6,
            ),
            scratch=tmp_path / "ray",
            on_log=logged.append,
            on_event=told.append,
        )
    assert not list((tmp_path / "ray").iterdir()), "Ray Train's state stayed behind"
    in_order = [{"attempt": attempt, "number": number} for attempt in (1, 2, 3) for number in range(MANY)]
    assert logged == in_order, "metrics overtook one another on their way"
    assert {path.name for path in tmp_path.glob("*-*")} == {f"{n}-{rank}" for n in (1, 2, 3) for rank in range(2)}
    # whichever rank the controller hears of first: the dead one, or the other that misses it
    ended = [sentence for sentence in told if sentence.startswith("the group ended: ")]
    assert ["worker " in sentence for sentence in ended] == [False, True, True], told
    started = [sentence for sentence in told if "world size 2" in sentence]
    assert [f"(attempt {n}," in sentence for n, sentence in enumerate(started, 1)] == [True] * 3, told


def lose_the_mailbox(context, folder):
    """What is logged comes to the driver through a process that dies."""
    import ray

    mailbox = context._mailbox
    process = ray.get(mailbox.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(process, signal.SIGKILL)
    while True:
        try:
            if ray.get(mailbox.__ray_call__.remote(lambda _: os.getpid())) != process:
                break
        except ray.exceptions.RayActorError:
            time.sleep(0.1)
    context.log({"attempt": context.attempt})


@pytest.mark.ray
@pytest.mark.chaos
def test_a_start_in_which_a_worker_stands_still_is_tried_again_and_lost_metrics_are_told(tmp_path, ray_cluster):
    logged, told = [], []
    with pytest.raises(ClusterError, match=r"metrics here was lost.* same command"):
        runtime.run_workers(
            lose_the_mailbox,
            Deadly(str(tmp_path), signal.SIGSTOP),
            group=runtime.GroupConfig(num_workers=1, start_timeout_s=60, collective_timeout_s=60),
            scratch=tmp_path / "ray",
            on_log=logged.append,
            on_event=told.append,
            start_patience_s=15,
        )
    assert [sentence.partition(":")[0] for sentence in told[:1]] == ["the group ended"]
    assert logged, "nothing is told after the loss"
    assert logged[0]["attempt"] > 0


def test_what_ended_a_group_is_named_without_the_text_of_its_errors():
    import ray.exceptions
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from clinscale.runtime.controller import as_ours

    killed = WorkerHealthCheckFailedError("", failure=ray.exceptions.OutOfMemoryError("Task was killed"))
    assert isinstance(as_ours(WorkerGroupError("", {1: killed})), OutOfMemoryError)
    for error in (
        WorkerGroupError("", {0: ValueError(), 1: DataError("ours")}),
        ControllerError(DataError("ours")),
    ):
        assert as_ours(error).args == ("ours",)
    lost = as_ours(ray.exceptions.ActorDiedError())  # the controller itself
    assert isinstance(lost, ClusterError)
    assert "(ActorDiedError)" in str(lost)
    no_room = ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    assert type(as_ours(no_room)) is CapacityError
    other = as_ours(WorkerGroupError("", {1: RuntimeError("Smith"), 0: ValueError("Smith")}))
    assert isinstance(other, ClusterError)
    assert "(worker 0: ValueError, worker 1: RuntimeError)" in str(other)
    assert "Smith" not in str(other)


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.chaos
def test_an_elastic_group_shrinks_grows_and_hears_of_a_node_that_is_taken_away(tmp_path):
    import forked_ray  # here, because Ray's workers import this file and find no other of the tests

    environment = forked_ray.clean_environment()
    script = Path(__file__).with_name("simulated.py")
    done = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, timeout=540)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["hardware"] == "2 CPUs on 2 nodes"
    two, one, two_again, warned, rest = seen["groups"]
    assert seen["drained"] in {member["node"] for member in warned}
    assert {member["node"] for member in one} < {member["node"] for member in two}
    assert len({member["node"] for member in two_again}) == 2
    # both ranks heard of it, at the same call, and had not before
    assert {member["preempted_at"] for member in two_again} == {None}
    assert len({member["preempted_at"] for member in warned}) == 1
    assert rest[0]["node"] != seen["drained"]
    assert any("PreemptionError" in sentence for sentence in seen["told"])
    assert seen["left"] == []
    assert "hold 0 such workers when empty" in seen["gives_up"]
