"""What messages, help and docstrings name is there: commands, their options, keys of configs."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

import clinscale
from clinscale.cli import guide
from clinscale.cli.main import app
from clinscale.config import key_paths
from clinscale.corpus import CorpusConfig
from clinscale.finetune import FinetuneConfig
from clinscale.pretrain import PretrainConfig
from clinscale.study import Protocol
from clinscale.sweep import SweepConfig

PACKAGE = Path(clinscale.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMAND = re.compile(r"clinscale ((?:[a-z][a-z-]* ?)+)")
OPTION = re.compile(r"(?<![\w/-])--[a-z][a-z_-]+")
KEY = re.compile(r"(?<![\w./])((?:recipe|runtime|gate|sweep_runtime|pretrain_runtime)(?:\.[a-z_]+)+)")

OF_OTHERS = {
    "--line_by_line": "run_mlm.py",
    "--no-deps": "pip",
    "--generate": "ray",
    "--dashboard-host": "ray",
    "--num-gpus": "ray",
    "--temp-dir": "ray",
    "--experiment-id": "mlflow",
    "--from-file": "kubectl",
    "--privileged": "docker",
    "--cap-add": "docker",
    "--publish": "docker",
    "--time": "sbatch",
}
"""Options of other programs that messages name -> the program."""

PLACEHOLDERS = {"recipe.key", "runtime.fork_session"}
"""Words in the form of a key: one for any, and a function of a room."""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and words of each sentence among the strings of a module; what f-strings fill in is left out as …."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if " " in text.strip():
            yield node.lineno, " ".join(text.split())


@cache
def root():
    return typer.main.get_command(app)


def options_of(command) -> set[str]:
    """Options of a command, and of those below it."""
    own = {word for one in command.params for word in (*one.opts, *one.secondary_opts)} | {"--help"}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


@cache
def keys() -> frozenset[str]:
    """Keys of all configs and of their sections."""
    paths = [
        path
        for config in (PretrainConfig, FinetuneConfig, SweepConfig, Protocol, CorpusConfig)
        for path in key_paths(config)
    ]
    parts = [path.split(".") for path in paths]
    return frozenset(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1))


def commands_and_keys(text: str) -> Iterator[str]:
    """Commands, their options and keys of configs that a text names and that are not there."""
    for quoted in re.findall(r"`clinscale ([a-z-]+)", text):
        if quoted not in root().commands:
            yield f"clinscale {quoted}"
    for found in COMMAND.finditer(text):
        command, words = root(), found[1].split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        if command is root():
            continue
        behind = re.match(r"[^`;,:)]*", text[found.end() :])[0].partition(" -- ")[0]
        yield from (f"{command.name} {one}" for one in OPTION.findall(behind) if one not in options_of(command))
    yield from (key for key in KEY.findall(text) if key not in keys() | PLACEHOLDERS)


def faults(text: str) -> Iterator[str]:
    """What a sentence of the program names that is not there."""
    yield from commands_and_keys(text)
    yield from (one for one in OPTION.findall(text) if one not in options_of(root()) | OF_OTHERS.keys())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("run `clinscale tuen` again", ["clinscale tuen"]),
        ("clinscale pull x --updat moves on", ["pull --updat", "--updat"]),
        ("lower recipe.epoch", ["recipe.epoch"]),
        ("run `clinscale models promote x --why y`, lower recipe.optimizer.learning_rate, clinscale is here", []),
    ],
)
def test_a_name_that_is_not_there_is_found(text, found):
    assert sorted(set(faults(text))) == sorted(found)


def test_messages_and_docstrings_name_what_is_there():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {fault}"
        for path in MODULES
        for line, text in texts(path.read_text(encoding="utf-8"))
        for fault in faults(text)
    ]
    assert not found, "no such command, option or key:\n" + "\n".join(found)


def test_pages_and_files_that_are_shipped_name_what_is_there():
    root = PACKAGE.parent
    pages = [root / "README.md", *(guide.page(topic) for topic in guide.PAGES)]
    pages += [*PACKAGE.rglob("*.yaml"), *PACKAGE.rglob("*.j2"), *(root / "search_spaces").glob("*.yaml")]
    assert len(pages) > 40
    found = [
        f"{page.relative_to(root)}: {fault}"
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        for fault in commands_and_keys(line)
    ]
    assert not found, "no such command, option or key:\n" + "\n".join(found)
