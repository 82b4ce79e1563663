"""Engines with one face: plain torch in one process, DeepSpeed over the workers of a Ray Train group."""

import base64
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clinscale.engine.manifest import Manifest
from clinscale.engine.optim import (
    OptimizerConfig,
    averaged_weights,
    build_optimizer,
    build_schedule,
    is_averaging,
)
from clinscale.engine.snapshot import Snapshot
from clinscale.engine.universal import ENGINE_TAG, ParameterStates, load_parameters, plain_path
from clinscale.engine.zero import Precision, ZeroConfig, check_offload, deepspeed_config, import_deepspeed

if TYPE_CHECKING:
    import torch


Batch = Mapping[str, "torch.Tensor"]


class Engine(Protocol):
    """A model with its optimiser and schedule."""

    module: "torch.nn.Module"
    """The HF model, for evaluation and saving."""

    def forward(self, batch: Batch) -> Any:
        """The HF model's output for `batch`, in the engine's precision and on its device."""

    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradients of `loss` to those of the step so far."""

    def step(self) -> None:
        """Clip the gradients, update the weights, advance the schedule."""

    def over_ranks(self, value: float) -> float:
        """Sum of a number over all processes that train the model; every rank must call it."""

    @property
    def learning_rate(self) -> float:
        """The rate that the next update will use."""


class TorchEngine:
    """One process, one device, no sharding: fine-tuning and tests."""

    def __init__(
        self,
        model: "torch.nn.Module",
        optimizer: OptimizerConfig,
        *,
        total_steps: int,
        precision: Precision = "fp32",
        device: str = "cpu",
    ) -> None:
        import torch

        self.module = model.to(device)
        self._device = device
        self._precision = precision
        self._max_grad_norm = optimizer.max_grad_norm
        self._optimizer = build_optimizer(model, optimizer)
        self._schedule = build_schedule(self._optimizer, optimizer, total_steps)
        # small gradients would be zero in fp16; of other precisions it does nothing
        self._scaler = torch.amp.GradScaler(device.split(":")[0], enabled=precision == "fp16")

    def forward(self, batch: Batch) -> Any:
        """See Engine."""
        with autocast(self._device, self._precision):
            return self.module(**{name: tensor.to(self._device) for name, tensor in batch.items()})

    def backward(self, loss: "torch.Tensor") -> None:
        """See Engine."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """See Engine; a step whose gradients fp16 does not hold leaves the weights as they are."""
        import torch

        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Drop what `backward` has added since the last step."""
        self._optimizer.zero_grad(set_to_none=True)

    def over_ranks(self, value: float) -> float:
        """See Engine."""
        return value

    @property
    def learning_rate(self) -> float:
        """See Engine."""
        return float(self._schedule.get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and schedule: tensors and numbers only, for `torch.load(weights_only=True)`."""
        return {
            "model": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            **({"scaler": self._scaler.state_dict()} if self._scaler.is_enabled() else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])


class DeepSpeedEngine:
    """ZeRO over the process group that Ray Train has set up (NCCL on GPUs, gloo on CPUs).

    Call `step` after each micro batch: DeepSpeed averages losses over micro batches and workers and updates at
    the last micro batch of a step.
    """

    def __init__(
        self,
        model: "torch.nn.Module",
        optimizer: OptimizerConfig,
        *,
        total_steps: int,
        zero: ZeroConfig,
        precision: Precision,
        micro_batch_per_gpu: int,
        gradient_accumulation_steps: int,
        tokens_before: Callable[[int], int] | None = None,
    ) -> None:
        """Set DeepSpeed up; `tokens_before` is that of `build_schedule`."""
        optimizer.check_stage(zero.stage)
        check_offload(zero)
        self.stage, self.precision = zero.stage, precision
        self._optimizer = build_optimizer(model, optimizer)
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.parameter_names = tuple(
            names[parameter] for group in self._optimizer.param_groups for parameter in group["params"]
        )
        """Names of the trained parameters, in the order of the optimiser."""
        if optimizer.name != "adamw":
            # below ZeRO, DeepSpeed takes a step without gradients for bf16, which would decay weights and be averaged
            # in; AdamW's is as in the runs that there are
            self._optimizer.step = _no_update  # type: ignore[method-assign, assignment]

        def schedule(base: "torch.optim.Optimizer") -> "torch.optim.lr_scheduler.LambdaLR":
            vars(base).pop("step", None)
            return build_schedule(base, optimizer, total_steps, tokens_before=tokens_before)

        self._engine, *_ = import_deepspeed().initialize(
            model=model,
            optimizer=self._optimizer,
            lr_scheduler=schedule,
            config=deepspeed_config(
                zero,
                precision=precision,
                micro_batch_per_gpu=micro_batch_per_gpu,
                gradient_accumulation_steps=gradient_accumulation_steps,
                max_grad_norm=optimizer.max_grad_norm,
            ),
            dist_init_required=False,
        )
        self.module: torch.nn.Module = self._engine.module
        self._update = self._optimizer.step
        self._micro_batches_left: int | None = None

    def accumulate(self, micro_batches: int) -> None:
        """Say of how many micro batches the step that begins is, where that is not the same in every step."""
        import torch

        ranks = torch.distributed.get_world_size()
        self._engine.set_train_batch_size(self._engine.train_micro_batch_size_per_gpu() * micro_batches * ranks)
        self._micro_batches_left = micro_batches

    def forward(self, batch: Batch) -> Any:
        """See Engine."""
        return self._engine(**{name: tensor.to(self._engine.device) for name, tensor in batch.items()})

    def backward(self, loss: "torch.Tensor") -> None:
        """See Engine."""
        if self._micro_batches_left is not None:
            # DeepSpeed's own count takes every step to have as many
            self._micro_batches_left -= 1
            self._engine.set_gradient_accumulation_boundary(self._micro_batches_left == 0)
        self._engine.backward(loss)

    def step(self, *, update: bool = True) -> None:
        """See Engine; without `update` the gradients are forgotten, and only the schedule advances."""
        # whatever the stage, DeepSpeed ends in the optimiser that it was given, once or once for each of its groups
        self._optimizer.step = self._update if update else _no_update  # type: ignore[method-assign, assignment]
        self._engine.step()

    def over_ranks(self, value: float) -> float:
        """See Engine."""
        import torch

        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    @property
    def learning_rate(self) -> float:
        """See Engine."""
        return float(self._engine.get_lr()[0])

    @property
    def grad_norm(self) -> float | None:
        """Gradient norm of the last step over all workers, before clipping; None where DeepSpeed does not report it."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    @property
    def device(self) -> "torch.device":
        """Device on which this rank computes."""
        import torch

        return torch.device(self._engine.device)

    @property
    def updates(self) -> int:
        """Number of updates of the weights so far."""
        # Schedule-Free counts in its groups; Muon does not count, but some parameter is always AdamW's
        counted = [group["k"] for group in self._optimizer.param_groups if "k" in group]
        counted += [int(state["step"]) for state in self._optimizer.state.values() if "step" in state]
        return next(iter(counted), 0)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the module holds the weights that are judged and saved, Schedule-Free's averages; no step may come.

        At stage 0 alone, where alone there are any; others hold what they train.
        """
        if not is_averaging(self._optimizer):
            yield
            return
        try:
            with averaged_weights(self._optimizer):
                self._take_masters()
                yield
        finally:
            self._take_masters()

    def _take_masters(self) -> None:
        """Let the module compute with the optimiser's weights, which in bf16 are other tensors."""
        masters = (master for group in self._optimizer.param_groups for master in group["params"])
        for name, master in zip(self.parameter_names, masters, strict=True):
            self.module.get_parameter(name).data.copy_(master.data)

    @property
    def schedule_steps(self) -> int:
        """Number of steps that the learning-rate schedule has taken."""
        return int(self._engine.lr_scheduler.last_epoch)

    def snapshot(self, snapshot: Snapshot, folder: Path) -> None:
        """Copy what DeepSpeed would write for this rank below `folder`, but write nothing; every rank must call it."""
        with tempfile.TemporaryDirectory(prefix="clinscale-snapshot-") as scripts:  # of DeepSpeed's, for people

            def add(content: Any, path: str) -> None:
                snapshot.add(content, folder / Path(path).relative_to(scripts))

            self._engine.checkpoint_engine = _snapshot_engine(add)
            self._engine.save_checkpoint(scripts, tag=ENGINE_TAG, save_latest=False)

    def load(self, checkpoint: Path) -> None:
        """Restore what `snapshot` copied, at the same stage, precision and number of workers."""
        with plain_path(checkpoint) as path:
            self._engine.load_checkpoint(path, tag=ENGINE_TAG)

    def load_converted(self, checkpoint: Path, manifest: Manifest) -> None:
        """Restore what another number of workers, stage or precision left; every rank must call it."""
        states = ParameterStates(checkpoint, stage=manifest.stage, names=manifest.parameters)
        load_parameters(
            self._engine,
            self._optimizer,
            states,
            stage=self.stage,
            names=self.parameter_names,
            updates=manifest.updates,
        )
        schedule = self._engine.lr_scheduler
        schedule.last_epoch, schedule._step_count = manifest.schedule_steps, manifest.schedule_steps + 1
        rates = [
            base * factor(manifest.schedule_steps)
            for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        schedule._last_lr = rates
        for groups in (self._optimizer.param_groups, self._engine.optimizer.param_groups):
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate


def seed_torch(*numbers: int) -> None:
    """Make dropout a function of `numbers`: the run's seed, the step or epoch, the rank.

    A run that was interrupted then needs no saved generator state.
    """
    import torch

    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def generator_states() -> list[str]:
    """States of torch's generators in this process, as text: what dropout draws next follows from them."""
    import torch

    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return [base64.b64encode(state.numpy().tobytes()).decode() for state in states]


def set_generator_states(states: Sequence[str]) -> bool:
    """Go on from what `generator_states` gave; whether that was possible, which it is on like devices."""
    import torch

    if len(states) != len(generator_states()):
        return False
    cpu, *cuda = (torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8) for state in states)
    torch.set_rng_state(cpu)
    for state in cuda:
        torch.cuda.set_rng_state(state)
    return True


def _no_update(*_: Any, **__: Any) -> None:
    """A step of an optimiser that changes nothing."""


def _snapshot_engine(add: Callable[[Any, str], None]) -> Any:
    """A checkpoint engine through which DeepSpeed hands over the content and path of each of its files."""
    import torch
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class SnapshotEngine(CheckpointEngine):  # type: ignore[misc]
        def create(self, info: Any) -> None:
            pass

        def save(self, state_dict: Any, path: str) -> None:
            add(state_dict, path)

        def load(self, path: str, map_location: Any = None) -> Any:
            return torch.load(path, map_location=map_location, weights_only=False)

        def commit(self, info: Any) -> bool:
            return True

        def preserves_storage_sharing(self) -> bool:
            return False  # asks DeepSpeed for copies, which `snapshot` makes

    return SnapshotEngine()


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Torch's autocast for `precision`; nothing for fp32."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type=device.split(":")[0], dtype=dtype)
