"""README and the guide's pages promise only what is there."""

import ast
import re
import shlex
import subprocess
import typing
from pathlib import Path

import pytest
import typer

from clinscale.cli import guide
from clinscale.cli.main import app as verbs_app
from clinscale.corpus import CorpusConfig
from clinscale.study import Protocol
from clinscale.sweep.space import SearchSpace
from clinscale.tasks import TaskConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted({ROOT / "README.md", ROOT / "tests" / "README.md", *(guide.page(topic) for topic in guide.PAGES)})


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page):
    """The clinscale commands of a page, as lists of words."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and words[0].rpartition("/")[2] == "clinscale":
                    yield words[1:]


def test_the_tree_names_every_room():
    tree = guide.page("house").read_text().split("## Tree")[1]
    packages = {path.parent.name for path in (ROOT / "clinscale").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "clinscale").glob("[!_]*.py")}
    assert packages <= set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert modules <= set(re.findall(r"\w+", tree))


def test_yaml_is_what_it_seems(tmp_path):
    def load(config, page):
        [text] = blocks(page, "yaml")
        (tmp_path / "page.yaml").write_text(text)
        return config.load(tmp_path / "page.yaml")

    assert load(TaskConfig, ROOT / "README.md").name == "readmission"
    assert load(CorpusConfig, guide.page("pretrain")).sources[0].group_column == "SUBJECT_ID"
    assert load(SearchSpace, guide.page("sweeps")).constraints.minutes_per_trial == 90
    assert load(Protocol, guide.page("studies")).models["Longformer 512"].max_tokens == 512


def test_python_imports_what_exists():
    [block] = blocks(ROOT / "README.md", "python")
    lines = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
    assert lines
    for node in lines:
        exec(ast.unparse(node), {})


def test_python_reads_attributes_that_the_returned_types_have():
    tree = ast.parse(blocks(ROOT / "README.md", "python")[0])
    names = {}
    exec("".join(ast.unparse(node) + "\n" for node in tree.body if isinstance(node, ast.ImportFrom)), names)
    types = {}
    for node in ast.walk(tree):
        target, value = getattr(node, "targets", [getattr(node, "target", None)])[0], getattr(node, "value", None)
        value = node.iter if isinstance(node, ast.For) else value
        if isinstance(target, ast.Name) and isinstance(value, ast.Call):
            returned = typing.get_type_hints(eval(ast.unparse(value.func), names))["return"]
            types[target.id] = typing.get_args(returned)[0] if isinstance(node, ast.For) else returned
    read = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(getattr(node, "value", None), ast.Name)
        and isinstance(node, ast.Attribute)
        and node.value.id in types
    ]
    assert {name for name, _ in read} >= {"version", "pulled"}
    for name, attribute in read:
        assert attribute in typing.get_type_hints(types[name]) or hasattr(types[name], attribute), (
            name,
            attribute,
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_commands_have_known_options(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link
    app = typer.main.get_command(verbs_app)
    for words in commands(page):
        command, rest = app, list(words)
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        assert command is not app, words
        verbs = [command, *getattr(command, "commands", {}).values()]  # `pretrain` runs without naming its verb
        known = {
            option
            for verb in verbs
            for parameter in verb.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        before = rest[: rest.index("--")] if "--" in rest else rest
        used = {word.split("=")[0] for word in before if word.startswith("--")}
        assert used <= known, (words, used - known)


def test_every_line_of_the_threat_model_names_a_test_that_is_there():
    page = guide.page("threats")
    links = re.findall(r"\]\(([^)#]+)#(\w+)\)", page.read_text())
    assert len(links) > 10
    for file, name in links:
        assert f"def {name}(" in (page.parent / file).read_text(), name


def test_every_verb_is_told():
    verbs = set(typer.main.get_command(verbs_app).commands)
    assert verbs == set(
        re.findall(r"`clinscale (\w+)", README.split("## Verbs")[1].split("\n| verb")[1].split("##")[0])
    )


def test_the_front_door_is_short():
    words = [word for word in README.split() if any(letter.isalnum() for letter in word)]
    assert len(words) < 1150, "marks of tables and fences do not count"


def test_the_gate_runs_the_readmes_own_command():
    marked = README.split("<!-- tests -->")[1].split("```")[1].removeprefix("bash\n").strip()
    extracted = subprocess.run(
        ["sed", "-n", "/<!-- tests -->/,/```$/p", str(ROOT / "README.md")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in extracted.splitlines() if "<!--" not in line and "```" not in line]
    assert lines == [marked]
    assert "pytest" in marked
