"""The driver side of pretraining."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clinscale import corpus, models, registry, runtime
from clinscale.config import fingerprint, nearest
from clinscale.engine import consolidated_state
from clinscale.errors import ConfigError
from clinscale.pretrain.config import PretrainConfig
from clinscale.pretrain.worker import WorkerTask, build_model, train_worker
from clinscale.registry import Tag
from clinscale.runfolder import claim_run_folder
from clinscale.storage import write_json

CONFIG_FILE = "config.json"
EXPORTED = "hf"

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, metrics)."""


@dataclass(frozen=True)
class PretrainResult:
    """A registered base model and what pretraining did for it on held-out rows."""

    version: registry.ModelVersion
    folder: Path
    """Plain HF folder of the model."""
    family: str
    perplexity_before: float
    perplexity_after: float


def pretrain(
    config: PretrainConfig, *, tracking: registry.Tracking, home: str | Path, on_progress: Progress | None = None
) -> PretrainResult:
    """Train, export to a plain HF folder, register it as the next version of `config.name`.

    Needs a `ray_session`. The same name with the same recipe resumes, or returns what is finished already.

    Raises:
        ConfigError: the name stands for another recipe, or for checkpoints of another number of workers or ZeRO
            stage; or the rows are longer than the model.
        DataError: no ShardSet at `recipe.shards`. ClusterError: the workers failed for good.
    """
    shards = corpus.open_shards(config.recipe.shards)
    recipe = config.recipe.plain() | {"shards": shards.fingerprint}
    folder = claim_run_folder(home, "pretrain", config.name, recipe)
    _check_group(folder, config)
    write_json(folder / CONFIG_FILE, config.plain())
    run = registry.resume_or_start_run(
        tracking,
        experiment="clinscale-pretrain",
        name=config.name,
        kind="pretrain",
        recipe=fingerprint(recipe),
        tags={Tag.SHARDS: shards.fingerprint},
        params={**recipe, **config.runtime.plain()},
    )
    with run:
        exported = folder / EXPORTED
        if not exported.exists():
            task = _worker_task(config, shards)
            checkpoint_dir = _train(task, folder, tracking, run, on_progress)
            _export(task, shards, checkpoint_dir, exported)
        hf_config = models.check_hf_folder(exported)
        family = models.family_of(hf_config["model_type"])
        tags = {
            Tag.KIND: "base",
            Tag.FAMILY: family,
            Tag.RECIPE: fingerprint(recipe),
            Tag.SHARDS: shards.fingerprint,
        }
        if pattern := hf_config.get("evaluation_pattern"):
            tags[Tag.EVALUATION_PATTERN] = pattern
        version = registry.register(tracking, run.id, exported, name=config.name, tags=tags, alias="champion")
    perplexity = [value for _, value in registry.metric_history(tracking, run.id, "eval/perplexity")]
    return PretrainResult(version, exported, family, perplexity[0], perplexity[-1])


def run_config(home: str | Path, name: str) -> Path:
    """The config that an earlier start of run `name` left in `home`; ConfigError when there is none."""
    path = Path(home) / "pretrain" / name / CONFIG_FILE
    if not path.exists():
        known = [folder.parent.name for folder in Path(home).glob(f"pretrain/*/{CONFIG_FILE}")]
        raise ConfigError(f"no pretraining run {name!r} in {home}; {nearest(name, known)}")
    return path


def _check_group(folder: Path, config: PretrainConfig) -> None:
    """Refuse to resume on workers that cannot read the checkpoints: DeepSpeed shards them for one group."""
    if not any(folder.glob("checkpoint_*/engine")) or (folder / EXPORTED).exists():
        return
    before, now = PretrainConfig.load(folder / CONFIG_FILE).runtime, config.runtime
    if before.zero.stage == now.zero.stage and before.num_workers == now.num_workers:
        return
    raise ConfigError(
        f"pretrain run {config.name!r} has checkpoints of {before.num_workers} workers at ZeRO stage "
        f"{before.zero.stage}, which {now.num_workers} workers at stage {now.zero.stage} cannot read; resume it with "
        f"runtime.num_workers={before.num_workers} runtime.zero.stage={before.zero.stage}, or start under another name"
    )


def _worker_task(config: PretrainConfig, shards: corpus.ShardSet) -> WorkerTask:
    """Everything that follows from config and corpus: row length and number of steps."""
    recipe = config.recipe
    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    limit = models.max_tokens_of(models.build(recipe.model, tokenizer, seed=recipe.seed).config)
    row_tokens = recipe.row_tokens or limit
    if row_tokens > limit:
        raise ConfigError(f"recipe.row_tokens={row_tokens} is longer than the model's {limit} positions; lower it")
    rows = len(shards.rows("train", row_tokens))
    if not len(shards.rows("validation", row_tokens)):
        raise ConfigError(
            f"ShardSet {shards.uri} holds no validation rows of {row_tokens} tokens; raise validation_fraction"
        )
    steps = recipe.duration.steps(rows=rows, rows_per_step=recipe.rows_per_step, tokens_per_row=row_tokens)
    return WorkerTask(config=config, shards_uri=shards.uri, row_tokens=row_tokens, total_steps=steps)


def _train(
    task: WorkerTask,
    folder: Path,
    tracking: registry.Tracking,
    run: registry.Run,
    on_progress: Progress | None,
) -> str:
    settings = task.config.runtime

    keys = ("train/loss", "eval/loss")  # every log has one of them
    logged = {step for key in keys for step, _ in registry.metric_history(tracking, run.id, key)}

    def on_log(metrics: dict[str, float]) -> None:
        step = int(metrics["step"])
        if step in logged:  # a restarted group repeats what is in MLflow already
            return
        run.log({key: value for key, value in metrics.items() if key != "step"}, step=step)
        logged.add(step)
        if on_progress:
            on_progress(step, task.total_steps, metrics)

    result = runtime.run_workers(
        train_worker,
        task,
        num_workers=settings.num_workers,
        cpus_per_worker=settings.cpus_per_worker,
        gpus_per_worker=settings.gpus_per_worker,
        storage_path=str(folder.parent),
        name=folder.name,
        num_to_keep=settings.num_to_keep,
        max_failures=settings.max_failures,
        on_log=on_log,
    )
    return result.checkpoint_dir


def _export(task: WorkerTask, shards: corpus.ShardSet, checkpoint_dir: str, folder: Path) -> None:
    """Consolidated weights into the HF model, and that to disk: tied heads and all, as `transformers` wants it."""
    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    model = build_model(task.config, tokenizer)
    missing, unexpected = model.load_state_dict(consolidated_state(checkpoint_dir), strict=False)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    lost = [name for name in missing if name not in tied and name in dict(model.named_parameters())]
    if lost or unexpected:
        raise ConfigError(
            f"checkpoint {checkpoint_dir} does not fit the model of its recipe: {(lost or unexpected)[:3]}"
        )
    tokenizer.model_max_length = models.max_tokens_of(model.config)
    models.save_hf(model, tokenizer, folder)
