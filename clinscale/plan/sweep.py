"""Plan of a sweep: device-seconds and memory of its trials by arithmetic, hours and money of them all."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clinscale import models
from clinscale.errors import ConfigError
from clinscale.finetune import FinetuneRecipe, card_of
from clinscale.plan.facts import ModelFacts
from clinscale.plan.memory import Memory, RankSetup, rank_memory
from clinscale.plan.site import Site
from clinscale.plan.step import StepSetup, step_time
from clinscale.predict import TaskCard, windows_of
from clinscale.sweep import (
    Study,
    SweepConfig,
    SweepInputs,
    SweepRuntime,
    Work,
    expected_epochs,
    expected_work,
    suggestions,
)
from clinscale.tasks import Example
from clinscale.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_COUNTED = 200
"""Examples of a split whose windows are counted; the others are taken to be like them."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of a split, counted on some of its examples."""

    number: float
    tokens: float
    """Tokens of all of them."""
    longest: int
    """Tokens of the longest that was counted."""

    @classmethod
    def of(cls, examples: Sequence[Example], card: TaskCard, tokenizer: Any, *, train: bool) -> "Windows":
        """Windows of evenly chosen examples, times what all are over these."""
        chosen = examples[:: -(-len(examples) // _COUNTED)] if examples else ()
        lengths = [
            len(window.input_ids)
            for example in chosen
            for window in windows_of(card, tokenizer, example, train=train)
        ]
        share = len(examples) / max(len(chosen), 1)
        return cls(number=len(lengths) * share, tokens=sum(lengths) * share, longest=max(lengths, default=0))


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """Needs of one setting."""

    device_seconds_per_epoch: float
    memory: Memory
    """Most memory that a worker of the trial holds."""
    notes: tuple[str, ...]
    """Sentences on what its model's settings cost."""
    train: Windows
    dev: Windows


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Needs of one study's trials: the mean of the first settings, and the largest of them."""

    name: str
    train: Windows
    """Windows of the first setting."""
    device_seconds_per_epoch: float
    epochs: float
    """Epochs of a trial on average."""
    memory: Memory
    """Memory of the setting that needs most."""
    fits: bool | None
    """None where the memory of a device is not known."""
    notes: tuple[str, ...]
    """Sentences on what its models' settings cost."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "memory": self.memory.plain()}


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """The answer: needs of each study, and work and cost of the sweep."""

    name: str
    site: Site
    devices: float
    studies: tuple[StudyPlan, ...]
    failures: Mapping[str, str]
    """Reason by study that cannot be planned."""
    trials_at_once: int
    work: Work | None
    """None where no study can be planned."""

    @property
    def kwh(self) -> float | None:
        """Energy at the boards' power; None where nobody says it."""
        watts = self.site.device.watts
        return None if self.work is None or watts is None else self.work.device_hours * watts / 1000

    @property
    def usd(self) -> float | None:
        """Money at the site's price, else the budget's; None without a price."""
        price = self.site.device.usd_per_hour
        if self.work is None or price is None:
            return None if self.work is None else self.work.usd
        return self.work.device_hours * price

    @property
    def usd_spot(self) -> float | None:
        """Money on spot devices, with half an epoch and a restart for each preemption; None without a price."""
        price, site = self.site.device.usd_per_spot_hour, self.site
        if self.work is None or price is None:
            return None
        lost_s = statistics.fmean(one.device_seconds_per_epoch for one in self.studies) / 2 + site.restart_s
        return self.work.device_hours * (1 + site.preemptions_per_device_day / 86400 * lost_s) * price

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "device": {"name": self.site.device_name, **self.site.device.plain()},
            "devices": self.devices,
            "studies": [one.plain() for one in self.studies],
            "failures": dict(self.failures),
            "trials_at_once": self.trials_at_once,
            **(asdict(self.work) if self.work else {"trials": None, "device_hours": None, "hours": None}),
            "kwh": self.kwh,
            "usd": self.usd,
            "usd_spot": self.usd_spot,
        }


def plan_tune(
    config: SweepConfig,
    inputs: SweepInputs,
    site: Site,
    *,
    devices: float,
    shapes: "Mapping[str, PretrainedConfig] | None" = None,
) -> TunePlan:
    """The plan of a sweep on so many devices of a site; trains nothing.

    Args:
        config: of the sweep.
        inputs: of its studies.
        site: hardware and prices.
        devices: GPUs, or cores, that trials share.
        shapes: of base models that are still to be made of the study's own, by study; the others' are read.

    Raises:
        ConfigError: a trial needs more devices than there are, or a precision that they lack.
    """
    settings = config.runtime
    if devices < settings.devices_per_trial:
        raise ConfigError(
            f"sweep {config.name}: a trial needs {settings.devices_per_trial:g} devices, got {devices:g}; raise "
            "--devices, or lower runtime.workers_per_trial"
        )
    room = max(1, int(devices / settings.devices_per_trial + 1e-9))
    at_once = min(settings.max_concurrent_trials or room, room)
    failures = {name: str(error) for name, error in inputs.failures.items()}
    planned, epochs = list[StudyPlan](), list[int]()
    for study in inputs.studies:
        try:
            planned.append(_study(config, study, site, at_once, (shapes or {}).get(study.name)))
            epochs.append(study.space.epochs)
        except _UnknownShapeError as error:
            failures[study.name] = str(error)
    seconds = [one.device_seconds_per_epoch for one in planned]
    return TunePlan(
        name=config.name,
        site=site,
        devices=devices,
        studies=tuple(planned),
        failures=failures,
        trials_at_once=at_once,
        work=expected_work(config, epochs, seconds, at_once=at_once) if planned else None,
    )


def planned_costs(
    config: SweepConfig, site: Site
) -> Callable[[Study, Sequence[Mapping[str, Any]]], list[float] | None]:
    """A function that plans device-seconds of an epoch at points of a study; None where a model's shape is unknown."""
    known: dict[str, _Trials] = {}

    def costs(study: Study, points: Sequence[Mapping[str, Any]]) -> list[float] | None:
        try:
            # the windows of a study are counted once
            trials = known.setdefault(study.name, _Trials(study, site, config.runtime))
            return [
                trials.plan(study.recipe(point, config.recipe.seed)).device_seconds_per_epoch for point in points
            ]
        except _UnknownShapeError:
            return None

    return costs


class _UnknownShapeError(ConfigError):
    """No arithmetic for a base model: the other studies are planned."""


def _study(
    config: SweepConfig, study: Study, site: Site, at_once: int, shape: "PretrainedConfig | None"
) -> StudyPlan:
    trials = _Trials(study, site, config.runtime, shape)
    settings = [trials.plan(study.recipe(one.params, config.recipe.seed)) for one in suggestions(config, study)]
    largest = max(settings, key=lambda one: one.memory.total).memory
    # a fraction of a GPU is a fraction of its memory; trials on CPUs share that of the host
    share = min(1.0, config.runtime.gpus_per_trial) if config.runtime.gpus_per_trial else 1 / at_once
    limit = site.memory_bytes and site.memory_bytes * share
    return StudyPlan(
        name=study.name,
        train=settings[0].train,
        device_seconds_per_epoch=statistics.fmean(one.device_seconds_per_epoch for one in settings),
        epochs=expected_epochs(study.space.epochs, config.recipe.halving),
        memory=largest,
        fits=None if limit is None else largest.total <= limit,
        notes=tuple(dict.fromkeys(note for one in settings for note in one.notes)),
    )


class _Trials:
    """Plans of a study's settings; windows are counted once for each way of reading, shapes once for each base."""

    def __init__(
        self, study: Study, site: Site, runtime: SweepRuntime, shape: "PretrainedConfig | None" = None
    ) -> None:
        self._study, self._site, self._runtime, self._shape = study, site, runtime, shape
        self._facts: dict[tuple[str, float | None], ModelFacts] = {}
        self._windows: dict[tuple[str, str], tuple[Windows, Windows]] = {}

    def plan(self, recipe: FinetuneRecipe) -> TrialPlan:
        """Needs of one setting."""
        model = self._model(recipe)
        train, dev = self._read(recipe, model)
        runtime, site = self._runtime, self._site
        workers, zero = runtime.workers_per_trial, runtime.zero
        on_gpu = runtime.gpus_per_trial > 0
        rows = min(recipe.batch_size, max(1, round(train.number)))
        micro = min(recipe.micro_batch_size or rows, -(-rows // workers))
        shared: dict[str, Any] = {
            "workers": workers,
            "precision": recipe.precision,
            "micro_rows": micro,
            "mask_share": 0.0,  # the head of a task is too small to count
            "stage": zero.stage if workers > 1 else 0,
            "activation_checkpointing": runtime.activation_checkpointing,
            "offload_optimizer": zero.offload_optimizer != "none",
            "offload_param": zero.offload_param != "none",
        }
        mean = max(1, round(train.tokens / max(train.number, 1)))
        rates = site.rates(recipe.precision, runtime.cpus_per_trial)
        step = step_time(model, StepSetup(row_tokens=mean, rows=rows, **shared), rates, site.network())
        forward_s = (step.dense_s + step.attention_s + step.traffic_s) / (rows * mean) / 3
        epoch_s = max(1.0, train.number / rows) * step.total_s + dev.tokens * forward_s
        memory = rank_memory(
            model,
            RankSetup(
                row_tokens=train.longest, micro_batches=-(-rows // (micro * workers)), on_gpu=on_gpu, **shared
            ),
        )
        # one worker keeps a whole GPU busy, however small the share that it asked for
        devices = workers * (max(1.0, runtime.gpus_per_trial) if on_gpu else runtime.cpus_per_trial)
        seconds = epoch_s * devices
        return TrialPlan(device_seconds_per_epoch=seconds, memory=memory, train=train, dev=dev, notes=model.notes)

    def _model(self, recipe: FinetuneRecipe) -> ModelFacts:
        dropout = recipe.dropout if recipe.attention_dropout is None else recipe.attention_dropout
        key = (recipe.model, dropout)
        if key not in self._facts:
            try:
                shape = self._shape or models.encoder_shape(recipe.model)
            except ConfigError as error:
                raise _UnknownShapeError(str(error)) from None
            self._facts[key] = ModelFacts.of(
                shape,
                has_global_tokens=True,
                attention=self._runtime.attention,
                attention_dropout=dropout,
                on_gpu=self._runtime.gpus_per_trial > 0,
            )
        return self._facts[key]

    def _read(self, recipe: FinetuneRecipe, model: ModelFacts) -> tuple[Windows, Windows]:
        data = self._study.data
        card = card_of(recipe, data, model.max_tokens)
        key = (recipe.model, card.model_dump_json())
        if key not in self._windows:
            tokenizer = load_tokenizer(recipe.model)
            self._windows[key] = (
                Windows.of(data.splits.get("train", ()), card, tokenizer, train=True),
                Windows.of(data.splits.get("dev", ()), card, tokenizer, train=False),
            )
        return self._windows[key]
