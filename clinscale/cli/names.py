"""Names that users did not give."""

import re
from pathlib import PurePath


def default_name(task: str, model: str, max_tokens: int | None = None) -> str:
    """`TASK-MODEL`, or `TASK-MODEL-512` for a window, from the last part of each, as a plain file name.

    Of a run's folder RUN/hf, where pretraining leaves its model, that is RUN.
    """
    folder = PurePath(model.split("@")[0])
    parts = [
        PurePath(task).stem,
        folder.parent.name if folder.name == "hf" and folder.parent.name else folder.name,
    ]
    parts += [str(max_tokens)] if max_tokens else []
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-._")
