"""Files of trials, and those that may be removed: none of a trial that can still win, unless the quota requires it."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clinscale.sweep.config import KeepTrials
from clinscale.sweep.ledger import FINAL, Trial
from clinscale.sweep.policy import finalists
from clinscale.sweep.trial import state_file, trial_folder


@dataclass(frozen=True)
class FreedSpace:
    """The files that were removed."""

    trials: int = 0
    bytes: int = 0

    def __add__(self, other: "FreedSpace") -> "FreedSpace":
        return FreedSpace(self.trials + other.trials, self.bytes + other.bytes)


def remove_trials(folder: Path, trials: Sequence[Trial], keep: KeepTrials, *, winner: Path) -> FreedSpace:
    """Drop the folders of a finished study's trials that `keep` does not name.

    Nothing reads them any more: the winner is registered, and a later sweep takes its warm start from MLflow.

    Args:
        folder: of the study.
        trials: of the study.
        keep: the winner alone, all that was compared with it at the end under all their seeds, or all trials.
        winner: HF folder of the winner, which always stays.
    """
    if keep == "all":
        return FreedSpace()
    numbers = {trial.number for trial in finalists(trials)} if keep == "finalists" else set()
    freed = FreedSpace()
    for trial in trials:
        place = trial_folder(folder, trial.id)
        if not numbers.isdisjoint({trial.number, trial.of}) or place == winner or not place.parent.exists():
            continue
        freed += FreedSpace(1, size_bytes(place.parent))
        shutil.rmtree(place.parent, ignore_errors=True)
    return freed


def clean_up(folders: Mapping[int, Path], trials: Sequence[Trial], quota_bytes: float | None) -> None:
    """Drop the state of ended trials and, over the quota, what is least likely to be missed.

    A paused trial whose state had to go is trained from its first epoch again if it is promoted.
    """
    for trial in trials:
        if trial.state in FINAL:
            state_file(folders[trial.study], trial.id).unlink(missing_ok=True)
    if quota_bytes is None:
        return
    for trial in _least_missed(trials):
        if sum(map(size_bytes, folders.values())) <= quota_bytes:
            break
        shutil.rmtree(trial_folder(folders[trial.study], trial.id).parent, ignore_errors=True)


def size_bytes(folder: Path) -> int:
    """Size of all files below `folder`, as far as they still exist."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a trial replaced it meanwhile
            continue
    return total


def _least_missed(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Ended trials that no longer matter, then paused ones, weakest first; never a finalist of its study."""
    kept = {
        (trial.study, trial.number)
        for study in {trial.study for trial in trials}
        for trial in finalists([one for one in trials if one.study == study])
    }
    kept |= {(trial.study, trial.number) for trial in trials if not trial.searched}
    idle = [t for t in trials if t.state in ("paused", *FINAL) and (t.study, t.number) not in kept]
    yield from sorted(idle, key=lambda trial: (trial.state == "paused", trial.objective or 0.0))
