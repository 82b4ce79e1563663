"""Faults of checkpoints on the disk: a run is gone on with after each, and must end as the undisturbed one."""

import functools
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.ground import EVERY_STEPS, STEPS
from clinscale.bench.faults.loss import check

_DEMANDED = "detected, the previous good one used, said in one line; curve and weights as undisturbed"
_KILLED_AT = STEPS - EVERY_STEPS
_MANIFEST = "manifest.json"

Damage = Callable[[Path, Path, random.Random], None]
"""Does something to the newest checkpoint; takes it, the one before it, and the source of chance."""


def _truncate(newest: Path, before: Path, rng: random.Random) -> None:
    file = rng.choice(_files(newest))
    with file.open("r+b") as stream:
        stream.truncate(rng.randrange(file.stat().st_size))


def _flip(newest: Path, before: Path, rng: random.Random) -> None:
    _flip_byte(rng.choice(_files(newest)), rng)


def _flip_manifest(newest: Path, before: Path, rng: random.Random) -> None:
    """One digit becomes another, so that the manifest can still be read."""
    file = newest / _MANIFEST
    content = bytearray(file.read_bytes())
    place = rng.choice([at for at, byte in enumerate(content) if chr(byte).isdigit()])
    content[place] = rng.choice([digit for digit in b"123456789" if digit != content[place]])
    file.write_bytes(content)


def _no_manifest(newest: Path, before: Path, rng: random.Random) -> None:
    (newest / _MANIFEST).unlink()


def _mix(newest: Path, before: Path, rng: random.Random) -> None:
    """One file that changes from step to step comes from the step before."""
    changed = [
        name for name in _names(newest) if name.startswith("engine/") and _differ(newest / name, before / name)
    ]
    shutil.copyfile(before / (name := rng.choice(changed)), newest / name)


def _older(newest: Path, before: Path, rng: random.Random) -> None:
    """A backup of the step before is put where the newest was; that step itself is gone, as after a tidy."""
    shutil.rmtree(newest)
    before.rename(newest)


_DAMAGES: dict[str, Damage] = {
    "checkpoint truncated": _truncate,
    "checkpoint with one byte flipped": _flip,
    "checkpoint's manifest with one digit changed": _flip_manifest,
    "checkpoint's manifest missing": _no_manifest,
    "checkpoint mixed from two steps": _mix,
    "older checkpoint under the newest's name": _older,
}


def faults() -> list[Fault]:
    """One for each damage."""
    return [
        Fault(name, _DEMANDED, functools.partial(_attempt, damage=damage)) for name, damage in _DAMAGES.items()
    ]


def _attempt(scene: Scene, *, damage: Damage) -> Outcome:
    made = scene.ground.checkpoints_until(_KILLED_AT, scene.folder)
    newest, before = (made / f"step-{step:08d}" for step in (_KILLED_AT, _KILLED_AT - EVERY_STEPS))
    damage(newest, before, scene.rng)
    survived = 0 if damage is _older else _KILLED_AT - EVERY_STEPS
    trained = scene.ground.train(scene.folder)
    trained.compare(scene.ground.undisturbed)
    check(trained.first_step == survived, f"went on from step {trained.first_step} instead of {survived}")
    check(newest.with_name(f"{newest.name}.damaged").is_dir(), "the damaged checkpoint was not set aside")
    return Outcome(lost_steps=_KILLED_AT - trained.first_step)


def _names(checkpoint: Path) -> list[str]:
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def _files(checkpoint: Path) -> list[Path]:
    """Files that a resumed run reads: no rank's message on what the manifest holds, no script of DeepSpeed."""
    return [checkpoint / name for name in _names(checkpoint) if not name.startswith(("rank-", "zero_to_"))]


def _differ(file: Path, other: Path) -> bool:
    return not other.exists() or file.read_bytes() != other.read_bytes()


def _flip_byte(file: Path, rng: random.Random) -> None:
    place = rng.randrange(file.stat().st_size)
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1 << rng.randrange(8)]))
