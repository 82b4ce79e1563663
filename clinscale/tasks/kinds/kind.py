"""The contract of a kind, and the window: one model input cut from an example."""

import dataclasses
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from clinscale.errors import ConfigError, DataError
from clinscale.records import Record
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds.classification import f1_of
from clinscale.tasks.task import KindRules, TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reader = Callable[[TaskConfig, str, Findings], list[Example]]
"""(task, path, findings) -> the examples of one file or folder."""

Prediction = dict[str, Any]
"""A JSON-ready answer; its keys depend on the kind and are listed at `decode` of each."""

LongDocuments = Literal["truncate", "head_tail", "pool"]
"""Reading of a text to classify that is longer than the model's window: its start is read.

Its first quarter and last three quarters of what fits (Sun et al. 2019, How to fine-tune BERT for text
classification); or all of it in windows, whose probabilities are averaged. Entities and answers are always sought
in overlapping windows.
"""

IGNORED = -100
"""Target of positions that the loss must skip, as in torch's cross entropy."""


@dataclass(frozen=True)
class Window:
    """One unpadded model input; all lists are as long as `input_ids`."""

    input_ids: Sequence[int]
    offsets: list[tuple[int, int] | None]
    """Characters [start, end) of the text that each token represents, without white space at its ends (a token
    of white space alone: an empty range); None for special tokens and for a question's tokens."""
    global_mask: Sequence[int]
    """1 where Longformer attends globally, by the defaults of transformers."""
    first_token: int = 0
    """Position of this window's first text token among all tokens of the text."""
    speaks_for: list[tuple[int, int] | None] = field(default_factory=list)
    """Kind tokens: characters [start, end) of the word or words whose first token each token is; None for others."""
    targets: dict[str, Any] = field(default_factory=dict)
    """The model's label arguments, when training."""
    token_types: Sequence[int] = ()
    """Number of the one of two texts that each token is of, 0 or 1, as BERT's tokenizer says; empty for one text."""

    def packed(self) -> "Window":
        """The window for training, which needs no offsets: 5 or 6 bytes a token; lists and tuples take about 160."""
        return Window(
            array("i", self.input_ids),
            [],
            array("b", self.global_mask),
            targets=self.targets,
            token_types=array("b", self.token_types),
        )

    @property
    def text_positions(self) -> list[int]:
        """Positions of the tokens that come from the text; they are consecutive."""
        return [position for position, offset in enumerate(self.offsets) if offset is not None]


def column(name: str, type: str, *, required: bool = True, **more: Any) -> dict[str, Any]:
    """A column of a kind's input or output, as MLflow writes column types."""
    return {"name": name, "type": type, "required": required, **more}


class Kind(KindRules, ABC):
    """One kind of task: how it is read, asked, answered and judged; no state but the task's choices.

    Everything that differs between kinds is answered here, so that a new kind is one module: no other code compares
    names of kinds.
    """

    head: ClassVar[Literal["sequence", "tokens", "spans"]]
    """The head that a model needs: one output row per text, one per token, or a start and an end per token."""
    input_columns: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """The columns of a served model's table beside `text`."""
    input_example: ClassVar[Mapping[str, Any]] = {}
    """An invented value for each of `input_columns`, to go with an invented text."""
    document_formats: ClassVar[tuple[str, ...] | None] = None
    """The formats of files that can be answered; None for all."""
    example_is_document: ClassVar[bool] = True
    """Whether each row is a document of its own; several pairs and questions can be about one."""
    annotation_field: ClassVar[Literal["entities", "gold"]] = "entities"
    """The field of an example with what the task's labels name, beside `labels`; its members have a `label`."""
    earlier_scorer: ClassVar[str | None] = None
    """The scorer of outcomes recorded by versions of clinscale that had no choice."""

    def __init__(self, task: TaskConfig) -> None:
        self.task = task

    @property
    @abstractmethod
    def output_columns(self) -> Sequence[Mapping[str, Any]]:
        """The keys of what `decode` answers, as `column` makes them."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Metrics that `score` can return, each in 0..1, higher is better."""

    @property
    @abstractmethod
    def default_metric(self) -> str:
        """The metric of tasks that do not choose one."""

    @property
    def rules(self) -> tuple[Any, ...]:
        """Rules that two models must share for their values of the metric to be compared."""
        return (self.metric,)

    @property
    def metric(self) -> str:
        """The metric that selects the best model; always in what `score` returns."""
        return self.task.metric or self.default_metric

    def fitting_metric(self, splits: Mapping[str, Sequence[Example]], labels: Sequence[str]) -> str:
        """The metric that fits the balance of labels in these splits, for a task that chooses none."""
        return self.default_metric

    def check_threshold(self, labels: Sequence[str]) -> None:
        """Refuse a task's threshold, or a rule for one, that fits neither these labels nor its metric: ConfigError."""
        named = [name for name in ("threshold", "alerts_per_1000") if getattr(self.task, name) is not None]
        if named:
            raise ConfigError(
                f"task {self.task.name}: {named[0]} is for one of two labels of a text, got kind {self.name}; remove it"
            )

    def dev_scores(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> dict[str, float]:
        """`score` of the development split, there alone with the `threshold` that is chosen on it, if any is.

        Raises:
            DataError: as `score`.
        """
        return self.score(examples, predictions, labels)

    def reading_of_threshold(self, labels: Sequence[str]) -> str:
        """The sentence, without its point, on how the task's threshold decides; empty where it has none."""
        if self.task.threshold is None:
            return ""
        return f"label {labels[1]} is answered where its probability is above {self.task.threshold:.4g}"

    def chooses_threshold(self, labels: Sequence[str]) -> bool:
        """Whether `dev_scores` chooses a threshold, which `TaskConfig.threshold` of the trained task then holds."""
        return False

    def problem_type(self, task: TaskConfig) -> str | None:
        """Name of the loss of `task` in transformers' sequence heads; None for other heads."""
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
        """The model inputs of one example, none longer than `max_tokens`; empty where there is nothing to ask.

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
        """All metrics that these examples allow, among them `self.metric`, and `workload`.

        Raises:
            DataError: there is no example, or `self.metric` is not defined on these examples.
        """
        if not examples or len(examples) != len(predictions):
            raise DataError(
                f"task {self.task.name}: predictions must be one for each example, and at least one, got "
                f"{len(predictions)} for {len(examples)} examples; predict all of the split and score again"
            )
        return self.all_scores(self.outcomes(examples, predictions, labels))

    def all_scores(self, outcomes: np.ndarray) -> dict[str, float]:
        """All metrics that rows of `outcomes` allow, among them `self.metric`; DataError where that is not defined."""
        scores = self.scores_of(outcomes)
        if self.metric not in scores:
            raise DataError(
                f"task {self.task.name}: {self.metric} is not defined on these {len(outcomes)} examples, because "
                "their gold lacks some label altogether; give more examples or choose another metric"
            )
        return scores | self.workload(outcomes)

    @abstractmethod
    def outcomes(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """(examples, k): per example the numbers from which every metric of any subset of examples follows."""

    @abstractmethod
    def scores_of(self, outcomes: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """The metrics (of those named) that are defined on these rows of `outcomes`."""

    def exchangeable(self, outcomes: np.ndarray) -> np.ndarray:
        """These rows in a unit that all models share and that scores the same; a paired test exchanges them."""
        return outcomes

    def label_counts(self, outcomes: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """(examples, labels, 3): how often each label is right, predicted and gold; no labels for answers."""
        return np.zeros((len(outcomes), 0, 3))

    def label_scores(self, outcomes: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
        """F1 of each label that these rows of `outcomes` have in their gold; nothing for answers."""
        counts = self.label_counts(outcomes, labels).sum(axis=0)
        return {label: f1_of(*count) for label, count in zip(labels, counts, strict=False) if count[2]}

    def calibration(self, outcomes: np.ndarray) -> dict[str, float]:
        """Measures of how far the stated probabilities can be trusted; lower is better.

        Nothing for entities and answers.
        """
        return {}

    def workload(self, outcomes: np.ndarray) -> dict[str, float]:
        """Numbers beside the metrics that say how much work the answers make; no model is chosen by them."""
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
        """Answers without reading `examples`: the floor that a model must beat."""

    @abstractmethod
    def baseline(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """Answers of a classical model that learned from `train`: seconds to minutes on one core, untuned."""

    @property
    def scores_equal(self) -> str:
        """Name of the script whose scores those of the task equal."""
        return "scikit-learn's"

    @property
    def own_readers(self) -> Mapping[str, Reader]:
        """Format -> its reader, where the reader that other kinds share does not read this kind's gold."""
        return {}

    @property
    @abstractmethod
    def gold_columns(self) -> tuple[str, ...]:
        """The columns of a record that hold its gold; empty where the gold is elsewhere."""

    @abstractmethod
    def read_gold(self, record: Record, text: str, findings: Findings) -> dict[str, Any] | None:
        """Fields of the example of a record: what is to be learned from it. None where a rule leaves the record out.

        Raises:
            CellError: a column of gold is malformed.
        """

    def read_given(self, record: Record, text: str) -> dict[str, Any]:
        """Fields of an example to be answered beside its texts; CellError where they are absent."""
        return {}

    def read_beside(self, file: str, text: str) -> dict[str, Any]:
        """The same for a text file, from files beside it; DataError where there are none."""
        if self.needs:
            raise DataError(f"a text file has no {self.needs}; give a table with both")
        return {}

    def asked_example(self, text: str) -> Example:
        """An invented example on `text`, to measure how long an answer takes."""
        return Example("latency", text, text_pair="Was a drug given?")

    def labels_of(self, example: Example) -> list[str]:
        """The labels that the gold of an example uses, each as often as it does."""
        return [*example.labels, *(one.label for one in self.annotations(example))]

    def annotations(self, example: Example) -> tuple[Any, ...]:
        """Annotations of the example that the task's labels name, beside its own labels."""
        return tuple(getattr(example, self.annotation_field))

    def with_annotations(self, example: Example, annotations: Sequence[Any], labels: Sequence[str]) -> Example:
        """The example with other annotations and labels."""
        changed: dict[str, Any] = {self.annotation_field: tuple(annotations), "labels": tuple(labels)}
        return dataclasses.replace(example, **changed)

    def as_read(self, example: Example) -> Example:
        """The example as this kind understands what a file says, before its labels are mapped to those of the task."""
        return example

    def settled(self, example: Example, findings: Findings) -> Example:
        """The example as it is learned and scored, once its labels are those of the task."""
        return example

    def check_split(self, examples: Sequence[Example], place: str) -> None:
        """Refuse a split from which nothing is learned, or by which nothing is judged; `place` names it.

        Raises:
            DataError: it lacks something that this kind needs.
        """

    def check_use(self, examples: Sequence[Example], labels: Sequence[str], split: str) -> None:
        """Refuse a split by which every training would be judged alike, or not at all, before there is any.

        Raises:
            DataError: it lacks gold that this kind, or in dev and test the metric, needs.
        """

    def check_labels(self, labels: Sequence[str]) -> None:
        """Refuse labels that are too few for this kind: DataError."""

    def check_found_labels(self, labels: Sequence[str], num_examples: int) -> None:
        """Refuse labels that nobody has listed and that are likely no labels: DataError."""

    def report(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Remark on what of the gold no answer can reach."""

    def measured_texts(self, example: Example) -> tuple[str, str | None]:
        """The texts whose length is an example's length."""
        return example.text, None

    def key_of(self, example: Example) -> list[Any]:
        """Plain values that two examples share exactly when scores on them may be compared."""
        return [example.id, example.labels, [(answer.start, answer.end) for answer in example.answers]]

    def loss_terms(self, windows: Sequence[Window]) -> int:
        """Number of terms that the loss of one forward pass averages over.

        Weighting partial losses by it makes a step independent of how its windows are split over ranks.
        """
        return len(windows)

    def reading_of_long_documents(self, how: LongDocuments) -> str:
        """Treatment of documents longer than the window, as a model card says it."""
        return "read in overlapping windows"
