"""The contract of a kind, and the window: one model input cut from an example."""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from clinscale.errors import DataError
from clinscale.tasks.example import Example
from clinscale.tasks.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prediction = dict[str, Any]
"""A JSON-ready answer; its keys depend on the kind and are listed at `decode` of each."""

LongDocuments = Literal["truncate", "head_tail", "pool"]
"""What becomes of a text to classify that is longer than the model: its start is read; its first quarter and last three
quarters of what fits (Sun et al. 2019, How to fine-tune BERT for text classification); or all of it in windows, whose
probabilities are averaged. Entities and answers are always sought in overlapping windows."""

IGNORED = -100
"""Target of positions that the loss must skip, as in torch's cross entropy."""


@dataclass(frozen=True)
class Window:
    """One unpadded model input; all lists are as long as `input_ids`."""

    input_ids: Sequence[int]
    offsets: list[tuple[int, int] | None]
    """Characters [start, end) of the text that each token stands for, without white space at its ends (a token
    of white space alone: an empty range); None for special tokens and for a question's tokens."""
    global_mask: Sequence[int]
    """1 where Longformer attends globally, by the defaults of transformers."""
    first_token: int = 0
    """Position of this window's first text token among all tokens of the text."""
    speaks_for: list[tuple[int, int] | None] = field(default_factory=list)
    """Kind tokens: characters [start, end) of the word or words whose first token each token is; None for others."""
    targets: dict[str, Any] = field(default_factory=dict)
    """The model's label arguments, when training."""

    def packed(self) -> "Window":
        """For training, which needs no offsets: 5 bytes a token, where lists and tuples take about 160."""
        return Window(array("i", self.input_ids), [], array("b", self.global_mask), targets=self.targets)

    @property
    def text_positions(self) -> list[int]:
        """Positions of the tokens that come from the text; they are consecutive."""
        return [position for position, offset in enumerate(self.offsets) if offset is not None]


class Kind(ABC):
    """How one kind of task is asked, answered and judged; no state but the task's choices."""

    name: ClassVar[str]
    head: ClassVar[Literal["sequence", "tokens", "spans"]]
    """Which head a model needs: one output row per text, one per token, or a start and an end per token."""

    def __init__(self, task: TaskConfig) -> None:
        self.task = task

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """What `score` can return, each in 0..1, higher is better."""

    @property
    @abstractmethod
    def default_metric(self) -> str:
        """The metric of tasks that do not choose one."""

    @property
    def metric(self) -> str:
        """The metric that selects the best model; always in what `score` returns."""
        return self.task.metric or self.default_metric

    def problem_type(self, task: TaskConfig) -> str | None:
        """What transformers' sequence heads call the loss of `task`; None for other heads."""
        return None

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Width of the model's output layer."""
        return len(self.output_names(labels))

    @abstractmethod
    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Name of each output, for `id2label`."""

    @abstractmethod
    def windows(
        self,
        example: Example,
        tokenizer: "PreTrainedTokenizerBase",
        labels: Sequence[str],
        *,
        max_tokens: int,
        stride_tokens: int,
        train: bool,
        long_documents: LongDocuments = "truncate",
    ) -> list[Window]:
        """The model inputs of one example, at least one, none longer than `max_tokens`.

        Args:
            example: gold fields are read only when `train`.
            tokenizer: a fast tokenizer.
            labels: of the task, in output order.
            max_tokens: of a window, special tokens included.
            stride_tokens: how many tokens neighbouring windows share (the `stride` of tokenizers); cut to half of
                a window's room for text, so that every window brings new text.
            train: whether to fill `targets`.
            long_documents: for sequences and pairs.

        Raises:
            ConfigError: max_tokens leaves no room for text, or the tokenizer is not a fast one.
        """

    @abstractmethod
    def decode(
        self,
        example: Example,
        windows: Sequence[Window],
        outputs: Sequence[Mapping[str, np.ndarray]],
        labels: Sequence[str],
    ) -> Prediction:
        """One prediction from the model's raw outputs on all windows of an example, in their order.

        Rows of `outputs` beyond a window's length (padding) are ignored.
        """

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> dict[str, float]:
        """All metrics that these examples allow, among them `self.metric`.

        Raises:
            DataError: there is no example, or `self.metric` is not defined on these examples.
        """
        if not examples or len(examples) != len(predictions):
            raise DataError(
                f"task {self.task.name}: scoring needs one prediction per example and at least one example, "
                f"got {len(predictions)} for {len(examples)}"
            )
        scores = self.scores_of(self.outcomes(examples, predictions, labels))
        if self.metric not in scores:
            raise DataError(
                f"task {self.task.name}: {self.metric} is not defined on these {len(examples)} examples, because "
                "their gold lacks some label altogether; give more examples or choose another metric"
            )
        return scores

    @abstractmethod
    def outcomes(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """(examples, k): per example the numbers from which every metric of any subset of examples follows."""

    @abstractmethod
    def scores_of(self, outcomes: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """The metrics (of those named) that are defined on these rows of `outcomes`."""

    def label_scores(self, outcomes: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
        """F1 of each label that these rows of `outcomes` have in their gold; nothing for answers."""
        return {}

    def calibration(self, outcomes: np.ndarray) -> dict[str, float]:
        """How far the stated probabilities can be trusted; lower is better. Nothing for entities and answers."""
        return {}

    def second_text(self, example: Example) -> str:
        """The hypothesis of a pair or the question on a text; DataError when the example has none."""
        if not example.text_pair or not example.text_pair.strip():
            raise DataError(f"example {example.name}: kind {self.name} needs a second text; give it one")
        return example.text_pair

    @abstractmethod
    def trivial(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """What one would answer without reading `examples`: the floor that a model must beat."""
