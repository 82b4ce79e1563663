"""Names that users did not give."""

import re
from pathlib import PurePath


def default_name(task: str, model: str) -> str:
    """`TASK-MODEL`, from the last part of each, as a plain file name."""
    parts = [PurePath(task).stem, PurePath(model.split("@")[0].rstrip("/")).name]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-")
