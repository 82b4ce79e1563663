"""Undisturbed work, done once: what every try of a fault begins from and is compared with."""

import functools
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clinscale import corpus, models, registry
from clinscale.bench.faults.loss import LossError, check
from clinscale.engine import consolidated_state, newest_checkpoint
from clinscale.pretrain import CHECKPOINTS, PretrainConfig, train, train_worker, worker_task

if TYPE_CHECKING:
    import torch

    from clinscale.finetune import FinetuneConfig, FinetuneSummary

_Made = TypeVar("_Made")

STEPS, EVERY_STEPS = 6, 2
"""Length of a training, and steps between its checkpoints."""

WORKERS = 2


@dataclass(frozen=True)
class Trained:
    """A training that came to its end."""

    losses: dict[int, list[float]]
    """Losses by step, in the order of their executions."""
    weights: "dict[str, torch.Tensor]"
    first_step: int
    """Steps that were done already when it began."""

    def compare(self, undisturbed: "Trained") -> None:
        """LossError unless every loss and weight is the undisturbed one's, to the bit."""
        import torch

        for step, losses in self.losses.items():
            check({*losses} == {*undisturbed.losses[step]}, f"the loss of step {step} is not the undisturbed one")
        check(self.losses.keys() == undisturbed.losses.keys(), "a step is missing")
        check(self.weights.keys() == undisturbed.weights.keys(), "weights are missing")
        for name, weight in self.weights.items():
            check(torch.equal(weight, undisturbed.weights[name]), f"weights {name} are not the undisturbed ones")


class Ground:
    """Undisturbed work below a folder; each piece is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, Any] = {}

    def once(self, what: str, make: Callable[[], _Made]) -> _Made:
        """Result of `make`, which is called when `what` is asked for the first time, and again where it failed."""
        if what not in self._made:
            self._made[what] = make()
        return cast("_Made", self._made[what])

    @functools.cached_property
    def data(self) -> Path:
        """Folder of the demo's invented data, a tenth of its size."""
        from clinscale.synthetic import write_demo_data

        write_demo_data(self.folder / "data", scale=0.1)
        return self.folder / "data"

    def corpus_config(self) -> corpus.CorpusConfig:
        """The recipe of the shards."""
        notes = corpus.SourceConfig(uri=str(self.data / "notes" / "notes.jsonl.gz"), id_column="id")
        return corpus.CorpusConfig(sources=(notes,), vocab_size=1024, validation_fraction=0.15)

    @functools.cached_property
    def shards(self) -> corpus.ShardSet:
        """ShardSet of the demo's notes."""
        return corpus.build_shards(self.corpus_config(), str(self.folder / "shards"))

    def pretraining(self, name: str = "base", **runtime: Any) -> PretrainConfig:
        """The config of a short pretraining of the smallest model, with these settings of its runtime."""
        recipe = {
            "shards": self.shards.uri,
            "model": {"size": "tiny"},
            "row_tokens": 128,
            "rows_per_step": 8,
            "duration": f"{STEPS}steps",
            "optimizer": {"learning_rate": 1e-3},
        }
        settings = {
            "num_workers": WORKERS,
            "log_every_steps": 1,
            "checkpoint_every_steps": EVERY_STEPS,
            "evaluate_every_steps": 100,
            "evaluation_rows": 16,
            "retention": {"num_to_keep": 3},
        }
        return PretrainConfig.parse(
            {"name": name, "recipe": recipe, "runtime": settings | runtime}, source="faults"
        )

    def train(self, folder: Path, *, function: Callable[..., None] = train_worker, **runtime: Any) -> Trained:
        """Train to the end in `folder`, from what is there; needs a session of workers."""
        task = worker_task(self.pretraining(**runtime), self.shards, folder)
        losses: dict[int, list[float]] = defaultdict(list)
        before = newest_checkpoint(folder / CHECKPOINTS)

        def on_log(metrics: dict[str, float]) -> None:
            if "train/loss" in metrics:
                losses[int(metrics["step"])].append(metrics["train/loss"])

        train(task, folder, on_log=on_log, function=function)
        newest = newest_checkpoint(folder / CHECKPOINTS)
        if newest is None:
            raise LossError("the training ended without a checkpoint")
        return Trained(dict(losses), consolidated_state(newest), int(before.name[5:]) if before else 0)

    @functools.cached_property
    def undisturbed(self) -> Trained:
        """The training that nothing happens to."""
        return self.train(self.folder / "undisturbed")

    def checkpoints_until(self, step: int, folder: Path) -> Path:
        """Copy of the undisturbed training's checkpoints of its first `step` steps, below the run's `folder`."""
        assert self.undisturbed
        made = folder / CHECKPOINTS
        for saved in range(EVERY_STEPS, step + 1, EVERY_STEPS):
            name = f"step-{saved:08d}"
            shutil.copytree(self.folder / "undisturbed" / CHECKPOINTS / name, made / name)
        return made

    @functools.cached_property
    def base_model(self) -> Path:
        """Folder of an untrained base model of the smallest size."""
        return self._untrained("base", poisoned=False)

    @functools.cached_property
    def pairs_model(self) -> Path:
        """Folder of a model that answers `demo_pairs`."""
        return self.finetuned(epochs=1).folder

    def finetuned(self, *, epochs: int) -> "FinetuneSummary":
        """A fine-tuning on `demo_pairs` that nothing happens to, in a home of its own."""
        from clinscale.finetune import run_finetune

        home = Path(tempfile.mkdtemp(dir=self.folder))
        return run_finetune(self.finetuning(epochs=epochs), tracking=self.tracking(home), home=home)

    def finetuning(self, *, epochs: int) -> "FinetuneConfig":
        """The config of a fine-tuning on `demo_pairs`."""
        from clinscale.finetune import FinetuneConfig

        recipe = {"model": str(self.base_model), "epochs": epochs, "max_tokens": 64}
        values = {"name": "pairs", "task": "demo_pairs", "data": str(self.data), "recipe": recipe}
        return FinetuneConfig.parse(values, source="faults")

    @functools.cached_property
    def poisoned_model(self) -> Path:
        """The base model with weights so large that sums of them are no numbers, as a broken training leaves them."""
        return self._untrained("poisoned", poisoned=True)

    def _untrained(self, name: str, *, poisoned: bool) -> Path:
        tokenizer = corpus.load_tokenizer(str(self.shards.tokenizer_dir))
        model = models.build(models.ModelConfig(size="tiny"), tokenizer, seed=0)
        if poisoned:
            model.base_model.embeddings.word_embeddings.weight.data.fill_(3e38)
        return models.save_hf(model, tokenizer, self.folder / name)

    @functools.cached_property
    def database(self) -> Path:
        """An empty tracking database."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        registry.connect(f"sqlite:///{home / 'mlflow.db'}")
        return home / "mlflow.db"

    def tracking(self, home: Path) -> registry.Tracking:
        """A tracking database of its own in `home`."""
        shutil.copy(self.database, home / "mlflow.db")
        return registry.connect(f"sqlite:///{home / 'mlflow.db'}")

    @staticmethod
    def run(tracking: registry.Tracking, spool: Path) -> registry.Run:
        """A pretraining's run that has its metrics in `spool` until they are delivered."""
        return registry.resume_or_start_run(
            tracking,
            experiment="clinscale-pretrain",
            name="base",
            kind="pretrain",
            recipe="r",
            tags={},
            params={},
            spool=spool,
        )
