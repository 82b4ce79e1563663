"""The optimiser with its parameter groups and learning-rate schedule."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from clinscale.config import Config
from clinscale.errors import ConfigError

if TYPE_CHECKING:
    import torch

SMALLEST_FP32 = 2**-126
"""Least number that fp32 holds in full; weights would not move by less."""

RUNNING_NUMBERS = ("k", "weight_sum", "lr_max", "scheduled_lr")
"""Numbers that Schedule-Free keeps by group, not by parameter: its updates so far, and the weights of its average."""


class OptimizerConfig(Config):
    """The optimiser and its schedule; the defaults are the paper's public command (HF Trainer defaults)."""

    # left out of `plain` where it is not set, so that runs from before there was a choice keep their fingerprint
    name: Literal["adamw", "muon", "schedule_free"] = Field(
        default="adamw", exclude_if=lambda value: value == "adamw"
    )
    """`muon` orthogonalises the updates of the encoder's matrices (torch.optim.Muon, momentum 0.95) at the size of
    AdamW's, so that one learning rate is right for both (arXiv 2502.16982); embeddings, head, biases and norms stay
    with AdamW. It needs whole matrices: over several workers `runtime.zero.stage=0`.

    `schedule_free` is AdamW whose weights are averaged in place of a falling rate (the library schedulefree, arXiv
    2405.15682). Held-out losses and the saved model are of the average; each checkpoint may be the end. Its `schedule`
    is `constant_with_warmup`, also where none is named; pretraining only, at `runtime.zero.stage=0`."""

    learning_rate: float = 3e-5
    """Peak learning rate."""

    weight_decay: float = 0.0
    """Decoupled decay of weight matrices; biases and norms are never decayed."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's running-average factors."""

    eps: float = 1e-8
    """AdamW's denominator floor."""

    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm."""

    schedule: Literal["linear", "cosine", "constant_with_warmup", "warmup_stable_decay"] = "linear"
    """Shape after warm-up, by HF's name; all but the constant one end at zero."""

    warmup_ratio: float = 0.05
    """Share of all steps during which the learning rate rises from zero."""

    warmup_steps: int | None = None
    """The same in steps, in place of `warmup_ratio`."""

    # left out of `plain` where they are not set, so that runs from before there was a choice keep their fingerprint
    schedule_unit: Literal["steps", "tokens"] = Field(default="steps", exclude_if=lambda value: value == "steps")
    """The axis of the schedule, on which `warmup_ratio` and `decay_ratio` are shares: with `tokens` a global batch
    that grows leaves the shape over the tokens as it is. The same where the batch does not; pretraining only."""

    warmup_tokens: int | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)
    """Warm-up in tokens, in place of `warmup_ratio`; needs `schedule_unit=tokens`."""

    decay_ratio: float = 0.1
    """Share of all steps at the end during which `warmup_stable_decay` falls to zero; unused by the others."""

    @model_validator(mode="before")
    @classmethod
    def _without_decay(cls, values: Any) -> Any:
        """Schedule-Free's own default of `schedule`, so that naming it is enough."""
        if isinstance(values, dict) and values.get("name") == "schedule_free":
            return {"schedule": "constant_with_warmup", **values}
        return values

    def check(self) -> None:
        """Rates are positive and shares are shares."""
        if not SMALLEST_FP32 <= self.learning_rate < 1:
            raise ConfigError(
                f"optimizer.learning_rate must be between 0 and 1 in fp32, got {self.learning_rate}; 3e-5 to 5e-4 are "
                "usual"
            )
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(
                f"optimizer.warmup_ratio must be a share from 0 to below 1, got {self.warmup_ratio}; 0.1 is usual"
            )
        if not 0 < self.decay_ratio <= 1 - self.warmup_ratio or (self.warmup_steps or 0) < 0:
            raise ConfigError(
                f"optimizer.decay_ratio must be above 0 and end with warmup_ratio, and warmup_steps be >= 0, got "
                f"{self.decay_ratio}, {self.warmup_ratio} and {self.warmup_steps}; 0.1, 0.05 and null are usual"
            )
        other = self.warmup_steps if self.schedule_unit == "tokens" else self.warmup_tokens
        if other is not None:
            raise ConfigError(
                "optimizer.warmup_steps needs schedule_unit=steps and warmup_tokens schedule_unit=tokens, got "
                f"{self.warmup_steps} and {self.warmup_tokens} with {self.schedule_unit}; give warm-up in the "
                "schedule's unit, or as warmup_ratio"
            )
        if self.weight_decay < 0 or self.max_grad_norm < SMALLEST_FP32:
            raise ConfigError(
                f"optimizer.weight_decay must be >= 0 and, in fp32, max_grad_norm > 0, got {self.weight_decay} and "
                f"{self.max_grad_norm}; 0.01 and 1 are usual"
            )
        if not all(0 <= beta < 1 for beta in self.betas) or self.eps < SMALLEST_FP32:
            raise ConfigError(
                f"optimizer.betas must be from 0 to below 1 and, in fp32, eps above 0, got {list(self.betas)} and "
                f"{self.eps}; [0.9, 0.999] and 1e-8 are usual"
            )
        if self.name == "schedule_free" and self.schedule != "constant_with_warmup":
            raise ConfigError(
                "optimizer.schedule must be constant_with_warmup where optimizer.name=schedule_free, whose average "
                f"takes the place of a falling rate, got {self.schedule}; set optimizer.schedule=constant_with_warmup"
            )
        if self.name == "schedule_free" and not 0 < self.betas[0] < 1:
            raise ConfigError(
                "optimizer.betas must begin with a number between 0 and 1 where optimizer.name=schedule_free, got "
                f"{self.betas[0]}; 0.9 is usual"
            )

    @property
    def unused(self) -> list[str]:
        """Fields that change nothing, as others stand in their place."""
        is_given = self.warmup_steps is not None or self.warmup_tokens is not None
        falls = self.schedule == "warmup_stable_decay"
        return ["warmup_ratio"] * is_given + ["decay_ratio"] * (not falls)

    def warmup_of(self, length: int) -> int:
        """Warm-up of a training of `length` steps, or tokens where `schedule_unit` says so.

        Raises:
            ConfigError: it leaves nothing of the training, whose learning rate would never come to `learning_rate`, or
                too little for its decay.
        """
        unit = self.schedule_unit
        given = self.warmup_tokens if unit == "tokens" else self.warmup_steps
        most = min(length - 1, length - self.decay_of(length))
        if given is None:
            return min(round(self.warmup_ratio * length), most)
        if given > most:
            raise ConfigError(
                f"optimizer.warmup_{unit} must be at most {most} in a training of {length} {unit}, got {given}, with "
                f"which its learning rate would not come to {self.learning_rate:g}; lower it, or set it to null for "
                "warmup_ratio"
            )
        return given

    def decay_of(self, length: int) -> int:
        """Steps, or tokens, of a training of `length` in which `warmup_stable_decay` falls; 0 of other schedules."""
        return round(self.decay_ratio * length) if self.schedule == "warmup_stable_decay" else 0

    def check_stage(self, stage: int) -> None:
        """ConfigError where the optimiser is not right at this ZeRO stage."""
        if self.name == "muon" and stage > 0:
            # DeepSpeed's own Muon gathers them, but its state does not go on at another stage (DeepSpeed#8443, #8438)
            raise ConfigError(
                f"optimizer.name=muon needs whole matrices, and zero.stage={stage} divides them among the workers; set "
                "runtime.zero.stage=0 or optimizer.name=adamw"
            )
        if self.name == "schedule_free" and stage > 0:
            # ZeRO 3 steps once for each group, and each would count; DeepSpeed converts no other moments than Adam's
            raise ConfigError(
                f"optimizer.name=schedule_free keeps an average that zero.stage={stage} would count wrongly or lose "
                "when the number of workers changes; set runtime.zero.stage=0 or optimizer.name=adamw"
            )


def build_optimizer(model: "torch.nn.Module", config: OptimizerConfig) -> "torch.optim.Optimizer":
    """The optimiser over the trainable parameters, decaying matrices only (HF Trainer's rule)."""
    import torch

    hidden = hidden_matrices(model) if config.name == "muon" else []
    rest = {parameter: None for parameter in model.parameters() if parameter.requires_grad}
    for parameter in hidden:
        del rest[parameter]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.name == "schedule_free":
        from schedulefree import AdamWScheduleFree

        averaging: torch.optim.Optimizer = AdamWScheduleFree(
            groups, lr=config.learning_rate, betas=config.betas, eps=config.eps
        )
        averaging.train()  # type: ignore[attr-defined]
        averaging.state.clear()  # of empty states, of parameters that DeepSpeed puts its masters in place of
        return averaging
    # fused: one pass over weights and moments instead of ten
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
    if not hidden:
        return adamw
    muon = torch.optim.Muon(
        hidden, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return _together(muon, adamw)


@contextlib.contextmanager
def averaged_weights(optimizer: "torch.optim.Optimizer") -> Iterator[None]:
    """Inside, an optimiser's parameters are Schedule-Free's averages, behind it what they were, to the last bit."""
    if not is_averaging(optimizer):
        yield
        return
    trained = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        # the library computes them back, which rounds: how often a run is evaluated would change its numbers
        for parameter, value in trained:
            parameter.data.copy_(value)


def is_averaging(optimizer: "torch.optim.Optimizer") -> bool:
    """Whether the weights to judge and to save are others than those that are trained."""
    return hasattr(optimizer, "eval")


def averaged(trained: "torch.Tensor", z: "torch.Tensor", *, beta1: float) -> "torch.Tensor":
    """Schedule-Free's average of a parameter, from what it trains and its state `z`, as the library computes it."""
    return trained.lerp(z, 1 - 1 / beta1)


def hidden_matrices(model: "torch.nn.Module") -> "list[torch.nn.Parameter]":
    """Trainable matrices of an HF model's encoder: of the layers, not of embeddings nor of the head."""
    import torch

    encoder: torch.nn.Module = getattr(model, "base_model", model)
    embeddings = {module.weight for module in encoder.modules() if isinstance(module, torch.nn.Embedding)}
    return [p for p in encoder.parameters() if p.requires_grad and p.ndim == 2 and p not in embeddings]


def _together(*parts: "torch.optim.Optimizer") -> "torch.optim.Optimizer":
    """One optimiser, for one schedule and one checkpoint, of groups that each of `parts` updates by its own rule."""
    import torch

    class Together(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(
                [{**group, "part": at} for at, part in enumerate(parts) for group in part.param_groups], {}
            )

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            # groups and state are new objects after a checkpoint was loaded, and DeepSpeed puts masters into them
            for at, part in enumerate(parts):
                part.param_groups = [group for group in self.param_groups if group["part"] == at]
                part.state = self.state
                part.step()

    return Together()


def build_schedule(
    optimizer: "torch.optim.Optimizer",
    config: OptimizerConfig,
    total_steps: int,
    *,
    tokens_before: Callable[[int], int] | None = None,
) -> "torch.optim.lr_scheduler.LambdaLR":
    """HF's schedule of that name over `total_steps` optimizer steps.

    Args:
        optimizer: whose rates it sets.
        config: of the schedule.
        total_steps: its length.
        tokens_before: tokens that all steps before a step read together, for `schedule_unit=tokens`.

    Raises:
        ConfigError: the schedule is in tokens, and nobody says how many the steps read; or it is warm-up alone.
    """
    if config.schedule_unit == "tokens":
        if tokens_before is None:
            raise ConfigError(
                "optimizer.schedule_unit=tokens needs the tokens of each step, which only pretraining knows; set "
                "optimizer.schedule_unit=steps"
            )
        schedule = _hf_schedule(optimizer, config, tokens_before(total_steps))
        of_tokens = schedule.lr_lambdas
        schedule.lr_lambdas = [functools.partial(_at_step, factor, tokens_before) for factor in of_tokens]
        return schedule
    return _hf_schedule(optimizer, config, total_steps)


def _at_step(of_tokens: Callable[[int], float], tokens_before: Callable[[int], int], step: int) -> float:
    return of_tokens(tokens_before(step))


def _hf_schedule(
    optimizer: "torch.optim.Optimizer", config: OptimizerConfig, length: int
) -> "torch.optim.lr_scheduler.LambdaLR":
    """HF's schedule on an axis of that length, in steps or in tokens."""
    import transformers

    schedule: torch.optim.lr_scheduler.LambdaLR = transformers.get_scheduler(
        config.schedule,
        optimizer,
        num_warmup_steps=config.warmup_of(length),
        num_training_steps=length,
        scheduler_specific_kwargs=(
            {"num_decay_steps": config.decay_of(length)} if config.schedule == "warmup_stable_decay" else None
        ),
    )
    return schedule
