"""Fine-tuning in one process: plain torch on one device."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clinscale import models
from clinscale.engine import Precision, TorchEngine
from clinscale.errors import ConfigError, DataError
from clinscale.finetune.config import FinetuneRecipe, FinetuneRuntime
from clinscale.finetune.looks import Looks
from clinscale.finetune.loop import EpochLoop, FinetuneResult, Judges, OnEpoch, Underway
from clinscale.finetune.soup import Mean, first_averaged
from clinscale.runtime import beat, out_of_memory_as, run_halving
from clinscale.storage import atomic_path
from clinscale.tasks import TaskData, Window


def finetune(
    recipe: FinetuneRecipe,
    data: TaskData,
    folder: str | Path,
    *,
    runtime: FinetuneRuntime | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: str | Path | None = None,
    until_epoch: int | None = None,
    looks: Looks | None = None,
    average: str | Path | None = None,
) -> FinetuneResult:
    """Train on `train`, judge each epoch on `dev`, keep the best epoch in `folder`; never looks at `test`.

    In this process alone: see `finetune_on_workers` for several. A micro batch that does not fit into memory is halved
    until it does: the step stays the same.

    Args:
        recipe: changes the numbers.
        data: of the task.
        folder: for the best epoch.
        runtime: changes only speed or place.
        on_epoch: called for every look and epoch; what it raises ends the fine-tuning there.
        checkpoint: file that holds the state after the last look or epoch. Where it exists the fine-tuning goes on
            from it, and `on_epoch` is called again for the epochs that it holds.
        until_epoch: stop after this epoch, to go on from `checkpoint` another time; 0 is after the looks.
        looks: inside the first epoch; they change no number of the epochs.
        average: folder for the average of the weights after each epoch of the second half, once no epoch is left; there
            is none of a single epoch.

    Raises:
        ConfigError: the model cannot read `max_tokens`, or the loss or the score is no longer a number.
        DataError: the model is not there, or a split has no examples.
        OutOfMemoryError: not even one window fits.
    """
    runtime = runtime or FinetuneRuntime()
    if runtime.num_workers != 1:
        raise ConfigError(
            f"runtime.num_workers must be 1 in finetune(), which is one process, got {runtime.num_workers}; call "
            "finetune_on_workers in a ray_session, or set runtime.num_workers=1"
        )
    loop = _OneProcess(recipe, data, Path(folder), runtime, checkpoint=checkpoint, looks=looks, average=average)
    return loop.run(on_epoch or (lambda metrics: None), until_epoch)


def seconds_per_epoch(
    recipe: FinetuneRecipe, data: TaskData, *, runtime: FinetuneRuntime | None = None, seconds: float = 3.0
) -> float:
    """Seconds that an epoch of a fine-tuning will take here, in one process, measured on some steps and examples.

    Raises:
        As `finetune`.
    """
    return _OneProcess(recipe, data, Path(), runtime or FinetuneRuntime()).seconds_per_epoch(seconds)


class _OneProcess(EpochLoop):
    """Plain torch on one device."""

    _engine: TorchEngine

    def __init__(
        self,
        recipe: FinetuneRecipe,
        data: TaskData,
        folder: Path,
        runtime: FinetuneRuntime,
        *,
        checkpoint: str | Path | None = None,
        looks: Looks | None = None,
        average: str | Path | None = None,
    ) -> None:
        super().__init__(recipe, data, folder, runtime, looks=looks)
        self._checkpoint = Path(checkpoint) if checkpoint else None
        self._average_folder = Path(average) if average else None
        self._mean = Mean()
        self._engine = TorchEngine(
            self._predictor.model,
            recipe.optimizer,
            total_steps=self._total_steps,
            precision=recipe.precision,
            device=_device(runtime, recipe.precision),
        )

    def restore(self) -> None:
        """A damaged file, or one whose best weights are gone, counts as none."""
        import pickle

        import torch

        if not self._checkpoint or not self._checkpoint.exists():
            return
        try:
            state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            if state["history"]:  # inside the first epoch there are no best weights yet
                models.check_hf_folder(self._folder)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, DataError):
            return
        self._engine.load_state_dict(state["engine"])
        self.history = list(state["history"])
        self._mean = Mean(**state.get("mean", {}))
        self._underway = Underway(**state.get("underway", {}))  # states of earlier versions are of whole epochs
        self._write_average()  # a kill may have come between checkpoint and folder

    def _keep(self, *, best: bool) -> None:
        if best:
            models.save_hf(self._predictor.model, self._predictor.tokenizer, self._folder)
            self.card.write(self._folder)
        if self._average_folder and len(self.history) >= first_averaged(self._recipe.epochs):
            self._mean = self._mean.plus(self._predictor.model.state_dict())
        self._write_checkpoint()
        self._write_average()

    def _write_average(self) -> None:
        """Once nothing is trained any further, so that the model may hold other weights."""
        if not self._average_folder or not self.done or self._mean.count < 2:
            return
        self._predictor.model.load_state_dict(self._mean.weights)
        models.save_hf(self._predictor.model, self._predictor.tokenizer, self._average_folder)
        self._predictor.card.write(self._average_folder)

    def _write_checkpoint(self) -> None:
        """A reader of the checkpoint sees the old file or the new one."""
        import torch

        if not self._checkpoint:
            return
        state = {
            "engine": self._engine.state_dict(),
            "history": self.history,
            "underway": dataclasses.asdict(self._underway),
            "mean": {"count": self._mean.count, "weights": self._mean.weights},
        }
        # by a stream of ours, whose errors torch passes on; its own says no more than that it failed
        with atomic_path(self._checkpoint) as temporary, temporary.open("wb") as stream:
            torch.save(state, stream)

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(self._write_checkpoint)
            yield
            written.result()

    def _scores(self, judges: Judges) -> dict[str, float]:
        predictor, examples = self._predictor, judges.examples
        predictions = predictor.predict(examples, lambda _: beat(), windows=judges.windows)
        return predictor.kind.dev_scores(examples, predictions, predictor.card.labels)

    def _gradients(self, chosen: Sequence[Window]) -> float:
        return run_halving(
            lambda size: self._accumulate(chosen, size), self._predictor.batch_size, on_halved=self._begin_again
        )

    def _begin_again(self, micro_batch_size: int) -> None:
        self._engine.forget_gradients()
        self._predictor.batch_size = micro_batch_size

    def _too_large(self, memory: str) -> str:
        """The sentence for the user, once not even one window fits."""
        return (
            f"fine-tuning on {self._data.task.name}: one window of {self._predictor.card.max_tokens} tokens does not "
            f"fit into {memory} memory; lower recipe.max_tokens or use runtime.activation_checkpointing=true"
        )

    def seconds_per_epoch(self, seconds: float) -> float:
        """Seconds of training and judging one epoch, from as many steps and examples as take about `seconds` each."""
        order = np.random.default_rng(self._recipe.seed).permutation(len(self._windows))
        self._engine.module.train()

        def train(count: int) -> None:
            for start in range(0, count, self._recipe.batch_size):
                self._gradients([self._windows[index] for index in order[start : start + self._recipe.batch_size]])
                self._engine.step()

        train(min(len(order), self._recipe.batch_size))  # the first step is slower than the others
        dev = self._dev.examples
        return _extrapolate(train, len(order), self._recipe.batch_size, seconds) + _extrapolate(
            lambda count: self._predictor.predict(dev[:count]), len(dev), 8, seconds
        )

    def _accumulate(self, chosen: Sequence[Window], micro: int) -> float:
        whole, total = self._predictor.kind.loss_terms(chosen), 0.0
        for first in range(0, len(chosen), micro):
            part = chosen[first : first + micro]
            if not (terms := self._predictor.kind.loss_terms(part)):
                continue  # the mean of no terms is no number
            with out_of_memory_as(self._too_large):
                # HF's loss of an answer, and BigBird's last block, depend on padding: it is that of the whole step
                loss = self._loss(part, least_length=len(chosen[-1].input_ids)) * (terms / whole)
                self._engine.backward(loss)
                total += float(loss.detach())
        return total


def _device(runtime: FinetuneRuntime, precision: Precision) -> str:
    """The device to train on; ConfigError where it is not here, or does not compute in that precision."""
    import torch

    is_here = torch.cuda.is_available()
    if runtime.device == "cuda" and not is_here:
        raise ConfigError(
            "runtime.device=cuda needs a GPU that torch can use, and there is none here; `clinscale doctor` says why, "
            "runtime.device=cpu trains without one"
        )
    device = runtime.device or ("cuda" if is_here else "cpu")
    if precision == "fp16" and device == "cpu":
        raise ConfigError(
            "recipe.precision=fp16 needs a GPU, and this trains on the CPU, which computes fp16 hundreds of times "
            "slower than bf16; use recipe.precision=bf16"
        )
    return device


def _extrapolate(work: Callable[[int], Any], total: int, least: int, seconds: float) -> float:
    """Seconds that `work(total)` will take, from the largest part of it that takes about `seconds`."""
    count = min(total, least)
    while True:
        start_s = time.perf_counter()
        work(count)
        taken_s = time.perf_counter() - start_s
        if count >= total or taken_s >= seconds / 2:
            return taken_s * total / count
        count = min(total, count * 2)
