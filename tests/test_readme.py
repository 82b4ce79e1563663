"""The README promises only what is there."""

import re
import subprocess
from pathlib import Path

import yaml

from clinscale.corpus import CorpusConfig
from clinscale.tasks import TaskConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tree_names_every_room():
    tree = README.split("## Tree")[1]
    packages = {path.parent.name for path in (ROOT / "clinscale").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "clinscale").glob("[!_]*.py")}
    assert packages <= set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert modules <= set(re.findall(r"\w+", tree))


def test_the_examples_are_what_they_seem():
    task, corpus = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    assert TaskConfig.parse(task, source="README.md").name == "readmission"
    assert CorpusConfig.parse(corpus, source="README.md").sources[0].group_column == "SUBJECT_ID"


def test_every_verb_is_told():
    verbs = {path.stem for path in (ROOT / "clinscale" / "cli").glob("[!_]*.py")} - {
        "main",
        "names",
        "options",
        "output",
    }
    assert verbs == set(re.findall(r"`clinscale (\w+)", README.split("## Verbs")[1].split("##")[0]))


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
