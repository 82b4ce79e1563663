"""Engines with one face: plain torch in one process, DeepSpeed over the workers of a Ray Train group."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clinscale.engine.optim import OptimizerConfig, build_optimizer, build_schedule
from clinscale.engine.zero import Precision, ZeroConfig, deepspeed_config, import_deepspeed

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
        self.module = model.to(device)
        self._device = device
        self._precision = precision
        self._max_grad_norm = optimizer.max_grad_norm
        self._optimizer = build_optimizer(model, optimizer)
        self._schedule = build_schedule(self._optimizer, optimizer, total_steps)

    def forward(self, batch: Batch) -> Any:
        """See Engine."""
        with autocast(self._device, self._precision):
            return self.module(**{name: tensor.to(self._device) for name, tensor in batch.items()})

    def backward(self, loss: "torch.Tensor") -> None:
        """See Engine."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """See Engine."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """See Engine."""
        return float(self._schedule.get_last_lr()[0])


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
    ) -> None:
        self._engine, *_ = import_deepspeed().initialize(
            model=model,
            optimizer=build_optimizer(model, optimizer),
            lr_scheduler=lambda base: build_schedule(base, optimizer, total_steps),
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

    def forward(self, batch: Batch) -> Any:
        """See Engine."""
        return self._engine(**{name: tensor.to(self._engine.device) for name, tensor in batch.items()})

    def backward(self, loss: "torch.Tensor") -> None:
        """See Engine."""
        self._engine.backward(loss)

    def step(self) -> None:
        """See Engine."""
        self._engine.step()

    @property
    def learning_rate(self) -> float:
        """See Engine."""
        return float(self._engine.get_lr()[0])

    def save(self, folder: str | Path, client_state: dict[str, Any]) -> None:
        """Write this rank's shards and `client_state` below `folder`; every rank must call it."""
        self._engine.save_checkpoint(str(folder), tag="engine", client_state=client_state)

    def load(self, folder: str | Path) -> dict[str, Any]:
        """Restore from what `save` wrote at the same world size; returns its `client_state`."""
        _, client_state = self._engine.load_checkpoint(str(folder), tag="engine")
        return dict(client_state or {})


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Torch's autocast for `precision`; nothing for fp32."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device_type=device.split(":")[0], dtype=torch.bfloat16)
