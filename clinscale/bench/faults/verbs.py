"""Verbs of the command line that an interruption is tried at, and those at which it is not, with the reason."""

import json
from collections.abc import Callable
from pathlib import Path

from clinscale import registry
from clinscale.bench.faults.ground import Ground
from clinscale.bench.faults.sweeps import search_space

Words = Callable[[Ground, Path], list[str]]
"""Words of the command line after the verb, for a home."""


def _corpus_build(ground: Ground, home: Path) -> list[str]:
    notes = str(ground.data / "notes" / "notes.jsonl.gz")
    return [
        notes,
        "--id-column",
        "id",
        "--out",
        str(home / "shards"),
        "vocab_size=1024",
        "validation_fraction=0.15",
    ]


def _pretrain(ground: Ground, home: Path) -> list[str]:
    path = home / "pretrain.json"
    path.write_text(json.dumps(ground.pretraining().plain()), encoding="utf-8")
    return [str(path), "--home", str(home)]


def _verify_resume(ground: Ground, home: Path) -> list[str]:
    few = ["--stage", "0", "--steps", "4", "--checkpoint-every-steps", "2", "--kills", "1"]
    return [*_pretrain(ground, home), *few]


def _pairs(ground: Ground, home: Path) -> list[str]:
    task = ["--task", "demo_pairs", "--data", str(ground.data), "--model", str(ground.base_model)]
    return [*task, "--home", str(home), "--name", "one"]


def _finetune(ground: Ground, home: Path) -> list[str]:
    return [*_pairs(ground, home), "recipe.epochs=3", "recipe.max_tokens=64"]


def _tune(ground: Ground, home: Path) -> list[str]:
    return [*_pairs(ground, home), "--space", str(search_space(ground)), "recipe.budget.trials=3"]


def _study(ground: Ground, home: Path) -> list[str]:
    protocol = {
        "name": "one",
        "data_folder": str(ground.data),
        "bases": {"short": {"pretrained": str(ground.base_model)}},
        "models": {"short 64": {"base": "short", "max_tokens": 64}},
        "tasks": {"demo_pairs": {"data": ".", "space": str(search_space(ground))}},
        "seeds": 1,
        "search": {"budget": {"trials": 2}, "scheduler": "none"},
    }
    path = home / "protocol.yaml"
    path.write_text(json.dumps(protocol), encoding="utf-8")
    return [str(path), "--home", str(home)]


def _predict(ground: Ground, home: Path) -> list[str]:
    rows = "".join(f"{number},the patient has a fever,there is fever\n" for number in range(200))
    (home / "new.csv").write_text(f"id,premise,hypothesis\n{rows}", encoding="utf-8")
    return [str(ground.pairs_model), str(home / "new.csv"), "--out", str(home / "out.jsonl"), "--home", str(home)]


def _report(ground: Ground, home: Path) -> list[str]:
    return ["--out", str(home / "report.html"), "--home", str(home)]


def _pull(ground: Ground, home: Path) -> list[str]:
    tracking = registry.connect(f"sqlite:///{home / 'mlflow.db'}")
    if not registry.list_versions(tracking):
        with registry.start_run(tracking, experiment="clinscale-sweep", name="maker", tags={}, params={}) as run:
            registry.register(tracking, run.id, ground.base_model, name="base", tags={})
    return ["base/1", "--out", str(home / "out"), "--lock", str(home / "models.lock"), "--home", str(home)]


def _of_task(ground: Ground, home: Path) -> list[str]:
    return ["demo_pairs", "--data", str(ground.data)]


INTERRUPTED_VERBS: dict[str, Words] = {
    "corpus build": _corpus_build,
    "report": _report,
    "predict": _predict,
    "pull": _pull,
    "tasks check": _of_task,
    "tasks baseline": _of_task,
    "doctor": lambda ground, home: ["--home", str(home)],
    "ui": lambda ground, home: ["--home", str(home)],
    "finetune": _finetune,
    "tune": _tune,
    "study": _study,
    "pretrain run": _pretrain,
    "pretrain verify-resume": _verify_resume,
    "demo": lambda ground, home: ["--dir", str(home / "demo"), "--scale", "0.03", "--num-trials", "2"],
}
"""Verbs that run for long by themselves, and words that let them do little."""

ENDLESS = {"ui"}
"""Verbs that an interruption is the way to end."""

_READS, _MOMENT, _ELSEWHERE, _MEASURES, _SERVES = (
    "reads and prints, and leaves nothing that could be half done",
    "one change within a moment",
    "needs a cluster or other hosts",
    "measures in folders that it removes, and has nothing to go on with",
    "ends as `ui` does, with the same code",
)
NOT_INTERRUPTED = {
    **dict.fromkeys(("guide", "corpus show", "tasks", "tasks show"), _READS),
    **dict.fromkeys(("plan tune", "plan study", "plan pretrain"), _READS),
    **dict.fromkeys(("models", "models show", "models lineage", "models bom", "models scan"), _READS),
    **dict.fromkeys(("cluster check", "cluster rights", "bench compare"), _READS),
    **dict.fromkeys(("models promote", "models rollback", "models sign", "models clean"), _MOMENT),
    **dict.fromkeys(("models convert", "cluster render", "bench tables"), _MOMENT),
    **dict.fromkeys(("submit", "cluster up", "cluster down", "cluster preflight", "cluster user"), _ELSEWHERE),
    **dict.fromkeys(("bench all", "bench faults", "bench attention", "bench step", "bench predict"), _MEASURES),
    **dict.fromkeys(
        ("bench loading", "bench checkpoint", "bench zero", "bench plan", "bench pretrain"), _MEASURES
    ),
    **dict.fromkeys(("bench corpus", "bench recipe", "bench search"), _MEASURES),
    "cluster mlflow": _SERVES,
}
"""Reasons why no interruption is tried at the other verbs."""
