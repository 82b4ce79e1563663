"""Runners of segments, the uninterrupted pieces of trials: Ray Tune, or forks of one process of this machine.

A trial that pauses at a rung ends its segment, and its promotion is another segment that goes on from its checkpoint.
So a pause holds no process and no placement group, and processes are free for whatever comes next.
What runs next and what becomes of it is the controller's to decide; a runner only carries questions and answers.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from clinscale.runtime import Forks, current_cluster
from clinscale.sweep.controller import SweepController
from clinscale.sweep.trial import Report, Segment

Work = Callable[[Report, Segment], None]
"""The work of a process for one segment; travels by pickle."""


class SegmentRunner(Protocol):
    """Runs segments until the controller has no more.

    It asks `next_segment` whenever a process may be free, hands every report to `report` and stops the trial where the
    answer is no, and says how each segment ended with `ended` or `died`, each by the id it asked with.
    """

    def __call__(
        self,
        controller: SweepController,
        work: Work,
        *,
        folder: Path,
        resources: Mapping[str, float],
        reuse_processes: bool,
    ) -> None:
        """Run segments as `run_segments` describes."""


def run_segments(
    controller: SweepController,
    work: Work,
    *,
    folder: Path,
    resources: Mapping[str, float],
    reuse_processes: bool = True,
) -> None:
    """Run `work(report, segment)` for each segment until the controller has no more.

    Needs a `ray_session` or a `fork_session`.

    Args:
        controller: says what runs next.
        work: what each process does.
        folder: of the sweep; a runner's own files are in it meanwhile and are never read.
        resources: that Ray sets aside for each process, by kind.
        reuse_processes: whether a process may take another segment after its first, where that saves a start.

    Raises:
        ClusterError: the runner gave up.
    """
    if not controller.work_left():
        return
    # only the one that is asked for: Ray Tune costs a second to import
    name = "fork_runner" if isinstance(current_cluster(), Forks) else "tune_runner"
    run: SegmentRunner = importlib.import_module(f"clinscale.sweep.{name}").run
    run(controller, work, folder=folder, resources=resources, reuse_processes=reuse_processes)
