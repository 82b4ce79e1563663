"""Faults of sweeps: trials that are killed or stand still, disks that fill up; the sampler must hear the truth."""

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from clinscale import registry, runtime
from clinscale.bench.faults.disks import disk, slow_disk, why_no_disk, why_no_slow_disk
from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.ground import Ground
from clinscale.bench.faults.loss import LossError, check
from clinscale.errors import ClinscaleError
from clinscale.sweep import Ledger, SweepConfig, SweepProgress, sweep

TRIALS, EPOCHS = 3, 3
_STALL_S = 20.0
_NAME = "faults"

_DEMANDED = "the sampler hears the truth, the sweep completes, all trials accounted for, each epoch once"

Found = list[tuple[Any, ...]]
"""Params, state and scores of each trial."""


def faults() -> list[Fault]:
    """One for each."""
    return [
        Fault("trial killed", _DEMANDED, functools.partial(_signalled, number=signal.SIGKILL)),
        Fault("trial stopped for ever", _DEMANDED, functools.partial(_signalled, number=signal.SIGSTOP)),
        Fault("trial out of memory", _DEMANDED, _out_of_memory, _why_no_limit),
        Fault("trial whose loss is no number", _DEMANDED, _not_a_number),
        Fault("disk full while a sweep runs", _DEMANDED, _disk_full, why_no_disk),
        Fault("disk slow while a sweep runs", _DEMANDED, _disk_slow, why_no_slow_disk),
    ]


def sweep_config(
    ground: Ground, trials: int = TRIALS, models: Sequence[Path] | None = None, **settings: Any
) -> SweepConfig:
    """The config of a short sweep, with these settings of its runtime."""
    study = {
        "name": "pairs",
        "task": "demo_pairs",
        "data": str(ground.data),
        "models": [str(model) for model in models or [ground.base_model]],
        "space": str(search_space(ground)),
    }
    recipe = {"studies": [study], "budget": {"trials": trials}, "scheduler": "none"}
    values = {"max_concurrent_trials": 1, "stall_timeout_s": _STALL_S, **settings}
    return SweepConfig.parse({"name": _NAME, "recipe": recipe, "runtime": values}, source="faults")


def search_space(ground: Ground) -> Path:
    """A file of a space of one learning rate."""
    import yaml

    path = ground.folder / "space.yaml"
    values = {
        "fixed": {"epochs": EPOCHS, "dropout": 0.1, "batch_size": 8, "max_tokens": 64, "patience_epochs": EPOCHS},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def undisturbed_sweep(ground: Ground) -> Found:
    """The sweep that nothing happens to, made once."""
    home = ground.folder / "sweep"
    if not home.exists():
        home.mkdir()
        run_sweep(sweep_config(ground), home, ground.tracking(home))
    return _found(home)


def run_sweep(
    config: SweepConfig,
    home: Path,
    tracking: registry.Tracking,
    on_progress: Callable[[SweepProgress], None] | None = None,
) -> None:
    """The sweep to its end, in a session of forks."""
    cluster = runtime.current_cluster()
    sweep(config, tracking=tracking, home=home, cluster=cluster, on_progress=on_progress)


def _found(home: Path) -> Found:
    with contextlib.closing(Ledger(home / "sweep" / _NAME / "ledger.jsonl")) as ledger:
        return [
            (
                one.number,
                dict(one.params),
                one.state,
                [(epoch.epoch, epoch.objective, epoch.metrics["train/loss"]) for epoch in one.epochs],
            )
            for one in ledger.trials
        ]


def check_sweep(scene: Scene, home: Path, tracking: registry.Tracking) -> None:
    """LossError unless ledger and MLflow have what those of the undisturbed sweep have."""
    found = _found(home)
    check(found == undisturbed_sweep(scene.ground), "trials are not those of the undisturbed sweep")
    parent, *_ = registry.read_runs(tracking, kind="sweep")
    runs = registry.read_runs(tracking, parent=parent.id)
    check(len(runs) == TRIALS, f"MLflow has {len(runs)} trials instead of {TRIALS}")
    check({run.status for run in [parent, *runs]} == {"FINISHED"}, "a run is not FINISHED")
    for run in runs:
        epochs = [value for _, value in registry.metric_history(tracking, run.id, "epoch")]
        check(epochs == [*range(1, EPOCHS + 1)], "an epoch is missing in MLflow, or there twice")


def _signalled(scene: Scene, *, number: signal.Signals) -> Outcome:
    """A signal to the process of the running trial, at the end of one of its epochs or a moment later."""
    undisturbed_sweep(scene.ground)
    home = scene.folder / "home"
    home.mkdir()
    tracking = scene.ground.tracking(home)
    due = scene.rng.randrange(1, TRIALS * EPOCHS)
    hit: list[int] = []

    def on_progress(progress: SweepProgress) -> None:
        epochs = sum(study.epochs for study in progress.studies)
        if epochs == due and not hit and progress.studies[0].running:
            time.sleep(scene.rng.uniform(0, 0.5))
            for process in _trials():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    os.kill(process.pid, number)
                    hit.append(process.pid)

    run_sweep(sweep_config(scene.ground), home, tracking, on_progress)
    if not hit:
        raise NotStruckError("no trial was running at the chosen moment")
    check_sweep(scene, home, tracking)
    check(not _trials(), "a trial's process is left")
    return Outcome()


def _why_no_limit() -> str | None:
    return None if sys.platform == "linux" else "limits of another process's memory are Linux's"


def _out_of_memory(scene: Scene) -> Outcome:
    """The process of the running trial gets no more memory, from the end of an epoch on or a moment later.

    It fails for want of memory, or a library ends it, and then it is begun anew as any that was killed.
    """
    undisturbed = undisturbed_sweep(scene.ground)
    home = scene.folder / "home"
    home.mkdir()
    tracking = scene.ground.tracking(home)
    due = scene.rng.choice([one for one in range(1, TRIALS * EPOCHS) if one % EPOCHS])  # within a trial
    hit: list[int] = []

    def on_progress(progress: SweepProgress) -> None:
        study = progress.studies[0]
        if study.epochs == due and not hit and study.running:
            time.sleep(scene.rng.uniform(0, 0.05))
            for process in _trials():
                with contextlib.suppress(psutil.Error):
                    process.rlimit(psutil.RLIMIT_AS, (1, 1))
                    hit.append(process.pid)

    run_sweep(sweep_config(scene.ground), home, tracking, on_progress)
    if not hit:
        raise NotStruckError("no trial was running at the chosen moment")
    check(not _trials(), "a trial's process is left")
    found = _found(home)
    if found == undisturbed:  # begun anew
        check_sweep(scene, home, tracking)
        return Outcome()
    states = [state for _, _, state, _ in found]
    check(states.count("failed") == 1, f"the trials ended as {', '.join(states)}")
    with contextlib.closing(Ledger(home / "sweep" / _NAME / "ledger.jsonl")) as ledger:
        [failed] = [one for one in ledger.trials if one.state == "failed"]
    check(failed.number == due // EPOCHS, "another trial failed than the one without memory")
    check(
        failed.reason == "out_of_memory",
        f"the ledger has {failed.reason} in place of out_of_memory ({failed.message})",
    )
    for one, other in zip(found, undisturbed, strict=False):
        if one[0] < failed.number:
            check(one == other, "a trial before it is not the undisturbed one's")
    runs = registry.read_runs(tracking, kind="trial")
    statuses = sorted(run.status for run in runs)
    check(statuses == ["FAILED", *["FINISHED"] * (len(found) - 1)], "MLflow says otherwise than the ledger")
    return Outcome()


def _not_a_number(scene: Scene) -> Outcome:
    """One of two base models has weights that are no numbers: all its trials fail, and no other."""
    home = scene.folder / "home"
    home.mkdir()
    tracking = scene.ground.tracking(home)
    poisoned = scene.ground.poisoned_model
    bases = [scene.ground.base_model, poisoned]
    scene.rng.shuffle(bases)
    run_sweep(sweep_config(scene.ground, 2 * TRIALS, bases), home, tracking)
    with contextlib.closing(Ledger(home / "sweep" / _NAME / "ledger.jsonl")) as ledger:
        trials = ledger.trials
    runs = registry.read_runs(tracking, kind="trial")
    check(len(trials) == len(runs) > 1, f"MLflow has {len(runs)} trials, the ledger {len(trials)}")
    ends = {
        (one.params["model"] == bases.index(poisoned), one.state, one.reason, bool(one.epochs)) for one in trials
    }
    wanted = {(True, "failed", "not_a_number", False), (False, "complete", None, True)}
    check(ends == wanted, "a trial did not end as its model must")
    failed = sum(one.state == "failed" for one in trials)
    statuses = sorted(run.status for run in runs)
    check(statuses == sorted(["FAILED"] * failed + ["FINISHED"] * (len(trials) - failed)), "MLflow says otherwise")
    return Outcome()


def timed_sweep(ground: Ground, home: Path, trials: int) -> tuple[float, Found]:
    """Seconds that a sweep of so many trials took in a new home, and what it found; needs a session of forks."""
    home.mkdir()
    tracking = ground.tracking(home)
    config = sweep_config(ground, trials)
    began_s = time.monotonic()
    run_sweep(config, home, tracking)
    return time.monotonic() - began_s, _found(home)


def kill_trial() -> bool:
    """Kill the processes of the running trial; whether there was one."""
    running = _trials()
    for process in running:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return bool(running)


def _trials() -> list[Any]:
    """Processes of running trials: forks of the server of forks, their watchers left out."""
    servers = [one for one in psutil.Process().children() if "forkserver" in " ".join(one.cmdline())]
    return [fork for server in servers for fork in server.children() if fork.status() != psutil.STATUS_ZOMBIE]


def _disk_full(scene: Scene) -> Outcome:
    """The home's disk fills up after a random epoch; the same command goes on when there is room again."""
    undisturbed = undisturbed_sweep(scene.ground)
    with disk(scene.folder / "disk", size_bytes=256 * 2**20) as place:
        tracking = scene.ground.tracking(scene.folder)
        due = scene.rng.randrange(1, TRIALS * EPOCHS)
        leave_bytes = scene.rng.randrange(2 * 2**20)

        def on_progress(progress: SweepProgress) -> None:
            if sum(study.epochs for study in progress.studies) == due:
                place.fill(leave_bytes=leave_bytes)

        config = sweep_config(scene.ground)
        try:
            run_sweep(config, place.path, tracking, on_progress)
        except ClinscaleError:
            pass
        else:
            raise LossError("the sweep ended on a full disk")
        place.empty()
        run_sweep(config, place.path, tracking)
        check(_found(place.path) == undisturbed, "trials are not those of the undisturbed sweep")
        check_sweep(scene, place.path, tracking)
    return Outcome()


def _disk_slow(scene: Scene) -> Outcome:
    """Ledger, trials' folders and tracking database are on the disk."""
    undisturbed_sweep(scene.ground)
    with slow_disk(scene.folder / "disk", size_bytes=256 * 2**20) as home:
        tracking = scene.ground.tracking(home)
        run_sweep(sweep_config(scene.ground), home, tracking)
        check_sweep(scene, home, tracking)
    return Outcome()
