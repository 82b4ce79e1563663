"""Two of one name at once: registrations and promotions, in processes that begin at the same moment."""

import functools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clinscale import promotion, registry
from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.loss import LossError, check
from clinscale.errors import ClinscaleError
from clinscale.runfolder import RECIPE_FILE, claim_run_folder, sole_writer
from clinscale.storage import read_json
from clinscale.sweep import Ledger, Trial

_DEMANDED = "one wins, the other is refused or follows; no mixture"
_TOGETHER = 2
_PATIENCE_S = 300.0


def faults() -> list[Fault]:
    """One for each thing that two may do at once."""
    return [
        Fault("two registrations of one name at once", _DEMANDED, functools.partial(_at_once, what="register")),
        Fault("two promotions of one name at once", _DEMANDED, functools.partial(_at_once, what="promote")),
        Fault("two runs of one name at once", _DEMANDED, functools.partial(_at_once, what="run")),
        Fault("two writers of one ledger at once", _DEMANDED, functools.partial(_at_once, what="ledger")),
    ]


def _at_once(scene: Scene, *, what: str) -> Outcome:
    home = scene.folder / "home"
    home.mkdir()
    tracking = scene.ground.tracking(home)
    if what == "promote":
        _register_two(scene, tracking)
    asked = {"what": what, "home": str(home), "model": str(scene.ground.base_model), "start": str(home / "start")}
    command = [sys.executable, "-m", __name__, json.dumps(asked)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    processes = [subprocess.Popen([*command, str(number)], **pipes) for number in range(_TOGETHER)]
    try:
        for process in processes:  # they have imported all they need
            check(process.stdout is not None and process.stdout.readline() == "ready\n", "a process did not start")
        time.sleep(scene.rng.uniform(0, 0.1))
        (home / "start").touch()
        said = [json.loads(process.communicate(timeout=_PATIENCE_S)[0]) for process in processes]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        raise LossError("a process ended without an answer, or not at all") from None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if what == "promote":
        _check_champion(said, tracking)
        return Outcome()
    if what == "run":
        _check_one_run(said, home)
        return Outcome()
    if what == "ledger":
        winners = [one for one in said if one["error"] is None]
        check(len(winners) == 1, f"{len(winners)} writers were let in")
        check(
            all(one["error"] in (None, "ClusterError") for one in said),
            "the other was not refused as it should be",
        )
        return Outcome()
    failed = [one["error"] for one in said if one["error"]]
    check(not failed, f"a registration failed with {', '.join(failed)}")
    versions = sorted(version.version for version in registry.list_versions(tracking))
    check(versions == [1, 2], f"versions {versions} are there in place of two")
    for version in registry.list_versions(tracking):
        out = scene.folder / f"pulled-{version.version}"
        registry.pull(tracking, f"base/{version.version}", out)  # which compares every file with the manifest
        check(registry.folder_digest(out) == version.digest, "a version's files are another's")
    return Outcome()


def _register_two(scene: Scene, tracking: registry.Tracking) -> None:
    """Versions 1 and 2 of one model, which differ."""
    with registry.start_run(
        tracking, experiment="clinscale-sweep", name="maker", tags={registry.Tag.KIND: "sweep"}, params={}
    ) as run:
        for number in range(_TOGETHER):
            folder = shutil.copytree(scene.ground.base_model, scene.folder / f"model-{number}")
            (folder / "README.md").write_text(str(number), encoding="utf-8")
            registry.register(
                tracking,
                run.id,
                folder,
                name="base",
                tags={registry.Tag.KIND: "base"},
                experiment=registry.Experiment.RELEASES,
            )


def _check_champion(said: list[dict[str, Any]], tracking: registry.Tracking) -> None:
    """LossError unless the moves on record follow one another up to the champion, and the other was refused."""
    check({one["error"] for one in said} <= {None, "RegistryError"}, "a promotion was not refused as it should be")
    moves = promotion.history(tracking, "base")
    done = sum(one["error"] is None for one in said)
    check(done == len(moves) > 0, f"{done} promotions said that they were carried out, {len(moves)} are on record")
    champions = ["", *(move.after for move in moves)]
    check(
        [move.before for move in moves] == champions[:-1], "two promotions are on record as moves of one champion"
    )
    champion = registry.resolve(tracking, f"base@{registry.CHAMPION}")
    check(champion.label == champions[-1], "the champion is not the one of the last move on record")
    check(registry.Tag.DECISION in champion.tags, "the champion has no decision")


def _check_one_run(said: list[dict[str, Any]], home: Path) -> None:
    """LossError unless one process had the folder, with its own recipe in it, and the other was refused."""
    winners = [number for number, one in enumerate(said) if one["error"] is None]
    check(len(winners) == 1, f"{len(winners)} writers were let in")
    refused = {one["error"] for one in said if one["error"]}
    check(refused <= {"ClusterError", "ConfigError"}, f"the other was refused with {', '.join(refused)}")
    recipe = read_json(home / "pretrain" / "base" / RECIPE_FILE)
    check(recipe == {"number": winners[0]}, "the folder has one's recipe and the other's work")


def _main(asked: dict[str, str], number: int) -> None:
    """The work of one of the processes."""
    home, start = Path(asked["home"]), Path(asked["start"])
    tracking = registry.connect(home=home)
    run = registry.start_run(tracking, experiment="clinscale-sweep", name=f"maker-{number}", tags={}, params={})
    print("ready", flush=True)
    while not start.exists():
        time.sleep(0.001)
    error = None
    try:
        if asked["what"] == "ledger":
            ledger = Ledger(home / "ledger.jsonl")
            ledger.start(Trial(0, 0, {"number": number}, "sampler", 0))
            time.sleep(2)  # as long as the other needs to try
        elif asked["what"] == "promote":
            promotion.promote(tracking, f"base/{number + 1}", home=home)
        elif asked["what"] == "run":
            folder = claim_run_folder(home, "pretrain", "base", {"number": number})
            with sole_writer(folder):
                time.sleep(2)
        else:
            registry.register(tracking, run.id, asked["model"], name="base", tags={})
    except ClinscaleError as raised:
        error = type(raised).__name__
    run.end()
    print(json.dumps({"error": error}), flush=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), int(sys.argv[2]))
