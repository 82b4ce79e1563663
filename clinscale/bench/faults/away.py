"""Homes on a shared folder that is unmounted and mounted again, as of a file server that is away for a minute."""

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path

from clinscale import corpus, registry
from clinscale.bench.faults.disks import leaving_home, why_no_disk
from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.ground import STEPS, Ground
from clinscale.bench.faults.loss import check
from clinscale.bench.faults.sweeps import EPOCHS, TRIALS, check_sweep, run_sweep, sweep_config, undisturbed_sweep
from clinscale.bench.faults.written import check_pretrained
from clinscale.finetune import FinetuneSummary, run_finetune
from clinscale.pretrain import pretrain
from clinscale.sweep import SweepProgress

_DEMANDED = "the work waits until it is back, goes on by itself, and leaves nothing in its place"

Leave = Callable[[], None]
Work = Callable[[Scene, Path, Leave], None]
"""Does the whole of a work in a home, has that leave at a random moment, and compares the end with the undisturbed."""


def faults() -> list[Fault]:
    """One for each kind of work that writes for long; its tracking database is in the home, too."""
    works: dict[str, Work] = {
        "a pretraining runs": _pretraining,
        "a sweep runs": _sweep,
        "a fine-tuning runs": _finetuning,
        "a corpus is built": _build,
    }
    return [
        Fault(f"shared folder away while {what}", _DEMANDED, functools.partial(_attempt, work=work), why_no_disk)
        for what, work in works.items()
    ]


def _attempt(scene: Scene, *, work: Work) -> Outcome:
    left: list[bool] = []
    with leaving_home(scene.folder / "shared", scene.rng) as (home, leave):

        def strike() -> None:
            left.append(True)
            leave()

        work(scene, home, strike)
    if not left:
        raise NotStruckError("the work was over before the chosen moment")
    return Outcome()


def _pretraining(scene: Scene, home: Path, leave: Leave) -> None:
    """The home leaves after a random step, the last one as well."""
    undisturbed = scene.ground.undisturbed
    tracking = scene.ground.tracking(home)
    due = scene.rng.randrange(1, STEPS + 1)

    def on_progress(step: int, total: int, metrics: dict[str, float]) -> None:
        if step == due:
            leave()

    pretrain(scene.ground.pretraining(), tracking=tracking, home=home, on_progress=on_progress)
    check_pretrained(tracking, undisturbed)


def _sweep(scene: Scene, home: Path, leave: Leave) -> None:
    """The home leaves after a random epoch, the last one as well."""
    undisturbed_sweep(scene.ground)
    tracking = scene.ground.tracking(home)
    due = scene.rng.randrange(1, TRIALS * EPOCHS + 1)

    def on_progress(progress: SweepProgress) -> None:
        if sum(study.epochs for study in progress.studies) == due:
            leave()

    run_sweep(sweep_config(scene.ground), home, tracking, on_progress)
    check_sweep(scene, home, tracking)


def _finetuning(scene: Scene, home: Path, leave: Leave) -> None:
    """The home leaves after a random epoch, the last one as well."""
    undisturbed = scene.ground.once("a fine-tuning", lambda: scene.ground.finetuned(epochs=EPOCHS))
    tracking = scene.ground.tracking(home)
    due, steps = scene.rng.randrange(1, EPOCHS + 1), list[float]()

    def on_progress(metrics: dict[str, float]) -> None:
        steps.append(metrics["step"])
        if len(steps) == due:
            leave()

    config = scene.ground.finetuning(epochs=EPOCHS)
    found = run_finetune(config, tracking=tracking, home=home, on_progress=on_progress)
    check(_scores(found) == _scores(undisturbed), "the scores are not the undisturbed ones")
    [record] = registry.read_runs(tracking, kind="finetune")
    check(record.status == "FINISHED", f"the run is {record.status}")
    logged = [step for step, _ in registry.metric_history(tracking, record.id, "train/loss")]
    check(logged == steps and len(steps) == EPOCHS, "an epoch is missing in MLflow, or there twice")


def _scores(found: FinetuneSummary) -> list[tuple[float, dict[str, float]]]:
    return [(one.dev, one.scores.test) for one in found.seeds]


def _build(scene: Scene, home: Path, leave: Leave) -> None:
    """The shards' folder leaves at a random moment."""
    wanted = scene.ground.shards.fingerprint
    took_s = scene.ground.once("time of a build", lambda: _build_s(scene.ground))
    timer = threading.Timer(scene.rng.uniform(0, took_s), leave)
    timer.start()
    try:
        found = corpus.build_shards(scene.ground.corpus_config(), str(home / "set"))
    finally:
        timer.cancel()
        timer.join()
    check(found.fingerprint == wanted, "the shards are not the undisturbed ones")
    found.check_files()


def _build_s(ground: Ground) -> float:
    """Time that the undisturbed build takes."""
    began_s = time.monotonic()
    corpus.build_shards(ground.corpus_config(), str(ground.folder / "shards-timed"))
    return time.monotonic() - began_s
