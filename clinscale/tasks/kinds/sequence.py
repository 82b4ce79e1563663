"""Kind sequence: one label of a text, or several; the text is one window, cut at its end when too long."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from clinscale.errors import DataError
from clinscale.tasks.example import Example
from clinscale.tasks.kinds.classification import multi_label_scores, single_label_scores
from clinscale.tasks.kinds.kind import Kind, Prediction, Window
from clinscale.tasks.kinds.windowing import truncated
from clinscale.tasks.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SequenceKind(Kind):
    """A text and its label, or with `multi_label` any number of labels."""

    name = "sequence"
    head: ClassVar[Literal["sequence", "tokens", "spans"]] = "sequence"

    @property
    def metrics(self) -> tuple[str, ...]:
        """`roc_auc` is the mean over labels (one against the rest; of two labels that of the second)."""
        shared = ("micro_f1", "macro_f1", "roc_auc")
        return shared if self.task.multi_label else ("accuracy", *shared)

    @property
    def default_metric(self) -> str:
        """Accuracy of one label; micro F1 of several, which rare labels cannot leave undefined."""
        return "micro_f1" if self.task.multi_label else "accuracy"

    def problem_type(self, task: TaskConfig) -> str | None:
        """By it transformers chooses the loss."""
        return "multi_label_classification" if task.multi_label else "single_label_classification"

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """One output per label."""
        return tuple(labels)

    def windows(
        self,
        example: Example,
        tokenizer: "PreTrainedTokenizerBase",
        labels: Sequence[str],
        *,
        max_tokens: int,
        stride_tokens: int,
        train: bool,
    ) -> list[Window]:
        """One window with global attention at the classification token; `stride_tokens` is not used."""
        window = truncated(tokenizer, example.text, self._pair(example), max_tokens)
        if train:
            window.targets["labels"] = self._target(example, labels)
        return [window]

    def _pair(self, example: Example) -> str | None:
        """The second text; a sequence has none."""
        return None

    def _target(self, example: Example, labels: Sequence[str]) -> int | list[float]:
        if self.task.multi_label:
            return [float(label in example.labels) for label in labels]
        if len(example.labels) != 1:
            raise DataError(
                f"example {example.id} has {len(example.labels)} labels where one is needed; correct it"
            )
        return labels.index(example.labels[0])

    def decode(
        self,
        example: Example,
        windows: Sequence[Window],
        outputs: Sequence[Mapping[str, np.ndarray]],
        labels: Sequence[str],
    ) -> Prediction:
        """`label` (the most probable), `labels` (that one, or all above one half), `scores` (probabilities).

        outputs: `logits` (num_labels,).
        """
        logits = np.asarray(outputs[0]["logits"], dtype=np.float64)
        return self._prediction(_sigmoid(logits) if self.task.multi_label else softmax(logits), labels)

    def _prediction(self, probabilities: np.ndarray, labels: Sequence[str]) -> Prediction:
        best = labels[int(probabilities.argmax())]
        scores = {label: float(p) for label, p in zip(labels, probabilities, strict=True)}
        chosen = [label for label in labels if scores[label] > 0.5] if self.task.multi_label else [best]
        return {"label": best, "labels": chosen, "scores": scores}

    def _scores(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> dict[str, float]:
        gold = [example.labels for example in examples]
        measure = multi_label_scores if self.task.multi_label else single_label_scores
        return measure(gold, predictions, labels)

    def trivial(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """The majority label of `train` (several labels: those of more than half of it), scores its shares."""
        counts = Counter(label for example in train for label in example.labels)
        shares = np.array([counts[label] / max(1, len(train)) for label in labels])
        return [self._prediction(shares, labels) for _ in examples]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))  # the form of tanh does not overflow
