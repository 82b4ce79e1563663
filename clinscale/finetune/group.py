"""Fine-tuning of one model over several workers: how a step and an evaluation are divided, and what a rank keeps.

The group computes what one process computes: the windows of a step are dealt to the ranks, DeepSpeed shards weights and
moments, and each epoch ends with a checkpoint from which any number of workers goes on. Only paths, configs and metrics
travel through Ray; every rank reads the task's files itself.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clinscale import models
from clinscale.engine import (
    CheckpointStore,
    DeepSpeedEngine,
    RetentionConfig,
    load_weights,
)
from clinscale.errors import DataError, OutOfMemoryError
from clinscale.finetune.config import FinetuneRecipe, FinetuneRuntime
from clinscale.finetune.looks import Looks
from clinscale.finetune.loop import (
    EpochLoop,
    FinetuneResult,
    Judges,
    OnEpoch,
    Underway,
    best_of,
    build_model,
)
from clinscale.held import hold
from clinscale.permissions import make_folder
from clinscale.runtime import WorkerContext, run_halving, run_workers
from clinscale.storage import is_remote, read_json
from clinscale.tasks import Prediction, TaskConfig, TaskData, Window, read_task

_STOP_FILE = "stop"

Event = Callable[[str], None]
"""Called with a sentence on what happens beside the epochs: waiting for workers, a restart, less memory."""


def finetune_on_workers(
    recipe: FinetuneRecipe,
    task: TaskConfig,
    data: str,
    folder: str | Path,
    *,
    fingerprint: str | None = None,
    runtime: FinetuneRuntime,
    on_epoch: OnEpoch | None = None,
    on_event: Event | None = None,
    checkpoint: str | Path | None = None,
    until_epoch: int | None = None,
    looks: Looks | None = None,
) -> FinetuneResult:
    """`finetune` over `runtime.num_workers` Ray Train workers with DeepSpeed; the same numbers but for rounding.

    Needs a `ray_session`, or to be called in a Ray worker. All nodes must see `data`, `folder` and `checkpoint` under
    the same paths. In bf16 and fp16 the workers evaluate with weights of that precision, `folder` holds those of fp32.

    Args:
        recipe: changes the numbers. A micro batch that does not fit into a worker's memory is halved: the step stays.
        task: what is asked of the model.
        data: folder of the task's files, which every worker reads.
        folder: for the best epoch.
        fingerprint: of the data, which every worker must find; None is whatever is there.
        runtime: changes only speed or place.
        on_epoch: called for every look and epoch, each once, in a thread of this process while the next one runs. What
            it raises ends the fine-tuning after that next one, and is raised here.
        on_event: takes sentences.
        checkpoint: `CHECKPOINT.group` is the folder of the state after the last epoch. Where it exists the fine-tuning
            goes on from it, on any number of workers. Without, it is beside `folder` until the end: a worker that
            dies costs an epoch at most.
        until_epoch: stop after this epoch, to go on from `checkpoint` another time; 0 is after the looks.
        looks: inside the first epoch; `until_epoch` must be 0, as the reports of looks and epochs may overtake each
            other.

    Raises:
        ConfigError, DataError: as `finetune`.
        ChangedDataError: a worker found other data than those of `fingerprint`.
        CapacityError: not even one window fits into memory, or the workers never became free.
        ClusterError: the workers failed for good.
    """
    folder = Path(folder).absolute()
    state = Path(f"{checkpoint or folder.with_name(f'.{folder.name}')}.group").absolute()
    if not checkpoint or not ((folder / "config.json").is_file() or _inside_first_epoch(state)):
        # without its best weights it is worth nothing
        shutil.rmtree(state, ignore_errors=True)
    make_folder(state)
    (state / _STOP_FILE).unlink(missing_ok=True)
    reports = _EpochReports(on_epoch, stop_file=state / _STOP_FILE)
    model = Path(recipe.model)
    work = GroupTask(
        recipe=recipe.model_copy(update={"model": str(model.absolute())}) if model.exists() else recipe,
        task=task,
        fingerprint=fingerprint,
        data=data if is_remote(data) else str(Path(data.removeprefix("file://")).absolute()),
        folder=folder,
        state=state,
        runtime=runtime,
        micro_batch_size=_micro_batch_size(recipe, runtime),
        until_epoch=until_epoch,
        looks=looks,
    )
    try:
        _run(work, reports, on_event)
    finally:
        if not checkpoint:
            shutil.rmtree(state, ignore_errors=True)
    if reports.error:
        raise reports.error
    return best_of(reports.history, task, folder)


@dataclass(frozen=True)
class GroupTask:
    """The message from the caller to every rank; paths and configs only, no notes."""

    recipe: FinetuneRecipe
    task: TaskConfig
    data: str
    fingerprint: str | None
    folder: Path
    state: Path
    """Folder of the checkpoints, on a file system that all workers share."""
    runtime: FinetuneRuntime
    micro_batch_size: int
    """Windows of one forward pass of a rank at most, as far as memory is known to allow."""
    until_epoch: int | None
    looks: Looks | None = None


def finetune_worker(context: WorkerContext, work: GroupTask) -> None:
    """One rank, from the newest whole checkpoint if there is one."""
    with hold(work.folder.parent, "the fine-tuning"):
        loop = _Rank(context, work, read_task(work.task, work.data, fingerprint=work.fingerprint))
        try:
            loop.run(context.log, work.until_epoch)
        finally:  # what was saved before an error is worth as much as ever
            loop.checkpoints.close()


def _run(work: GroupTask, reports: "_EpochReports", on_event: Event | None) -> None:
    """The workers to their end; an answer that memory is too small halves the micro batch."""

    def run(windows: int) -> None:
        run_workers(
            finetune_worker,
            replace(work, micro_batch_size=windows),
            group=work.runtime,
            scratch=work.state / "ray",
            on_log=reports,
            on_event=on_event,
        )

    def on_halved(windows: int) -> None:
        if on_event:
            on_event(f"out of memory: going on with micro batches of {windows} windows")

    def at_one(error: OutOfMemoryError) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"fine-tuning on {work.task.name}: one window does not fit into a worker's memory ({error}); raise "
            "runtime.zero.stage or the number of workers (runtime.num_workers; runtime.workers_per_trial of a sweep), "
            "offload, lower recipe.max_tokens, or use runtime.activation_checkpointing=true"
        )

    run_halving(run, work.micro_batch_size, on_halved=on_halved, at_one=at_one)


class _EpochReports:
    """Reports of rank 0, passed to the caller once each and in order, however often the group started."""

    def __init__(self, on_epoch: OnEpoch | None, *, stop_file: Path) -> None:
        self.history: list[dict[str, float]] = []
        self.error: BaseException | None = None
        """The error that the caller raised in answer."""
        self._on_epoch, self._stop_file = on_epoch, stop_file
        self._looked = -1.0

    def __call__(self, metrics: dict[str, float]) -> None:
        if "look" in metrics:
            if metrics["look"] > self._looked:
                self._looked = metrics["look"]
                self._report(metrics)
        elif metrics["epoch"] == len(self.history) + 1:
            self.history.append(metrics)
            self._report(metrics)

    def _report(self, metrics: dict[str, float]) -> None:
        if not self._on_epoch or self.error:
            return
        try:
            self._on_epoch(metrics)
        except BaseException as error:  # noqa: BLE001  it belongs to the caller, who waits in another thread
            self.error = error
            self._stop_file.touch()


class _Rank(EpochLoop):
    """One process of the group, with its shard of weights and moments."""

    _engine: DeepSpeedEngine

    def __init__(self, context: WorkerContext, work: GroupTask, data: TaskData) -> None:
        recipe, rank, world_size = work.recipe, context.rank, context.world_size
        self._work, self._world_size = work, world_size
        self._divides_dev = work.runtime.zero.stage < 3  # a forward pass at stage 3 needs all ranks
        share = slice(rank, None, world_size) if self._divides_dev else slice(None)
        super().__init__(recipe, data, work.folder, work.runtime, looks=work.looks, rank=rank, dev_share=share)
        self._predictor.batch_size = work.micro_batch_size
        self._micro_batches = -(-_share_of_step(recipe, world_size) // work.micro_batch_size)
        self._engine = DeepSpeedEngine(
            self._predictor.model,
            recipe.optimizer,
            total_steps=self._total_steps,
            zero=work.runtime.zero,
            precision=recipe.precision,
            micro_batch_per_gpu=work.micro_batch_size,
            gradient_accumulation_steps=self._micro_batches,
        )
        self.checkpoints = CheckpointStore(
            work.state, rank=rank, world_size=world_size, retention=RetentionConfig(num_to_keep=1)
        )
        self._stopped = False

    @property
    def done(self) -> bool:
        """Whether training is over, as in one process or because the caller ended it; the same on all ranks."""
        return super().done or self._stopped

    def restore(self) -> None:
        """A damaged checkpoint counts as none."""
        state = self.checkpoints.restore(self._engine)
        if state is None:
            return
        self.history = list(state["history"])
        self._underway = self._mine_of(state.get("underway"))
        if not self.history:
            return
        if self.result.epoch == len(self.history):  # a kill may have come between checkpoint and folder
            self._export()

    def _keep(self, *, best: bool) -> None:
        """The checkpoint is written while the next epoch runs, unless the best weights are wanted from it."""
        self._save()
        if best:
            self.checkpoints.wait()
            self._export()

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        self._save()
        yield

    def _save(self) -> None:
        """Begin to write a checkpoint, with the generators of all ranks."""
        done = self._underway
        underway = None
        if done.steps:
            underway = {"steps": done.steps, "loss": done.loss, "generators": self._of_all_ranks(done.generators)}
        self.checkpoints.save(self._engine, self._step, {"history": self.history, "underway": underway})

    def _mine_of(self, underway: Mapping[str, Any] | None) -> Underway:
        """The part of a checkpoint that is this rank's; with another number of ranks its dropout is another."""
        if underway is None:
            return Underway()
        all_ranks = underway["generators"]
        mine = all_ranks[self._rank] if len(all_ranks) == self._world_size else []
        return Underway(underway["steps"], underway["loss"], mine)

    def _of_all_ranks(self, mine: Any) -> list[Any]:
        import torch

        found: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(found, mine)
        return found

    @property
    def _step(self) -> int:
        return len(self.history) * self._steps_per_epoch + self._underway.steps

    def _export(self) -> None:
        """The weights of the last checkpoint as an HF folder."""
        if self._rank != 0:
            return
        model = build_model(self._recipe, self._data, self._work.runtime)
        load_weights(model, self.checkpoints.at(self._step))
        models.save_hf(model, self._predictor.tokenizer, self._folder)
        self.card.write(self._folder)

    def _scores(self, judges: Judges) -> dict[str, float]:
        """Rank 0's, so that all ranks decide alike; with them goes whether the caller has had enough."""
        import torch

        predictor, examples = self._predictor, judges.examples
        predictions = predictor.predict(judges.mine, windows=judges.windows)
        if self._divides_dev:
            predictions = self._gathered(predictions, len(examples))
        scores = predictor.kind.dev_scores(examples, predictions, predictor.card.labels)
        said: list[Any] = [scores, (self._work.state / _STOP_FILE).exists()]
        torch.distributed.broadcast_object_list(said)
        agreed: dict[str, float]
        agreed, self._stopped = said
        return agreed

    def _gathered(self, mine: list[Prediction], count: int) -> list[Prediction]:
        """The predictions of all ranks in the order of the examples."""
        whole: list[Prediction] = [{} for _ in range(count)]
        for rank, part in enumerate(self._of_all_ranks(mine)):
            whole[rank :: self._world_size] = part
        return whole

    def _gradients(self, chosen: Sequence[Window]) -> float:
        """Every rank makes as many forward passes, whether or not it has anything left for them to learn from."""
        mine, size = chosen[self._rank :: self._world_size], self._predictor.batch_size
        filler = next((window for window in chosen if self._predictor.kind.loss_terms([window])), chosen[0])
        whole, total = self._predictor.kind.loss_terms(chosen) or 1, 0.0
        for number in range(self._micro_batches):
            if number:
                self._engine.step()  # no update before the last micro batch
            part = mine[number * size : (number + 1) * size]
            terms = self._predictor.kind.loss_terms(part)
            # HF's loss of an answer, and BigBird's last block, depend on padding: it is that of the whole step
            mean = self._loss(part if terms else [filler], least_length=len(chosen[-1].input_ids))
            loss = mean * (terms / whole)
            # DeepSpeed averages over ranks and micro batches
            self._engine.backward(loss * (self._world_size * self._micro_batches))
            total += float(loss.detach())
        return total


def _inside_first_epoch(state: Path) -> bool:
    """Whether the newest checkpoint was taken before the first best weights could be."""
    newest = max(state.glob("step-*/state.json"), default=None)
    try:
        return newest is not None and not read_json(newest)["history"]
    except (DataError, KeyError):  # its restore looks for damage
        return False


def _micro_batch_size(recipe: FinetuneRecipe, runtime: FinetuneRuntime) -> int:
    share = _share_of_step(recipe, runtime.num_workers)
    return min(recipe.micro_batch_size or share, share)


def _share_of_step(recipe: FinetuneRecipe, world_size: int) -> int:
    return -(-recipe.batch_size // world_size)
