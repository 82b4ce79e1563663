"""The model card: facts in Markdown, in the HF folder as README.md, where the hub, MLflow and people look for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clinscale.storage import atomic_path, sha256
from clinscale.visible import visible

CARD = "README.md"
"""Name of the card's file on the hub."""

_GAP = "\u00a0\u00a0"

Section = str | Sequence[Mapping[str, Any]]
"""A paragraph, or rows of equal keys."""


def write_card(
    folder: Path, *, title: str, about: str, sections: Mapping[str, Section], metadata: Mapping[str, Any]
) -> None:
    """Write the card, the hashes of the other files at its end; equal facts and files give equal bytes.

    Args:
        folder: HF folder.
        title: of the card.
        about: what the model is, in a sentence or two.
        sections: heading -> paragraph or table; empty ones are left out.
        metadata: the hub's YAML head, e.g. `library_name`.
    """
    files = [
        {"file": path.name, "bytes": path.stat().st_size, "sha256": f"`{sha256(path)}`"}
        for path in sorted(folder.iterdir())
        if path.name != CARD
    ]
    parts = [f"---\n{yaml.safe_dump(dict(metadata), sort_keys=True)}---", f"# {title}", about]
    for heading, section in {**sections, "Files": files}.items():
        if section:
            parts += [f"## {heading}", section if isinstance(section, str) else _table(section)]
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(visible("\n\n".join(parts)) + "\n", encoding="utf-8")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; cells end in no-break spaces, for MLflow's pages set columns side by side without a gap."""
    columns = list(rows[0])
    cells = [columns, *([_shown(row[column]) for column in columns] for row in rows)]
    head, *body = [f"| {f'{_GAP} | '.join(row)} |" for row in cells]
    return "\n".join([head, f"| {' | '.join(['---'] * len(columns))} |", *body])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
