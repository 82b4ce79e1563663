"""Disks that fill up or turn read-only while something is written: reported, and gone on with when they are back."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Literal

from clinscale import corpus, registry
from clinscale.bench.faults.disks import Disk, disk, why_no_disk
from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.ground import Trained
from clinscale.bench.faults.loss import LossError, check
from clinscale.errors import ClinscaleError
from clinscale.pretrain import pretrain
from clinscale.sweep import Epoch, Ledger, Trial

How = Literal["full", "read-only"]

_DEMANDED = "a clear error or a wait, what was written before intact, gone on with when the disk is back"
_MB = 2**20


def faults() -> list[Fault]:
    """One for each thing that is written, on a full disk and on a read-only one."""
    return [
        *(
            Fault(f"disk {how} while {what}", _DEMANDED, functools.partial(attempt, how=how), why_no_disk)
            for what, attempt in (
                ("a ledger is written", _ledger),
                ("shards are written", _shards),
                ("metrics are logged", _metrics),
                ("a pretraining runs", _pretraining),
            )
            for how in ("full", "read-only")
        ),
    ]


@contextlib.contextmanager
def _ill(place: Disk, how: How) -> Iterator[None]:
    """The disk is ill while the block runs."""
    if how == "full":
        place.fill()
    else:
        place.close()
    try:
        yield
    finally:
        if how == "read-only":
            place.open()
        place.empty()


def _refused(work: Callable[[], object], what: str) -> None:
    """LossError unless `work` fails with an error of ours, or the system's own about a file that it names."""
    try:
        work()
    except ClinscaleError:
        return
    except Exception as error:
        if isinstance(error, OSError) and error.filename and error.strerror:  # the command line prints just that
            return
        raise LossError(f"{what} failed with {type(error).__name__} in place of a clear error") from error
    raise LossError(f"{what} went on, and nothing was written")


def _ledger(scene: Scene, *, how: How) -> Outcome:
    epochs = 1000  # several pages, so that a disk fills up within a line
    with disk(scene.folder / "disk", size_bytes=_MB) as place:
        path = place.path / "ledger.jsonl"
        trial = Trial(0, 0, {"batch_size": 8}, "sampler", 0)

        def report_all() -> None:
            with contextlib.closing(Ledger(path)) as ledger:
                for epoch in range(ledger.trial(0, 0).epoch + 1, epochs + 1):
                    ledger.report(trial, Epoch(epoch, epoch / epochs, 1.0))

        before = scene.rng.randrange(1, 10)
        with contextlib.closing(Ledger(path)) as ledger:
            ledger.start(trial)
            for epoch in range(1, before + 1):
                ledger.report(trial, Epoch(epoch, epoch / epochs, 1.0))
        with _ill(place, how):
            _refused(report_all, "the ledger")
        report_all()
        with contextlib.closing(Ledger(path)) as ledger:
            found = [one.epoch for one in ledger.trial(0, 0).epochs]
        check(found == [*range(1, epochs + 1)], "epochs are missing in the ledger, or there twice")
    return Outcome()


def _shards(scene: Scene, *, how: How) -> Outcome:
    wanted = scene.ground.shards.fingerprint
    with disk(scene.folder / "disk", size_bytes=8 * _MB) as place:
        out = str(place.path / "set")

        def build() -> corpus.ShardSet:
            return corpus.build_shards(scene.ground.corpus_config(), out)

        with _ill(place, how):
            if how == "full":
                place.empty()
                place.fill(leave_bytes=scene.rng.randrange(0, 200_000))
            _refused(build, "the build")
        check(build().fingerprint == wanted, "the shards are not the undisturbed ones")
    return Outcome()


def _metrics(scene: Scene, *, how: How) -> Outcome:
    """A run whose spool is on the disk, and where that fills up, its database too."""
    with disk(scene.folder / "disk", size_bytes=16 * _MB) as place:
        # one that is open for writing cannot be made read-only by a mount
        tracking = scene.ground.tracking(place.path if how == "full" else scene.folder)
        run = scene.ground.run(tracking, place.path / "run" / "metrics.jsonl")
        ill_at = scene.rng.randrange(1, 20)
        for step in range(ill_at):
            run.log({"train/loss": float(step)}, step=step)
        with _ill(place, how):
            for step in range(ill_at, 200):
                run.log({"train/loss": float(step)}, step=step)
        run.end()
        points = tracking.client.get_metric_history(run.id, "train/loss")
        stored = sorted((point.step, point.value) for point in points)
        check(stored == [(step, float(step)) for step in range(200)], "metrics are missing, or there twice")
        [record] = registry.read_runs(tracking)
        check(record.status == "FINISHED", f"the run is {record.status}")
    return Outcome()


def _pretraining(scene: Scene, *, how: How) -> Outcome:
    """A whole pretraining whose home is on the disk, which falls ill after a random step, or at its end."""
    undisturbed = scene.ground.undisturbed
    with disk(scene.folder / "disk", size_bytes=96 * _MB) as place:
        config = scene.ground.pretraining(storage_patience_s=0)
        tracking = scene.ground.tracking(scene.folder)
        ill_after = scene.rng.randrange(1, 6)

        def on_progress(step: int, total: int, metrics: dict[str, float]) -> None:
            if step == ill_after and how == "full":
                place.fill(leave_bytes=scene.rng.randrange(4 * _MB))

        def run() -> object:
            return pretrain(config, tracking=tracking, home=place.path, on_progress=on_progress)

        if how == "full":
            _refused(run, "the pretraining")
            place.empty()
        else:
            with _ill(place, how):
                _refused(run, "the pretraining")
        ill_after = -1
        run()
    check_pretrained(tracking, undisturbed)
    return Outcome()


def check_pretrained(tracking: registry.Tracking, undisturbed: Trained) -> None:
    """LossError unless MLflow has one finished run with the undisturbed curve, and one version."""
    [record] = registry.read_runs(tracking, kind="pretrain")
    check(record.status == "FINISHED", f"the run is {record.status}")
    logged = dict(registry.metric_history(tracking, record.id, "train/loss"))
    check(logged == {step: losses[0] for step, losses in undisturbed.losses.items()}, "the curve is another")
    versions = [version.version for version in registry.list_versions(tracking)]
    check(versions == [1], f"versions {versions} are registered in place of the first")
