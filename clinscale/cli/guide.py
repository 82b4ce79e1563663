"""`clinscale guide`: the pages of the documentation in a terminal."""

from pathlib import Path
from typing import Annotated

import typer

import clinscale
from clinscale.cli.options import Json
from clinscale.cli.output import emit, table
from clinscale.config import nearest
from clinscale.errors import ConfigError

PAGES = {
    "tasks": ("clinscale/tasks/README.md", "data sets by name, your own data, how they are read and scored"),
    "sweeps": ("search_spaces/README.md", "how hyperparameters are searched; the grammar of a space"),
    "studies": ("clinscale/study/README.md", "models by tasks by seeds under one protocol; the league table"),
    "pretrain": ("clinscale/pretrain/README.md", "corpus, pretraining, checkpoints"),
    "models": ("clinscale/registry/README.md", "registry, gate, versions, pull, prediction, signatures"),
    "clusters": ("cluster/README.md", "Ray clusters, Slurm, Kubernetes, a server for a team, no internet"),
    "threats": (
        "clinscale/THREATS.md",
        "who may do what: other users, accounts of the server, other people's files",
    ),
    "figures": ("clinscale/bench/README.md", "what was measured, where, and with which command"),
    "house": ("clinscale/README.md", "how the code is laid out; how to add to it"),
}
"""Each topic's page within a checkout, and its subject."""


def guide(
    topic: Annotated[str | None, typer.Argument(help="Which page; none lists them.")] = None,
    json: Json = False,
) -> None:
    """Show a page of the documentation, or the list of pages.

    Example: `clinscale guide sweeps`
    """
    if topic is None:
        rows = [{"topic": name, "about": about} for name, (_, about) in PAGES.items()]
        emit({"pages": rows}, as_json=json, people=table("Pages", rows))
        return
    from rich.markdown import Markdown

    text = page(topic).read_text(encoding="utf-8")
    emit({"topic": topic, "text": text}, as_json=json, people=Markdown(text))


def page(topic: str) -> Path:
    """The file of a topic: at its place in a checkout, within the package in a wheel; ConfigError if unknown."""
    if topic not in PAGES:
        raise ConfigError(f"the guide has no page {topic!r}; {nearest(topic, list(PAGES))}")
    package, place = Path(clinscale.__file__).parent, PAGES[topic][0]
    beside = package.parent / place
    return beside if beside.exists() else package / place
