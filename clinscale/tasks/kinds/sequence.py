"""Kind sequence: one label of a text, or several."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from clinscale.errors import DataError
from clinscale.tasks.example import Example
from clinscale.tasks.kinds.classification import (
    calibration,
    f1_of,
    multi_label_measures,
    probabilities_of,
    single_label_measures,
)
from clinscale.tasks.kinds.kind import Kind, LongDocuments, Prediction, Window
from clinscale.tasks.kinds.windowing import fitted
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
        long_documents: LongDocuments = "truncate",
    ) -> list[Window]:
        """Global attention at the classification token. With `pool` each window learns the label of the whole."""
        windows = fitted(
            tokenizer,
            example.text,
            self._pair(example),
            max_tokens=max_tokens,
            stride_tokens=stride_tokens,
            long_documents=long_documents,
        )
        if train:
            for window in windows:
                window.targets["labels"] = self._target(example, labels)
        return windows

    def _pair(self, example: Example) -> str | None:
        """The second text; a sequence has none."""
        return None

    def _target(self, example: Example, labels: Sequence[str]) -> int | list[float]:
        if self.task.multi_label:
            return [float(label in example.labels) for label in labels]
        if len(example.labels) != 1:
            raise DataError(
                f"example {example.name} has {len(example.labels)} labels where one is needed; correct it"
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

        outputs: `logits` (num_labels,) of each window; probabilities are averaged.
        """
        logits = np.asarray([output["logits"] for output in outputs], dtype=np.float64)
        probabilities = _sigmoid(logits) if self.task.multi_label else softmax(logits)
        return self._prediction(probabilities.mean(axis=0), labels)

    def _prediction(self, probabilities: np.ndarray, labels: Sequence[str]) -> Prediction:
        best = labels[int(probabilities.argmax())]
        scores = {label: float(p) for label, p in zip(labels, probabilities, strict=True)}
        chosen = [label for label in labels if scores[label] > 0.5] if self.task.multi_label else [best]
        return {"label": best, "labels": chosen, "scores": scores}

    def outcomes(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """The gold class, or 0 and 1 for each label; then each label's probability."""
        probabilities = probabilities_of([prediction["scores"] for prediction in predictions], labels)
        if self.task.multi_label:
            gold = np.array([[label in example.labels for label in labels] for example in examples], dtype=float)
        else:
            gold = np.array(
                [[labels.index(label) for label in example.labels] for example in examples], dtype=float
            )
        return np.hstack([gold, probabilities])

    def scores_of(self, outcomes: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """Through scikit-learn."""
        truth, probabilities = self._truth_and_probabilities(outcomes)
        measures = multi_label_measures() if self.task.multi_label else single_label_measures()
        values = {name: measures[name](truth, probabilities) for name in metrics or self.metrics}
        return {name: value for name, value in values.items() if value is not None}

    def label_scores(self, outcomes: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
        """Each label against the rest."""
        truth, probabilities = self._truth_and_probabilities(outcomes)
        gold, chosen = (
            (truth > 0, probabilities > 0.5)
            if self.task.multi_label
            else (np.eye(len(labels), dtype=bool)[one] for one in (truth, probabilities.argmax(axis=1)))
        )
        counts = zip(labels, (gold & chosen).sum(axis=0), chosen.sum(axis=0), gold.sum(axis=0), strict=True)
        return {label: f1_of(right, predicted, of) for label, right, predicted, of in counts if of}

    def calibration(self, outcomes: np.ndarray) -> dict[str, float]:
        """`calibration_error` of the chosen label (several labels: of each label's yes or no) and `brier_score`."""
        truth, probabilities = self._truth_and_probabilities(outcomes)
        if self.task.multi_label:
            hot, chance = truth, probabilities.ravel()
            hits, confidence = ((chance > 0.5) == truth.ravel()), np.maximum(chance, 1 - chance)
        else:
            hot = np.eye(probabilities.shape[1])[truth]
            hits, confidence = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
        return {
            "calibration_error": calibration(hits.astype(float), confidence),
            "brier_score": float(((probabilities - hot) ** 2).sum(axis=1).mean()),
        }

    def _truth_and_probabilities(self, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gold = outcomes.shape[1] // 2 if self.task.multi_label else 1
        truth = outcomes[:, :gold].astype(int)
        return (truth if self.task.multi_label else truth[:, 0]), outcomes[:, gold:]

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
