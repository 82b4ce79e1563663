"""The driver side of pretraining."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clinscale import corpus, models, registry, runtime
from clinscale.config import fingerprint, nearest
from clinscale.engine import describe_precision, load_weights, newest_checkpoint, read_manifest
from clinscale.errors import CapacityError, ConfigError, DataError, OutOfMemoryError
from clinscale.permissions import make_folder
from clinscale.pretrain.card import write_base_card
from clinscale.pretrain.config import PretrainConfig, PretrainRecipe
from clinscale.pretrain.memorisation import MEMORISATION_FILE, exposure_metrics, measure_exposures, p_value
from clinscale.pretrain.worker import WorkerTask, build_model, train_worker
from clinscale.registry import Experiment, Tag
from clinscale.runfolder import check_unchanged, claim_run_folder, refuse_copy, sole_writer
from clinscale.storage import read_json, write_json

CONFIG_FILE = "config.json"
EXPORTED = "hf"
CHECKPOINTS = "checkpoints"
_METRICS_FILE = "metrics.jsonl"
_MEMORY_FILE = "micro_rows_per_gpu.json"

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, metrics)."""

Event = Callable[[str], None]
"""Called with a sentence on what happens beside the steps: waiting for workers, a restart, less memory."""


@dataclass(frozen=True)
class PretrainResult:
    """A registered base model and what pretraining did for it on held-out rows."""

    version: registry.ModelVersion
    folder: Path
    """Plain HF folder of the model."""
    family: str
    perplexity_before: float
    perplexity_after: float
    exposures: tuple[float, ...]
    """Exposure of each canary in bits; none where none was planted."""


def pretrain(
    config: PretrainConfig,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    on_progress: Progress | None = None,
    on_event: Event | None = None,
) -> PretrainResult:
    """Train, export to a plain HF folder, register it as the next version of `config.name`.

    Needs a `ray_session`. The same name with the same recipe resumes, on any number of workers and at any ZeRO stage,
    or returns what is finished already.

    Raises:
        ConfigError: the name belongs to another recipe or to task models, the model is of a family that is not
            pretrained, the rows are longer than the model, or too few for the canaries.
        DataError: no ShardSet at `recipe.shards`, or one that was not made with the model's tokenizer.
        ChangedDataError: the folder of `recipe.model.pretrained` holds another model by now.
        CapacityError: the cluster, its memory or its disk is too small. ClusterError: the workers failed for good.
        RegistryError: training is done, but the tracking server is away; the same command registers it later.
        ClusterError: another process runs it, too.
    """
    models.check_pretrains(config.recipe.model)
    registry.check_kind(tracking, config.name, "base")
    shards = corpus.open_shards(config.recipe.shards)
    pretrained = config.recipe.model.pretrained or ""
    base = models.model_fingerprint(pretrained)  # a folder without a model claims no name
    recipe = config.recipe.plain() | {"shards": shards.fingerprint}
    folder = claim_run_folder(home, "pretrain", config.name, recipe)
    with sole_writer(folder, patience_s=config.runtime.storage_patience_s) as still_held:
        if base:
            check_unchanged(folder, f"model {pretrained}", base)
        return _pretrain(config, shards, recipe, folder, tracking, still_held, on_progress, on_event)


def _pretrain(
    config: PretrainConfig,
    shards: corpus.ShardSet,
    recipe: Mapping[str, Any],
    folder: Path,
    tracking: registry.Tracking,
    still_held: Callable[..., None],
    on_progress: Progress | None,
    on_event: Event | None,
) -> PretrainResult:
    """Train and register in a folder that nobody else writes to; `recipe` names the shards by fingerprint."""
    write_json(folder / CONFIG_FILE, config.plain())
    task = worker_task(config, shards, folder)
    stored = models.stored_precision(config.recipe.model.pretrained or "")
    exported, what = folder / EXPORTED, "the exported model"
    if exported.exists():  # a refusal leaves the finished run in MLflow as it is
        check_unchanged(folder, what, models.model_fingerprint(exported))
    run = registry.resume_or_start_run(
        tracking,
        experiment=Experiment.PRETRAIN,
        name=config.name,
        kind="pretrain",
        recipe=fingerprint(recipe),
        tags={
            Tag.SHARDS: shards.fingerprint,
            Tag.HARDWARE: runtime.current_cluster().hardware(),
            Tag.PRECISION: describe_precision(config.recipe.precision, stored),
        },
        params={**recipe, **config.runtime.plain()},
        spool=folder / _METRICS_FILE,
    )
    with run:
        run.log_inputs(
            [
                registry.UsedData("notes", shards.notes_fingerprint, "corpus", shards.manifest.left_out),
                registry.UsedData("shards", shards.fingerprint, "pretraining", shards.sizes),
            ]
        )
        if not exported.exists():

            def on_log(metrics: dict[str, float]) -> None:
                still_held(may_be_away=True)  # the workers wait for it, with patience of their own
                step = int(metrics["step"])
                logged = {key: value for key, value in metrics.items() if key != "step"}
                if run.log(logged, step=step) and on_progress:
                    on_progress(step, task.total_steps, metrics)

            train(task, folder, on_log=on_log, on_event=on_event)
            still_held()
            _export(task, shards, exported)
            check_unchanged(folder, what, models.model_fingerprint(exported), is_new=True)
        exposures = _exposures(config.recipe, shards, folder)
        run.log(exposure_metrics(exposures), step=task.total_steps)
        run.deliver()  # before the registry is asked for anything: it says more plainly that the server is away
        return _register(config, shards, fingerprint(recipe), folder, exposures, run, tracking)


def _register(
    config: PretrainConfig,
    shards: corpus.ShardSet,
    recipe_fingerprint: str,
    folder: Path,
    exposures: Sequence[float],
    run: registry.Run,
    tracking: registry.Tracking,
) -> PretrainResult:
    """The exported model, with its card, as a version of the base model of that name."""
    exported = folder / EXPORTED
    hf_config = models.check_hf_folder(exported)
    family = models.family_of(hf_config["model_type"])
    tags = {
        Tag.KIND: "base",
        Tag.FAMILY: family,
        Tag.RECIPE: recipe_fingerprint,
        Tag.SHARDS: shards.fingerprint,
        Tag.NOTES: shards.notes_fingerprint,
    }
    if pattern := hf_config.get("evaluation_pattern"):
        tags[Tag.EVALUATION_PATTERN] = pattern
    if canaries := config.recipe.canaries:
        run.log_file(folder / MEMORISATION_FILE)
        tags[Tag.CANARIES] = f"{canaries.count} x {canaries.repeats}"
        tags[Tag.EXPOSURE] = f"{max(exposures):.2f}"
        tags[Tag.EXPOSURE_P_VALUE] = str(p_value(exposures))
    perplexity = [value for _, value in registry.metric_history(tracking, run.id, "eval/perplexity")]
    before_and_after = (perplexity[0], perplexity[-1])
    write_base_card(exported, config, shards, family=family, perplexity=before_and_after, exposures=exposures)
    version = registry.register(tracking, run.id, exported, name=config.name, tags=tags, alias="champion")
    return PretrainResult(version, exported, family, *before_and_after, tuple(exposures))


def _exposures(recipe: PretrainRecipe, shards: corpus.ShardSet, folder: Path) -> list[float]:
    """Exposures of the canaries in the model that the run in `folder` exported, measured once."""
    known = folder / MEMORISATION_FILE
    if recipe.canaries is None:
        return []
    if not known.exists():
        exposures = measure_exposures(folder / EXPORTED, recipe, shards.manifest.special)
        write_json(known, {**recipe.canaries.plain(), "exposures": exposures})
    return list(read_json(known)["exposures"])


def has_trained(name: str, *, home: str | Path) -> bool:
    """Whether the run called `name` has trained to its end, so that another start trains nothing."""
    return (Path(home) / "pretrain" / name / EXPORTED).exists()


def run_config(home: str | Path, name: str) -> Path:
    """The config that an earlier start of run `name` left in `home`; ConfigError when there is none."""
    path = Path(home) / "pretrain" / name / CONFIG_FILE
    if not path.exists():
        known = [folder.parent.name for folder in Path(home).glob(f"pretrain/*/{CONFIG_FILE}")]
        raise ConfigError(f"no pretraining run {name!r} in {home}; {nearest(name, known)}")
    refuse_copy(path)
    return path


def worker_task(config: PretrainConfig, shards: corpus.ShardSet, folder: Path) -> WorkerTask:
    """Everything that follows from config and corpus: row length, number of steps, what memory is known to hold.

    The folder of the checkpoints is made here alone: a worker that does not find it waits until it is back.
    """
    recipe = config.recipe
    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    if recipe.model.pretrained:
        _check_tokenizer(recipe.model.pretrained, shards)
    built = models.build(recipe.model, tokenizer, seed=recipe.seed).config
    config.check_family(models.pretrainable_family(built.model_type))  # a hub's model is known only now
    limit = models.max_tokens_of(built)
    row_tokens = recipe.row_tokens or limit
    if row_tokens > limit:
        raise ConfigError(
            f"recipe.row_tokens must be at most the model's {limit} positions, got {row_tokens}; lower it"
        )
    # whether they can be cut, and their batches be divided, is checked before any worker starts
    recipe.row_tokens_at(0, row_tokens=row_tokens, total_steps=1)
    rows = shards.rows("train", row_tokens, documents_apart=recipe.documents_apart)
    if not len(shards.rows("validation", row_tokens)):
        raise ConfigError(
            f"ShardSet {shards.uri} holds no validation rows of {row_tokens} tokens; raise validation_fraction"
        )
    if recipe.masking.whole_words:  # whether the tokenizer knows any is checked before any worker starts
        corpus.word_starts(tokenizer)
    batches = config.batches(row_tokens)
    steps = recipe.steps(rows=len(rows), row_tokens=row_tokens)
    rows_read = batches.rows_before(steps, steps)
    recipe.check_duration(rows=len(rows), steps=steps, rows_read=rows_read, row_tokens=row_tokens)
    if recipe.canaries:  # whether they can be is checked before any worker starts
        corpus.plant_canaries(rows, recipe.canaries, seed=recipe.seed, rows_read=rows_read)
    known = folder / _MEMORY_FILE
    return WorkerTask(
        config=_from_anywhere(config),
        shards_uri=shards.uri,
        shards_fingerprint=shards.fingerprint,
        row_tokens=row_tokens,
        total_steps=steps,
        checkpoint_dir=str(make_folder(folder / CHECKPOINTS)),
        micro_rows_per_gpu=config.runtime.micro_rows_per_gpu or (read_json(known) if known.exists() else None),
    )


def _from_anywhere(config: PretrainConfig) -> PretrainConfig:
    """The config as workers read it, whose current folder is another one: published weights by their whole path."""
    model = config.recipe.model
    if model.pretrained is None or not Path(model.pretrained).is_dir():
        return config
    model = model.model_copy(update={"pretrained": str(Path(model.pretrained).absolute())})
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"model": model})})


def train(
    task: WorkerTask,
    folder: Path,
    *,
    on_log: Callable[[dict[str, float]], None],
    on_event: Event | None = None,
    function: Callable[[runtime.WorkerContext, WorkerTask], None] = train_worker,
) -> None:
    """Run the workers to the end; a micro batch that does not fit into memory is halved, the global batch stays.

    Raises:
        CapacityError: not even one row fits, or the workers never became free. ClusterError: they failed for good.
    """

    def run(rows: int) -> None:
        runtime.run_workers(
            function,
            replace(task, micro_rows_per_gpu=rows),
            group=task.config.runtime,
            scratch=folder / "ray",
            on_log=on_log,
            on_event=on_event,
        )

    def on_halved(rows: int) -> None:
        write_json(folder / _MEMORY_FILE, rows)
        if on_event:
            on_event(f"out of memory: going on with micro batches of {rows} rows")

    def at_one(error: OutOfMemoryError) -> CapacityError:
        return CapacityError(
            f"run {task.config.name}: one row of {task.row_tokens} tokens does not fit into a worker's memory "
            f"({error}); set runtime.activation_checkpointing=true, raise runtime.zero.stage, offload, or lower "
            "recipe.row_tokens"
        )

    share = -(-task.config.recipe.rows_of_step(task.row_tokens) // task.config.runtime.least_workers)
    runtime.run_halving(run, min(task.micro_rows_per_gpu or share, share), on_halved=on_halved, at_one=at_one)


def _check_tokenizer(pretrained: str, shards: corpus.ShardSet) -> None:
    """DataError unless the shards hold the model's tokens; equal sizes alone would train on gibberish."""
    ours, theirs = (corpus.load_tokenizer(place) for place in (str(shards.tokenizer_dir), pretrained))
    if ours.get_vocab() != theirs.get_vocab():
        raise DataError(
            f"ShardSet {shards.uri} was tokenised with another vocabulary than that of model {pretrained} "
            f"({len(ours)} against {len(theirs)} tokens); build it with --tokenizer {pretrained}"
        )
    if not corpus.splits_alike(ours, theirs):
        raise DataError(
            f"ShardSet {shards.uri} was tokenised otherwise than model {pretrained} reads texts, though with the same "
            f"vocabulary (capitals, accents, blanks or merges differ); build it with --tokenizer {pretrained}"
        )


def _export(task: WorkerTask, shards: corpus.ShardSet, folder: Path) -> None:
    """Consolidated weights into the HF model, and that to disk: tied heads and all, as `transformers` wants it."""
    checkpoint = newest_checkpoint(Path(task.checkpoint_dir))
    if checkpoint is None or read_manifest(checkpoint).step != task.total_steps:
        raise DataError(
            f"run {task.config.name} has no whole checkpoint of its last step, {task.total_steps}, in "
            f"{task.checkpoint_dir}; start it again: it goes on from the newest that is whole"
        )
    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    model = build_model(task.config, tokenizer)
    load_weights(model, checkpoint)
    tokenizer.model_max_length = models.max_tokens_of(model.config)
    models.save_hf(model, tokenizer, folder)
