"""Fine-tuning as a tracked run: epochs to MLflow, the test split judged once for each seed."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from clinscale import models, registry
from clinscale.config import fingerprint
from clinscale.engine import describe_precision
from clinscale.errors import DataError
from clinscale.finetune.alone import finetune
from clinscale.finetune.config import FinetuneConfig
from clinscale.finetune.evaluate import (
    OUTCOMES_BY_SEED_FILE,
    OUTCOMES_FILE,
    Scores,
    check_judged,
    judge,
    task_inputs,
    task_tags,
)
from clinscale.finetune.group import Event, finetune_on_workers
from clinscale.finetune.loop import OnEpoch
from clinscale.registry import Experiment, Tag
from clinscale.runfolder import RECIPE_FILE, check_run_folder, check_unchanged, claim_run_folder, sole_writer
from clinscale.storage import read_json, write_json
from clinscale.tasks import TaskData, check_use, load_task, read_task
from clinscale.tokenizers import load_tokenizer

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class SeedResult:
    """The result of one seed of a fine-tuning, as its file holds it."""

    seed: int
    dev: float
    """The metric on the development split at the best epoch."""
    metrics: dict[str, float]
    """All metrics by their MLflow keys."""
    scores: Scores
    model: str
    """Fingerprint of the model that was judged; empty in files of earlier versions."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready values that `parse` reads back."""
        return {
            "seed": self.seed,
            "dev": self.dev,
            "metrics": self.metrics,
            "model": self.model,
            **self.scores.plain(),
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """The result from the values that `plain` made; DataError when they are something else."""
        scores = Scores.parse(values, source=source)
        try:
            known = str(values.get("model", ""))
            return cls(values["seed"], float(values["dev"]), dict(values["metrics"]), scores, known)
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{source} holds no result of a seed; delete it to judge the model again") from None


@dataclass(frozen=True)
class FinetuneSummary:
    """Scores of a finished fine-tuning; of several seeds, the one that was best on the development split."""

    folder: Path
    """HF folder of that seed."""
    best: SeedResult
    """The seed that was kept."""
    seeds: tuple[SeedResult, ...]

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return self.best.scores.metric

    @property
    def test(self) -> dict[str, float]:
        """Test scores of the seed that was kept."""
        return self.best.scores.test

    @property
    def test_mean(self) -> float:
        """Mean of the metric over seeds."""
        return statistics.fmean(one.scores.test[self.metric] for one in self.seeds)

    @property
    def test_deviation(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        scores = [one.scores.test[self.metric] for one in self.seeds]
        return statistics.stdev(scores) if len(scores) > 1 else None


def run_finetune(
    config: FinetuneConfig,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    on_progress: OnEpoch | None = None,
    on_event: Event | None = None,
) -> FinetuneSummary:
    """Fine-tune under `config.name` and judge the test split once a seed; a finished name returns its result.

    Needs a `ray_session` for several workers.

    Raises:
        ConfigError: the name belongs to another recipe. DataError: data or model are not there, a split
            judges nothing, or a result is without its model. ChangedDataError: the folder of the model, or of a result,
            holds another one by now.
        ClusterError: another process runs it, too.
    """
    data = read_task(load_task(config.task, config.task_changes), config.data)
    check_use(data)
    if on_event:
        for remark in data.findings.remarks:
            on_event(f"data of task {data.task.name}: {remark}")
    base = models.model_fingerprint(config.recipe.model)
    recipe = {"task": data.task.plain(), "data": data.fingerprint, "seeds": config.seeds, **config.recipe.plain()}
    if not (check_run_folder(home, "finetune", config.name, recipe) / RECIPE_FILE).exists():
        load_tokenizer(config.recipe.model)  # a typo claims no name
    folder = claim_run_folder(home, "finetune", config.name, recipe)
    with sole_writer(folder) as still_held:
        if base:
            check_unchanged(folder, f"model {config.recipe.model}", base)

        def on_epoch(metrics: dict[str, float]) -> None:
            still_held()
            if on_progress:
                on_progress(metrics)

        return _finetune_seeds(config, data, recipe, folder, tracking, on_epoch, on_event)


def _finetune_seeds(
    config: FinetuneConfig,
    data: TaskData,
    recipe: Mapping[str, Any],
    folder: Path,
    tracking: registry.Tracking,
    on_epoch: OnEpoch,
    on_event: Event | None,
) -> FinetuneSummary:
    """Fine-tune under each seed in a folder that nobody else writes to."""
    first = config.recipe.seed
    folders = {seed: folder / f"seed-{seed}" for seed in range(first, first + config.seeds)}
    stored = models.stored_precision(config.recipe.model)
    if not all((one / RESULT_FILE).exists() for one in folders.values()):
        run = registry.resume_or_start_run(
            tracking,
            experiment=Experiment.FINETUNE,
            name=config.name,
            kind="finetune",
            recipe=fingerprint(recipe),
            tags={**task_tags(data), Tag.PRECISION: describe_precision(config.recipe.precision, stored)},
            params=config.recipe.plain(),
        )
        with run:
            run.log_inputs([task_inputs(data)])
            for seed, one in folders.items():
                if not (one / RESULT_FILE).exists():
                    _run_seed(config, data, seed, one, run, on_epoch, on_event)
            summary = _summary(folders)
            kept = summary.folder.parent
            others = [one for one in folders.values() if one != kept]
            run.log_json(OUTCOMES_FILE, read_json(kept / OUTCOMES_FILE))
            run.log_json(OUTCOMES_BY_SEED_FILE, [read_json(other / OUTCOMES_FILE) for other in others])
            run.log(summary.best.metrics)
            run.set_tags({Tag.MAX_TOKENS: str(summary.best.scores.max_tokens)})
            if summary.test_deviation is not None:
                key = f"test/{data.task.name}/{summary.metric}"
                run.log({f"{key}_mean": summary.test_mean, f"{key}_deviation": summary.test_deviation})
    return _summary(folders)


def _run_seed(
    config: FinetuneConfig,
    data: TaskData,
    seed: int,
    folder: Path,
    run: registry.Run,
    on_epoch: OnEpoch,
    on_event: Event | None,
) -> None:
    suffix = f"/{folder.name}" if config.seeds > 1 else ""

    def log_epoch(metrics: dict[str, float]) -> None:
        step = int(metrics["step"])
        run.log({f"{key}{suffix}": value for key, value in metrics.items() if key != "step"}, step=step)
        on_epoch({**metrics, "seed": seed})

    recipe = config.recipe.model_copy(update={"seed": seed})
    runtime, target = config.runtime, folder / "hf"
    if runtime.num_workers == 1:
        best = finetune(recipe, data, target, runtime=runtime, on_epoch=log_epoch)
    else:
        best = finetune_on_workers(
            recipe,
            data.task,
            config.data,
            target,
            fingerprint=data.fingerprint,
            runtime=runtime,
            on_epoch=log_epoch,
            on_event=on_event,
        )
    judged = judge(best.folder, data, attention=runtime.attention)
    write_json(folder / OUTCOMES_FILE, judged.outcomes.plain())
    model = models.model_fingerprint(best.folder)
    found = SeedResult(seed, best.value, judged.as_metrics(data.task.name, best.value), judged, model)
    write_json(folder / RESULT_FILE, found.plain())


def _summary(folders: Mapping[int, Path]) -> FinetuneSummary:
    found = []
    for folder in folders.values():
        file = folder / RESULT_FILE
        found.append(SeedResult.parse(read_json(file), source=str(file)))
        check_judged(folder / "hf", found[-1].model, of=file)
    best = max(found, key=lambda one: one.dev)
    return FinetuneSummary(folders[best.seed] / "hf", best, tuple(found))
