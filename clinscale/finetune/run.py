"""One fine-tuning as a tracked run: epochs to MLflow, the test split judged once."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from clinscale import registry
from clinscale.config import fingerprint
from clinscale.finetune.config import FinetuneConfig
from clinscale.finetune.evaluate import judge, task_tags
from clinscale.finetune.loop import finetune
from clinscale.runfolder import claim_run_folder
from clinscale.storage import read_json, write_json
from clinscale.tasks import load_task, read_task

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class FinetuneSummary:
    """What a finished fine-tuning scored."""

    folder: Path
    dev: float
    """The task's metric on the development split at the best epoch."""
    metric: str
    test: dict[str, float]
    trivial: dict[str, float]


def run_finetune(
    config: FinetuneConfig,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    on_progress: Callable[[dict[str, float]], None] | None = None,
) -> FinetuneSummary:
    """Fine-tune once under `config.name` and judge the test split once; a finished name returns its result.

    Raises:
        ConfigError: the name stands for another recipe. DataError: data or model are not there.
    """
    task = load_task(config.task)
    data = read_task(task, config.data)
    recipe = {"task": task.plain(), "data": data.fingerprint, **config.recipe.plain()}
    folder = claim_run_folder(home, "finetune", config.name, recipe)
    done = folder / RESULT_FILE
    if not done.exists():
        run = registry.resume_or_start_run(
            tracking,
            experiment="clinscale-finetune",
            name=config.name,
            kind="finetune",
            recipe=fingerprint(recipe),
            tags=task_tags(data),
            params=config.recipe.plain(),
        )

        def on_epoch(metrics: dict[str, float]) -> None:
            run.log({key: value for key, value in metrics.items() if key != "step"}, step=int(metrics["step"]))
            if on_progress:
                on_progress(metrics)

        with run:
            best = finetune(config.recipe, data, folder / "hf", runtime=config.runtime, on_epoch=on_epoch)
            judged = judge(best.folder, data, attention=config.runtime.attention)
            run.log(judged.as_metrics(task.name))
        write_json(done, {"dev": best.value, **asdict(judged)})
    return FinetuneSummary(folder=folder / "hf", **read_json(done))
