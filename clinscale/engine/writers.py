"""The group of workers that may write a run's checkpoints: the last one that began from them.

A node that is cut off from its cluster, but not from shared storage, keeps its worker until it notices. By then another
group may have begun in its place, and what the first one still had to write must not replace the other's work.
"""

import json
import secrets
from pathlib import Path

from clinscale import held
from clinscale.storage import write_json

_FILE = ".writers.json"


def take_over(folder: Path) -> int:
    """Number of a new group, the only one that may write in `folder` from now on."""
    group = secrets.randbits(62)  # fits into a tensor of integers, which brings it to the other ranks
    write_json(folder / _FILE, {"group": group})
    return group


def is_last(folder: Path, group: int) -> bool:
    """Whether no other group has taken over since; OSError while the folder cannot be read, one that is away waits."""
    held.require_there(folder)
    return bool(json.loads((folder / _FILE).read_bytes())["group"] == group)
