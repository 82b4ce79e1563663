"""The task card: what a fine-tuned HF folder answers, stored beside its weights."""

from pathlib import Path
from typing import Self

from pydantic import Field

from clinscale.config import Config
from clinscale.errors import ConfigError, DataError
from clinscale.predict.requirements import REQUIREMENTS_FILE, write_requirements
from clinscale.storage import read_json, write_json
from clinscale.tasks import LongDocuments, TaskConfig, kind_of

CARD_FILE = "task_card.json"


class TaskCard(Config):
    """All that prediction needs besides weights and tokenizer."""

    task: TaskConfig
    """The task as it was read for training."""

    labels: tuple[str, ...]
    """Labels in the order of the model's outputs (tokens: entity types)."""

    max_tokens: int
    """Window that the model was trained on."""

    stride_tokens: int
    """Overlap of neighbouring windows of a longer document (HF tokenizers' `stride`)."""

    long_documents: LongDocuments = "truncate"
    """The reading of a document to classify that is longer than the window."""

    # left out where it is not set: models from before there was any read on as they did in training
    token_types: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether the model gets the number of the text, of two, that each token is of, as BERT does in `transformers`."""

    def check(self) -> None:
        """Refuse windows that would leave out parts of a document, and a threshold that is of none of its labels."""
        if not 0 <= self.stride_tokens < self.max_tokens:
            raise ConfigError(
                f"stride_tokens of a task card must be from 0 to below max_tokens {self.max_tokens}, got "
                f"{self.stride_tokens}; pull or fine-tune the model again"
            )
        kind_of(self.task.model_copy(update={"alerts_per_1000": None})).check_threshold(self.labels)

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The card in an HF folder; DataError when the folder is not a fine-tuned clinscale model."""
        path = Path(folder) / CARD_FILE
        if not path.is_file():
            raise DataError(
                f"{folder} has no {CARD_FILE}, so it answers no task; pull a task model, or fine-tune this one first"
            )
        try:
            return cls.parse(read_json(path), source=str(path))
        except ConfigError as error:
            raise ConfigError(
                f"{error}; where another version of clinscale wrote it, {REQUIREMENTS_FILE} beside it says which"
            ) from None

    def write(self, folder: str | Path) -> None:
        """Store the card in an HF folder, and beside it the packages that answering needs."""
        write_json(Path(folder) / CARD_FILE, self.plain())
        write_requirements(folder)
