"""Protocol of a study: which models, how they are made, which tasks, under which search."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from clinscale.config import Config, nearest
from clinscale.corpus import CorpusConfig
from clinscale.errors import ConfigError
from clinscale.models import ModelConfig, check_conversion
from clinscale.pretrain import PretrainConfig, PretrainRuntime
from clinscale.runfolder import check_plain_name
from clinscale.sweep import StudyConfig, SweepConfig, SweepRuntime, load_space
from clinscale.tasks import KINDS

_PROTOCOLS = files("clinscale.study") / "protocols"


class BaseConfig(Config):
    """A base model: published weights, as they are or converted, and pretrained further or not."""

    pretrained: str
    """Folder or hub name of the weights that it begins from; as it is, a base may be a version of the registry, too."""

    convert_to: str | None = None
    """`longformer` or `bigbird`: the family that a short encoder is turned into; None keeps it as it is."""

    max_tokens: int | None = None
    """Tokens that the converted model reads; None is 4,096."""

    hf_overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the converted model's Hugging Face config: `attention_window: 256`."""

    pretrain: dict[str, Any] | None = None
    """Fields of a pretraining's recipe (`duration: 2000steps`) by which it is pretrained further on the protocol's
    corpus; None leaves it as it is."""

    def check(self) -> None:
        """Check that what is set belongs to a conversion, or to a family that is pretrained."""
        if self.convert_to is None and (self.max_tokens is not None or self.hf_overrides):
            raise ConfigError(
                f"base of {self.pretrained}: max_tokens and hf_overrides are for a conversion; add convert_to, or drop "
                "them (the window of a model is max_tokens under models)"
            )
        if self.convert_to is not None:
            check_conversion(self.model)
        if odd := sorted({"model", "shards"} & set(self.pretrain or {})):
            raise ConfigError(f"base of {self.pretrained}: pretrain.{odd[0]} is what the protocol says; drop it")

    @property
    def model(self) -> ModelConfig:
        """Model that is converted or pretrained."""
        return ModelConfig(
            pretrained=self.pretrained,
            convert_to=self.convert_to,
            max_tokens=self.max_tokens,
            hf_overrides=self.hf_overrides,
        )


class ArmConfig(Config):
    """A model of the league table: a base and how it reads."""

    base: str
    """Name of one of the protocol's bases."""

    max_tokens: int | None = None
    """Window; None is all that the model reads, and 512 the short baseline."""

    fixed: dict[str, Any] = Field(default_factory=dict)
    """Fields of the fine-tuning recipe (dotted) that are not searched: `long_documents: head_tail`."""

    kinds: tuple[str, ...] | None = None
    """Kinds of task that it is asked; None is all."""


class TaskEntry(Config):
    """A task of the protocol."""

    data: str
    """Folder of its files, below `data_folder`."""

    changes: dict[str, Any] = Field(default_factory=dict)
    """Fields laid over the task: `metric: macro_f1`."""

    space: str | None = None
    """YAML file of its search space; None takes that of `search_spaces/`."""

    note: str | None = None
    """Deviation from what it represents, which is printed with the results."""


class Protocol(Config):
    """One study under one name."""

    name: str
    """Name of the study and its folder, and the beginning of the names of its sweeps; the same name resumes."""

    about: str = ""
    """Question in a sentence or two, which is printed with the results."""

    bases: dict[str, BaseConfig] = Field(min_length=1)
    """Base models by name."""

    models: dict[str, ArmConfig] = Field(min_length=1)
    """Columns of the league table by name."""

    tasks: dict[str, TaskEntry] = Field(min_length=1)
    """Rows of the league table by name in `clinscale tasks`, or by YAML file."""

    data_folder: str = "."
    """Folder below which the tasks' data are."""

    corpus: dict[str, Any] | None = None
    """Fields of a corpus (`sources`, `cleaning`) that bases are pretrained on, without the tasks' test documents."""

    shards: str | None = None
    """ShardSet in place of `corpus`, made with the bases' tokenizer and without the tasks' test documents."""

    allow_seen_tests: bool = False
    """Go on where the test documents of a task may be in `shards`; the league table names the task."""

    seeds: int = Field(default=3, ge=1)
    """Seeds under which the finalists of each search are trained."""

    search: dict[str, Any] = Field(default_factory=dict)
    """Fields of a sweep's recipe, one sweep for each task over all of its models, which share its budget:
    `budget: {trials: 40}`, `scheduler: none`."""

    sweep_runtime: SweepRuntime = SweepRuntime()
    """Speed, place and cost of the searches."""

    pretrain_runtime: PretrainRuntime = PretrainRuntime()
    """Speed, place and cost of the pretrainings."""

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = (), *, base: Any = None) -> Self:
        """Read a protocol as `Config.load` does; a `path` without a suffix names one of the package."""
        if path is not None and not Path(path).suffix and not Path(path).is_file():
            if str(path) not in protocols():
                raise ConfigError(
                    f"{path} is neither a YAML file nor a protocol of the package; {nearest(str(path), protocols())}"
                )
            path = Path(str(_PROTOCOLS / f"{path}.yaml"))
        return super().load(path, overrides, base=base)

    def check(self) -> None:
        """Names meet, and what pretraining and searches will ask for is legal now, not in a night's time."""
        check_plain_name("study name", self.name)
        for name, base in self.bases.items():
            check_plain_name("base", f"{self.name}-{name}")
            if base.pretrain is not None:
                self.pretraining(name, "-")
        for name, arm in self.models.items():
            if arm.base not in self.bases:
                raise ConfigError(
                    f"models.{name}.base must be one of bases, got {arm.base}; {nearest(arm.base, list(self.bases))}"
                )
            if arm.kinds == ():
                raise ConfigError(
                    f"models.{name}.kinds names none, so that no task asks it; leave it out for all kinds"
                )
            if arm.max_tokens is not None and "max_tokens" in arm.fixed:
                raise ConfigError(
                    f"models.{name}.fixed and models.{name} both give max_tokens; leave out one of the two"
                )
            if arm.fixed:  # fields of a recipe, whatever the task
                load_space([next(iter(KINDS))]).with_fixed(arm.fixed, source=f"models.{name}.fixed")
            odd = sorted(set(arm.kinds or ()) - set(KINDS))
            if odd:
                raise ConfigError(f"models.{name}.kinds: {odd[0]} is no kind; {nearest(odd[0], list(KINDS))}")
        pretrained = [name for name, base in self.bases.items() if base.pretrain is not None]
        if pretrained and (self.corpus is None) == (self.shards is None):
            raise ConfigError(
                f"base {pretrained[0]} is pretrained further, which needs notes: give either corpus or shards"
            )
        if "tokenizer" in (self.corpus or {}):
            raise ConfigError("corpus.tokenizer is that of each base that is pretrained; drop it")
        if self.corpus is not None:
            self.corpus_of(None)
        odd = sorted({"studies", "confirm_seeds"} & set(self.search))
        if odd:
            raise ConfigError(f"search.{odd[0]} is made by the protocol (models, tasks, seeds); drop it")
        always = [name for name, arm in self.models.items() if arm.kinds is None]  # else the task decides
        self.sweep(
            [StudyConfig(name=name, task="-", data="-", models=("-",)) for name in always or self.models], "-"
        )

    def pretraining(self, base: str, shards: str) -> PretrainConfig:
        """The pretraining of one base on a ShardSet."""
        recipe = {**(self.bases[base].pretrain or {}), "shards": shards, "model": self.bases[base].model.plain()}
        values = {"name": f"{self.name}-{base}", "recipe": recipe, "runtime": self.pretrain_runtime.plain()}
        return PretrainConfig.parse(values, source=f"bases.{base}.pretrain")

    def corpus_of(self, tokenizer: str | None) -> CorpusConfig:
        """The corpus that bases with this tokenizer are pretrained on; None trains one on it."""
        return CorpusConfig.parse({"tokenizer": tokenizer, **(self.corpus or {})}, source="corpus")

    def sweep(self, studies: Sequence[StudyConfig], name: str, *, of: int | None = None) -> SweepConfig:
        """A sweep over so many of the models that a task asks; `of` all of them, whose budget is shared alike."""
        recipe = {
            **self.search,
            "confirm_seeds": self.seeds,
            "studies": [study.plain() for study in studies],
        }
        if of and of > len(studies) and isinstance(budget := self.search.get("budget"), dict):
            share = len(studies) / of
            parts = {key: budget[key] * share for key in ("device_hours", "usd") if budget.get(key)}
            if budget.get("trials"):
                parts["trials"] = max(len(studies), round(budget["trials"] * share))
            recipe["budget"] = budget | parts
        values = {"name": f"{self.name}-{name}", "recipe": recipe, "runtime": self.sweep_runtime.plain()}
        return SweepConfig.parse(values, source="search")


def protocols() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _PROTOCOLS.iterdir() if entry.name.endswith(".yaml")
    )
