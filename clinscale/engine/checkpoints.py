"""Checkpoints of a run: written while training goes on, complete or not there at all, found again whatever happened.

    step-00000500/  manifest.json   sizes and hashes of all files, written last
                    state.json      what the training loop wants back
                    rank-0.json     what this rank wrote, sizes and hashes; rank-1.json ...
                    engine/         DeepSpeed's own files

Each rank writes its files into `.step-00000500.partial` and then says so in `rank-R.json`; when all have, the writer of
rank 0 writes the manifest and renames the folder. No step of that is a collective, so no thread waits for a dead rank.
A group that began from here has its own number in the name, and renames nothing when another one began after it.
"""

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from clinscale.config import Config
from clinscale.engine import run_key, writers
from clinscale.engine.manifest import MANIFEST, Manifest, read_manifest
from clinscale.engine.snapshot import Snapshot, Writer, write_files
from clinscale.engine.universal import ENGINE_TAG, convert, universal_folder
from clinscale.errors import AccessError, CapacityError, ClinscaleError, ClusterError, ConfigError
from clinscale.patience import Patience
from clinscale.permissions import make_folder, open_private
from clinscale.storage import read_json, sha256, write_json
from clinscale.units import format_bytes

if TYPE_CHECKING:
    from clinscale.engine.backend import DeepSpeedEngine

_STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")
_UNFINISHED = ".step-*.partial"
_POLL_S, _LONGEST_PAUSE_S = 0.05, 5.0
_PART_S = 60.0  # the least that a worker's part is waited for: it may only be slower, or about to say what ails it
_HEADROOM = 1.02

log = logging.getLogger(__name__)


class RetentionConfig(Config):
    """The rule by which checkpoints stay; the newest whole one always does."""

    num_to_keep: int = Field(default=2, ge=1)
    """The newest ones; with two, a damaged one costs an interval and not the run."""

    keep_every_steps: int | None = Field(default=None, ge=1)
    """Checkpoints of multiples of this many steps stay for good."""

    max_age_s: float | None = Field(default=None, gt=0)
    """Age above which even one of the newest `num_to_keep` goes."""

    keep_best: bool = False
    """The one with the lowest validation loss stays as well, among those that were taken with an evaluation."""


class CheckpointStore:
    """The checkpoints of one run, as one rank of its group sees them."""

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        world_size: int,
        retention: RetentionConfig | None = None,
        patience_s: float = 300.0,
    ) -> None:
        """Keep checkpoints in `folder`, which all ranks share; a write that fails is tried again for `patience_s`."""
        self._folder, self._rank, self._world_size = folder, rank, world_size
        self._retention, self._patience_s = retention or RetentionConfig(), patience_s
        self._snapshot, self._writer = Snapshot(), Writer()
        self._group: int | None = None
        """Our group's number; None where nothing was restored, so that nobody else can have been here."""

    def save(
        self, engine: "DeepSpeedEngine", step: int, state: dict[str, Any], *, metric: float | None = None
    ) -> float:
        """Take a snapshot after `step` steps and write it in a thread; every rank must call it.

        Args:
            engine: whose weights, moments and schedule are kept.
            step: number of steps done.
            state: JSON-ready values that `restore` gives back; the same on every rank.
            metric: validation loss, for `RetentionConfig.keep_best`.

        Returns:
            Seconds that training stood still: the copy, and the wait for the write before if it was not over.

        Raises:
            CapacityError: the write before could not be finished.
        """
        start_s = time.monotonic()
        self._writer.wait()
        group = "" if self._group is None else f".{self._group:x}"
        partial = self._folder / f".{_name(step)}{group}.partial"
        self._snapshot.clear()
        engine.snapshot(self._snapshot, partial)
        manifest = Manifest(
            step=step,
            updates=engine.updates,
            schedule_steps=engine.schedule_steps,
            world_size=self._world_size,
            stage=engine.stage,
            precision=engine.precision,
            metric=metric,
            parameters=engine.parameter_names,
            files={},
            taken_at_s=time.time(),
        )
        text = json.dumps(state) if self._rank == 0 else ""
        self._writer.start(lambda: self._write_patiently(partial, manifest, text))
        return time.monotonic() - start_s

    def wait(self) -> None:
        """Wait until what was saved is whole; CapacityError when it could not be written."""
        self._writer.wait()

    close = wait

    def at(self, step: int) -> Path:
        """Folder of the checkpoint of `step` when it is whole."""
        return self._folder / _name(step)

    def restore(self, engine: "DeepSpeedEngine") -> dict[str, Any] | None:
        """Load the newest whole checkpoint into a new `engine`; every rank must call it.

        What is damaged is set aside with a warning and the one before is used. A checkpoint of another number of
        workers, ZeRO stage or precision is converted.

        Returns:
            The `state` that was saved with it; None when there is no checkpoint.
        """
        step, fault, group = -1, None, 0
        if self._rank == 0:
            try:
                make_folder(self._folder)  # one that is away, and looks as if without checkpoints, is waited for
                group = writers.take_over(self._folder)
                _remove_unfinished(self._folder)
                found = newest_checkpoint(self._folder, set_aside=True)
                if found is not None:
                    manifest = read_manifest(found)
                    step = manifest.step
                    if manifest.stage and not self._fits(engine, manifest):
                        convert(found)
            except (OSError, ClinscaleError) as error:  # the others wait for an answer
                fault = error
        step, self._group = self._from_first_rank(step, group, engine)
        if fault:
            raise _storage_error(self._folder, fault)
        if step < 0:
            return None
        checkpoint = self._folder / _name(step)
        manifest = read_manifest(checkpoint)
        if manifest.parameters != engine.parameter_names:
            raise ConfigError(
                f"checkpoint {checkpoint} holds {len(manifest.parameters)} trained parameters, the model of this run "
                f"has {len(engine.parameter_names)} or others; start under another name"
            )
        if self._fits(engine, manifest):
            engine.load(checkpoint)
        else:
            engine.load_converted(checkpoint, manifest)
        state: dict[str, Any] = read_json(checkpoint / _STATE)
        return state

    def _fits(self, engine: "DeepSpeedEngine", manifest: Manifest) -> bool:
        """Whether DeepSpeed reads its files back as they are: bit-identical, and faster."""
        ours = (engine.stage, engine.precision, self._world_size if engine.stage else 1)
        theirs = (manifest.stage, manifest.precision, manifest.world_size if manifest.stage else 1)
        return ours == theirs

    def _from_first_rank(self, step: int, group: int, engine: "DeepSpeedEngine") -> tuple[int, int]:
        """Rank 0's choice, -1 for no checkpoint, and its group's number, on every rank."""
        import torch

        if self._world_size == 1:
            return step, group
        chosen = torch.tensor([step, group], device=engine.device)
        torch.distributed.broadcast(chosen, src=0)
        return int(chosen[0]), int(chosen[1])

    def _write_patiently(self, partial: Path, manifest: Manifest, state: str) -> None:
        """Write and commit; a full or absent disk may be repaired while training goes on."""
        patience = Patience(self._patience_s, longest_pause_s=_LONGEST_PAUSE_S)
        while True:
            try:
                self._write(partial, manifest, state)
                return
            except OSError as error:
                if not patience.left_s:
                    raise _storage_error(partial, error) from None
                log.warning(
                    "checkpoint %s cannot be written (%s); trying again for %.0f s",
                    partial.parent / _name(manifest.step),
                    error.strerror,
                    patience.left_s,
                )
                patience.pause()

    def _write(self, partial: Path, manifest: Manifest, state: str) -> None:
        self._check_sole(partial)
        make_folder(partial)
        needed = int(self._snapshot.size_bytes * _HEADROOM)
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise OSError(28, f"No space left: {format_bytes(needed)} needed, {format_bytes(free)} free")
        written = write_files(self._snapshot.files)
        if self._rank == 0:
            with open_private(partial / _STATE, "w", encoding="utf-8") as stream:
                stream.write(state)
            written[partial / _STATE] = (len(state.encode()), sha256(partial / _STATE))
        files = {str(path.relative_to(partial)): known for path, known in written.items()}
        write_json(partial / f"rank-{self._rank}.json", files)
        if self._rank == 0:
            self._commit(partial, manifest)

    def _commit(self, partial: Path, manifest: Manifest) -> None:
        files: dict[str, tuple[int, str]] = {}
        wait_s = max(self._patience_s, _PART_S)
        give_up_s = time.monotonic() + wait_s
        for rank in range(self._world_size):
            said = partial / f"rank-{rank}.json"
            while not said.exists():
                if time.monotonic() > give_up_s:
                    raise CapacityError(
                        f"checkpoint {partial.parent / _name(manifest.step)}: worker {rank} of {self._world_size} has "
                        f"not written its part within {wait_s:g} s; all workers must see the folder of the run as one "
                        "file system with room on it: choose a shared --home, or see that worker's log"
                    )
                time.sleep(_POLL_S)
            files |= read_json(said)
        whole = Manifest.model_validate({**manifest.plain(), "files": files})
        signature = run_key.sign(self._folder, whole.signed_text())
        write_json(partial / MANIFEST, whole.sealed(signature))
        self._check_sole(partial)
        target = self._folder / _name(manifest.step)
        shutil.rmtree(target, ignore_errors=True)  # of an attempt that was damaged and is done again
        partial.replace(target)
        self._tidy()

    def _check_sole(self, partial: Path) -> None:
        """ClusterError when another group began in place of ours, and nothing of ours is left there then."""
        if self._group is not None and not writers.is_last(self._folder, self._group):
            shutil.rmtree(partial, ignore_errors=True)
            raise ClusterError(
                f"checkpoints in {self._folder} are written by another group of workers, which began in place of this "
                "one; this worker ends, and what it has not saved the other does again"
            )

    def _tidy(self) -> None:
        """Remove what the retention does not keep."""
        found = sorted(_committed(self._folder), reverse=True)
        manifests = {}
        for step in found:
            with contextlib.suppress(ClinscaleError):  # of a damaged one, which stays to be looked at
                manifests[step] = read_manifest(self._folder / _name(step))
        found = list(manifests)
        wanted, now_s = self._retention, time.time()
        keep = {
            step
            for step in found[: wanted.num_to_keep]
            if wanted.max_age_s is None or now_s - manifests[step].taken_at_s <= wanted.max_age_s
        }
        keep |= {step for step in found if wanted.keep_every_steps and step % wanted.keep_every_steps == 0}
        judged = {step: known.metric for step, known in manifests.items() if known.metric is not None}
        if wanted.keep_best and judged:
            keep.add(min(judged, key=lambda step: (judged[step], -step)))
        for step in found[1:]:
            if step not in keep:
                _remove(self._folder / _name(step))


def newest_checkpoint(folder: Path, *, set_aside: bool = False) -> Path | None:
    """The newest checkpoint in `folder` that is whole and undamaged; None when there is none.

    With `set_aside`, damaged ones are renamed to `*.damaged`, with a warning.
    """
    for step in sorted(_committed(folder), reverse=True):
        checkpoint = folder / _name(step)
        fault = fault_of(checkpoint)
        if fault is None:
            return checkpoint
        log.warning("checkpoint %s is damaged (%s); the one before it is used", checkpoint, fault)
        if set_aside:
            _set_aside(checkpoint)
    return None


def torn_checkpoints(folder: Path) -> dict[Path, str]:
    """Unfinished saves in `folder`, and the checkpoints newer than the newest whole one; each with its fault.

    Reads every byte of those checkpoints; AccessError as `fault_of`.
    """
    torn = {path: "its save did not end" for path in sorted(folder.glob(_UNFINISHED))}
    for step in sorted(_committed(folder), reverse=True):
        fault = fault_of(folder / _name(step))
        if fault is None:
            break
        torn[folder / _name(step)] = fault
    return torn


def fix_torn(checkpoint: Path) -> None:
    """Remove what a killed save left; put a damaged checkpoint aside, as `restore` does."""
    if checkpoint.match(_UNFINISHED):
        shutil.rmtree(checkpoint)
    else:
        _set_aside(checkpoint)


def _set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.replace(aside)


def fault_of(checkpoint: Path) -> str | None:
    """The fault of a checkpoint, None if there is none.

    Reads every byte, and must be called before anything unpickles it.

    Where others may write, its manifest must be signed with the run's key.

    Raises:
        AccessError: it is not.
    """
    try:
        manifest = read_manifest(checkpoint)
    except ClinscaleError:
        return "its manifest cannot be read"
    if run_key.others_may_write(checkpoint) and not run_key.is_signed(
        checkpoint.parent, manifest.signed_text(), manifest.signature
    ):
        raise AccessError(
            f"checkpoint {checkpoint} is where others may write, and is not signed with this run's key, "
            f"{run_key.key_file(checkpoint.parent)}; loading it could run their code: start under another name, bring "
            "the key from the account or machine that began the run, or, where nobody else has written there, "
            f"chmod -R go-w {checkpoint.parent}"
        )
    if not manifest.is_as_written:
        return "its manifest has other content than was written"
    if _NAME.fullmatch(checkpoint.name) and checkpoint.name != _name(manifest.step):
        return f"it is that of step {manifest.step}"
    there = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if not path.is_dir()}
    unpickled = {
        name for name in there if name.startswith(f"{ENGINE_TAG}/")
    }  # DeepSpeed loads what it finds there
    if strange := sorted(unpickled - manifest.files.keys()):
        return f"{strange[0]} is not in its manifest"
    for name, (size, digest) in manifest.files.items():
        path = checkpoint / name
        if name not in there or path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if sha256(path) != digest:
            return f"{name} has other content than was written"
    return None


def _committed(folder: Path) -> Iterator[int]:
    """Steps of all checkpoints that were finished; whatever happened to them since."""
    if folder.is_dir():
        for entry in folder.iterdir():
            if match := _NAME.fullmatch(entry.name):
                yield int(match[1])


def _remove(checkpoint: Path) -> None:
    """Remove it from sight at once, then from the disk."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.partial")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.replace(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    shutil.rmtree(universal_folder(checkpoint), ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    for entry in folder.glob(_UNFINISHED):
        shutil.rmtree(entry, ignore_errors=True)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _storage_error(place: Path, error: Exception) -> ClinscaleError:
    if isinstance(error, ClinscaleError):
        return error
    reason = getattr(error, "strerror", None) or type(error).__name__
    return CapacityError(
        f"checkpoint folder {place.parent if place.name.endswith('.partial') else place} cannot be used: {reason}; "
        "make room or fix it, then start the same command again: it goes on from the last whole checkpoint"
    )
