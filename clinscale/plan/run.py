"""The facts of a pretraining run that its memory and time are counted from."""

from dataclasses import dataclass
from typing import Self

from clinscale import corpus
from clinscale.errors import ConfigError, DataError
from clinscale.models import shape_of
from clinscale.plan.facts import ModelFacts
from clinscale.pretrain import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """The facts of one run that a plan starts from."""

    config: PretrainConfig
    model: ModelFacts
    row_tokens: int
    total_steps: int | None
    """None where the duration is in epochs of a corpus that nobody has counted."""
    notes: tuple[str, ...]
    """Assumptions, a sentence each."""

    @classmethod
    def of(cls, config: PretrainConfig, *, corpus_tokens: int | None = None) -> Self:
        """The run of a config; its ShardSet may not be there yet.

        Raises:
            ConfigError: rows longer than the model, a training of less than half a step, or a model whose shape cannot
                be read here.
        """
        recipe, notes = config.recipe, []
        vocab_size = None
        try:
            shards = corpus.open_shards(recipe.shards) if recipe.shards else None
        except DataError:
            shards = None
        if shards is not None:
            vocab_size = shards.vocab_size
            corpus_tokens = corpus_tokens or shards.manifest.splits["train"].tokens
        elif recipe.model.pretrained is None:
            notes.append(
                f"no ShardSet at recipe.shards={recipe.shards!r}: the vocabulary is that of the published model"
            )
        on_gpu = config.runtime.gpus_per_worker > 0
        shape = shape_of(recipe.model, vocab_size=vocab_size)
        model = ModelFacts.of(
            shape,
            has_global_tokens=recipe.has_global_tokens(shape.model_type),
            attention=config.runtime.attention,
            attention_dropout=recipe.attention_dropout,
            on_gpu=on_gpu,
        )
        notes += model.notes
        row_tokens = recipe.row_tokens or model.max_tokens
        if row_tokens > model.max_tokens:
            raise ConfigError(
                f"recipe.row_tokens must be at most the model's {model.max_tokens} positions, got {row_tokens}; "
                "lower it"
            )
        recipe.row_tokens_at(0, row_tokens=row_tokens, total_steps=1)
        rows_per_step = config.batches(row_tokens).rows
        if config.runtime.most_workers > rows_per_step:
            notes.append(
                f"runtime.num_workers={config.runtime.most_workers} is more than the {rows_per_step} rows of a step: "
                "the others have nothing to do; raise recipe.rows_per_step"
            )
        total_steps = None
        rows = corpus_tokens // row_tokens if corpus_tokens else None
        if rows == 0:
            raise ConfigError(
                f"the training split must have a row of {row_tokens} tokens, got {corpus_tokens} tokens in all; lower "
                "recipe.row_tokens, or build the ShardSet from more notes"
            )
        if rows is not None or recipe.duration.unit != "epochs":
            total_steps = recipe.steps(rows=rows or 0, row_tokens=row_tokens)
            rows_read = recipe.batches(row_tokens).rows_before(total_steps, total_steps)
            recipe.check_duration(rows=rows, steps=total_steps, rows_read=rows_read, row_tokens=row_tokens)
        else:
            notes.append(
                "days and money need the corpus's size: give --corpus-tokens, or a duration in steps or tokens"
            )
        return cls(config=config, model=model, row_tokens=row_tokens, total_steps=total_steps, notes=tuple(notes))

    @property
    def rows_per_step(self) -> int:
        """The global batch; the largest one where it has a schedule."""
        return self.config.recipe.rows_of_step(self.row_tokens)

    @property
    def mean_rows_per_step(self) -> float:
        """Mean global batch over the steps."""
        return self.config.recipe.batches(self.row_tokens).mean_rows
