"""The tasks that clinscale knows by name, and tasks of the user's own from YAML."""

from pathlib import Path

from clinscale.config import nearest
from clinscale.errors import ConfigError
from clinscale.tasks.task import ColumnsConfig, TaskConfig


def catalog() -> dict[str, TaskConfig]:
    """Task name -> its contract; the demo's four tasks read what `clinscale.synthetic` writes."""
    return {task.name: task for task in _TASKS}


def load_task(name_or_yaml: str) -> TaskConfig:
    """The named task of the catalog, or the task in a YAML file.

    Raises:
        ConfigError: no such name (the nearest is told) or file, or the file is no valid task.
    """
    if Path(name_or_yaml).suffix in (".yaml", ".yml"):
        return TaskConfig.load(name_or_yaml)
    known = catalog()
    if name_or_yaml not in known:
        raise ConfigError(
            f"task {name_or_yaml!r} is not in the catalog; {nearest(name_or_yaml, list(known))} "
            "For a task of your own give the path of a .yaml file"
        )
    return known[name_or_yaml]


def _files(folder: str, suffix: str) -> dict[str, str]:
    return {split: f"{folder}/{split}{suffix}" for split in ("train", "dev", "test")}


_TASKS = (
    TaskConfig(
        name="demo_documents",
        kind="sequence",
        format="records",
        splits=_files("documents", ".csv"),
        columns=ColumnsConfig(id="id"),
    ),
    TaskConfig(
        name="demo_pairs",
        kind="pair",
        format="records",
        splits=_files("pairs", ".jsonl"),
        columns=ColumnsConfig(id="id", text="premise", text_pair="hypothesis"),
    ),
    TaskConfig(name="demo_entities", kind="tokens", format="brat", splits=_files("entities", "")),
    TaskConfig(name="demo_questions", kind="spans", format="squad", splits=_files("questions", ".json")),
    # Surgical pathology reports of TCGA read by OCR, one CSV per organ; the organ is the only gold label.
    TaskConfig(
        name="tcga_organ",
        kind="sequence",
        format="records",
        splits={"all": "."},
        split_ratios=(0.7, 0.1, 0.2),
        columns=ColumnsConfig(text="ocr_text"),
        label_from="file",
        on_empty="skip",
    ),
)
