"""The house: imports go down the floors only, heavy libraries have one owner, room interiors are private."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clinscale"

GROUND = [
    "telemetry",
    "errors",
    "interrupts",
    "patience",
    "strict_yaml",
    "config",
    "units",
    "visible",
    "held",
    "permissions",
    "stores",
    "encodings",
    "storage",
    "hub",
    "tokenizers",
    "cells",
    "records",
    "filters",
    "runfolder",
    "synthetic",
]
"""On the ground floor a module may import the ones before it."""

FLOORS: list[set[str]] = [
    set(GROUND),
    {"runtime"},
    {"corpus", "models", "tasks", "engine", "registry"},
    {"predict", "scan"},
    {"pretrain", "finetune"},
    {"promotion"},
    {"sweep"},
    {"plan"},
    {"bench", "report", "launch"},
    {"study"},
    {"cli"},
]
"""From the ground up. Rooms on one floor never import each other."""

OWNERS: dict[str, set[str]] = {
    "fsspec": {"storage", "records"},
    "ray.tune": {"sweep", "bench"},  # bench measures the peer
    "ray.train": {"runtime"},
    "ray.data": {"runtime"},
    "ray.autoscaler": {"launch"},
    "ray.job_submission": {"launch"},
    "ray": {"runtime", "sweep", "launch"},
    "jsonschema": {"launch"},
    "datasets": {"corpus", "bench"},
    "duckdb": {"tasks", "corpus"},
    "rensa": {"corpus"},
    "deepspeed": {"engine"},
    "schedulefree": {"engine"},
    "mlflow": {"registry", "predict/pyfunc"},  # the one file that MLflow itself loads: a model from code
    "optuna": {"sweep", "bench"},
    "matplotlib": {"report", "bench", "sweep"},  # sweep draws with Optuna's own plots
    "jinja2": {"report", "launch"},
    "typer": {"cli"},
    "spacy": {"predict/spacy"},  # the optional extra
    "cryptography": {"registry"},
}
"""Heavy libraries and the rooms (or single files) that may import them."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_in(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of all imports of a file, late and type-only ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            if node.module in ("clinscale", "ray"):
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module or "", node.lineno


def modules() -> list[Path]:
    return [
        p
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.name not in ("__init__.py", "__main__.py") or p.parent != PACKAGE
    ]


def floor_of(room: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor():
    named = set().union(*FLOORS)
    assert {room_of(path) for path in modules()} <= named


def test_imports_go_down_the_floors_only():
    breaches = []
    for path in modules():
        room = room_of(path)
        for name, line in imports_in(path):
            if not name.startswith("clinscale."):
                continue
            other = name.split(".")[1]
            if other == room or other == "__version__":
                continue
            if room in GROUND and other in GROUND:
                allowed = GROUND.index(other) < GROUND.index(room)
            else:
                allowed = floor_of(other) < floor_of(room)
            if not allowed:
                breaches.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not breaches, "\n".join(breaches)


def test_no_module_imports_itself_by_way_of_others():
    dotted = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in modules()}
    paths = {name.removesuffix(".__init__"): path for name, path in dotted.items()}
    imported: dict[str, set[str]] = {}
    for name, path in paths.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        pairs = {(node.module or "", f"{node.module}.{alias.name}") for node in nodes for alias in node.names}
        # `from clinscale.engine import run_key` is of the module `run_key`, where there is one, else of the room
        modules_named = {full if full in paths else module for module, full in pairs}
        imported[name] = (modules_named & paths.keys()) - {name}  # as `__main__` a module may import itself
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        pytest.fail("imports go in a circle: " + " < ".join(error.args[1]))


def test_room_interiors_are_private():
    breaches = []
    for path in modules():
        room = room_of(path)
        for name, line in imports_in(path):
            parts = name.split(".")
            if parts[0] == "clinscale" and len(parts) > 2 and parts[1] != room and (PACKAGE / parts[1]).is_dir():
                breaches.append(f"{path.relative_to(PACKAGE)}:{line} reaches into {name}")
    assert not breaches, "\n".join(breaches)


def test_heavy_libraries_have_one_owner():
    breaches = []
    for path in modules():
        for name, line in imports_in(path):
            owner = next((lib for lib in OWNERS if name == lib or name.startswith(f"{lib}.")), None)
            place = str(path.relative_to(PACKAGE)).removesuffix(".py")
            if owner and not OWNERS[owner] & {room_of(path), place}:
                breaches.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not breaches, "\n".join(breaches)
