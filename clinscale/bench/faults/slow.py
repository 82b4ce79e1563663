"""A disk that takes 1 MB/s while something is written: waited for, nothing torn, the same result."""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clinscale import corpus, registry
from clinscale.bench.faults.disks import slow_disk, why_no_slow_disk
from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.ground import Trained
from clinscale.bench.faults.loss import check
from clinscale.engine import consolidated_state, newest_checkpoint
from clinscale.pretrain import CHECKPOINTS, pretrain
from clinscale.sweep import Epoch, Ledger, Trial

_DEMANDED = "waited for; what can be read is whole at every moment, and the result the undisturbed one"
_SIZE_BYTES = 256 * 2**20
_EPOCHS = 100


def faults() -> list[Fault]:
    """One for each thing that is written."""
    return [
        Fault(f"disk slow while {what}", _DEMANDED, functools.partial(_attempt, work=work), why_no_slow_disk)
        for what, work in (
            ("a ledger is written", _ledger),
            ("shards are written", _shards),
            ("a report is written", _report),
            ("a pretraining runs", _pretraining),
        )
    ]


def _attempt(scene: Scene, *, work: Callable[[Scene, Path], None]) -> Outcome:
    with slow_disk(scene.folder / "disk", size_bytes=_SIZE_BYTES) as place:
        work(scene, place)
    return Outcome()


def _ledger(scene: Scene, place: Path) -> None:
    trial = Trial(0, 0, {"batch_size": 8}, "sampler", 0)
    with contextlib.closing(Ledger(place / "ledger.jsonl")) as ledger:
        ledger.start(trial)
        for epoch in range(1, _EPOCHS + 1):
            ledger.report(trial, Epoch(epoch, epoch / _EPOCHS, 1.0))
    with contextlib.closing(Ledger(place / "ledger.jsonl")) as ledger:
        found = [one.epoch for one in ledger.trial(0, 0).epochs]
    check(found == [*range(1, _EPOCHS + 1)], "epochs are missing in the ledger, or there twice")


def _shards(scene: Scene, place: Path) -> None:
    wanted = scene.ground.shards.fingerprint
    built = corpus.build_shards(scene.ground.corpus_config(), str(place / "set"))
    check(built.fingerprint == wanted, "the shards are not the undisturbed ones")


def _report(scene: Scene, place: Path) -> None:
    scene.ground.tracking(place)
    out = place / "report.html"
    words = [
        "report",
        "--out",
        str(out),
        "--home",
        str(place),
        "--tracking-uri",
        f"sqlite:///{place / 'mlflow.db'}",
    ]
    ran = subprocess.run([sys.executable, "-m", "clinscale", *words], capture_output=True, text=True)
    check(ran.returncode == 0, f"the report failed: {ran.stderr.strip()[-300:]}")
    check(out.read_text(encoding="utf-8").rstrip().endswith("</html>"), "the report is not whole")


def _pretraining(scene: Scene, place: Path) -> None:
    """A pretraining whose home and tracking database are on the disk."""
    undisturbed, config = scene.ground.undisturbed, scene.ground.pretraining()
    tracking = scene.ground.tracking(place)
    checkpoints = place / "pretrain" / config.name / CHECKPOINTS

    def on_progress(step: int, total: int, metrics: dict[str, float]) -> None:
        last = max((path.name for path in checkpoints.glob("step-*")), default="")
        whole = newest_checkpoint(checkpoints)
        check(not last or (whole is not None and whole.name >= last), f"{last} is there and not whole")

    pretrain(config, tracking=tracking, home=place, on_progress=on_progress)
    newest = newest_checkpoint(checkpoints)
    check(newest is not None, "the training ended without a checkpoint")
    assert newest is not None
    [record] = registry.read_runs(tracking, kind="pretrain")
    check(record.status == "FINISHED", f"the run is {record.status}")
    logged = registry.metric_history(tracking, record.id, "train/loss")
    losses = {step: [loss] for step, loss in logged}
    Trained(losses, consolidated_state(newest), 0).compare(undisturbed)
