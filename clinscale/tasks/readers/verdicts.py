"""Verdicts of annotation tools on annotations that their annotator rejected or skipped: no gold."""

from collections.abc import Collection, Mapping
from typing import Any

REJECTED = "rejected or skipped by its annotator"

_VERDICTS: dict[str, Collection[str]] = {
    "answer": ("reject", "ignore"),  # Prodigy, of a row and of a span
    "was_cancelled": ("true", "1"),  # Label Studio, of each annotation of a row
}


def is_rejected(fields: Mapping[str, Any], gold: Collection[str] = ()) -> bool:
    """Whether a row, or an object within it on the way to one of its `gold` columns, is marked as rejected.

    A column that is gold itself is no verdict, whatever its name.
    """
    return _is_marked(fields, gold) or any(
        _is_marked(part, ()) for path in gold for part in _on_the_way(fields, path)
    )


def _is_marked(fields: Mapping[str, Any], gold: Collection[str]) -> bool:
    return any(
        name not in gold and str(fields.get(name)).strip().lower() in verdicts
        for name, verdicts in _VERDICTS.items()
    )


def _on_the_way(fields: Mapping[str, Any], path: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    value: Any = fields
    for name in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            break
        if isinstance(value, Mapping):
            found.append(value)
    return found
