"""Decisions about one champion, one after another: MLflow moves an alias for anyone, and so two at once would mix.

Each decision is a run of MLflow. Their turns are those of Lamport's bakery (A New Solution of Dijkstra's Concurrent
Programming Problem, 1974), which needs nothing but runs that all can read and that each writes alone: one that has no
number yet is about to take one, and is waited for.
"""

import time

from clinscale import registry
from clinscale.errors import RegistryError
from clinscale.registry import Run, RunRecord, Tag, Tracking

_PATIENCE_S = 60.0
_POLL_S = 0.2


def decisions(tracking: Tracking, name: str) -> list[RunRecord]:
    """Runs of all decisions about a model's champion, carried out or not, in the order of their numbers.

    Equal numbers, and those of an older clinscale, which has none, stay in the order of their times.
    """
    runs = [run for run in registry.read_runs(tracking, kind="promotion") if run.tags.get(Tag.NAME) == name]
    return sorted(runs, key=_number)


def take_number(tracking: Tracking, name: str, run: Run) -> int:
    """The number of a decision, which its open run carries from now on: one more than any before."""
    number = 1 + max(map(_number, decisions(tracking, name)), default=0)
    run.set_tags({Tag.DECISION_NUMBER: str(number)})
    return number


def wait_for_turn(tracking: Tracking, name: str, run: Run, number: int) -> None:
    """Wait until no move of the champion that came before is open; a process that is gone is not waited for.

    Raises:
        RegistryError: another move does not end.
    """
    end_s = time.monotonic() + _PATIENCE_S
    while before := [one for one in decisions(tracking, name) if _is_before(one, run.id, number)]:
        if time.monotonic() > end_s:
            raise RegistryError(
                f"model {name}: {before[0].name} by {before[0].tags.get(Tag.BY, 'somebody')} is still open in MLflow "
                f"(run {before[0].id}); try again when it has ended, and end that run if its process is gone"
            )
        time.sleep(_POLL_S)


def _is_before(other: RunRecord, run_id: str, number: int) -> bool:
    if other.id == run_id or other.status != "RUNNING" or other.tags.get(Tag.ACTION) == "refuse":
        return False
    return (_number(other), other.id) < (number, run_id) and not registry.is_orphan(other)


def _number(run: RunRecord) -> int:
    """The decision's number; 0 where it has none yet."""
    return int(run.tags.get(Tag.DECISION_NUMBER, "0"))
