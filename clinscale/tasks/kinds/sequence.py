"""Kind sequence: one label of a text, or several."""

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from clinscale.cells import as_label, as_labels, as_truth, shortened
from clinscale.errors import ConfigError, DataError
from clinscale.records import Record, part_of
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import baselines
from clinscale.tasks.kinds.classification import (
    RANKING_METRICS,
    calibration,
    multi_label_measures,
    probabilities_of,
    sensitivity_name,
    single_label_measures,
    threshold_at,
)
from clinscale.tasks.kinds.kind import Kind, LongDocuments, Prediction, Window, column
from clinscale.tasks.kinds.windowing import fitted
from clinscale.tasks.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_JOINTS = ";,|/&+ "
"""Marks by which exports join several labels of one text; a blank joins codes alone, which have digits."""

_RARE = 0.35
"""Share of the rarer of two labels below which accuracy tells little."""


class SequenceKind(Kind):
    """A text and its label, or with `multi_label` any number of labels."""

    name = "sequence"
    formats = ("records",)
    takes_several_labels = True
    head: ClassVar[Literal["sequence", "tokens", "spans"]] = "sequence"

    @property
    def output_columns(self) -> Sequence[Mapping[str, Any]]:
        """The label, with the threshold by which it was chosen where there is one, and all probabilities."""
        threshold = () if self.task.threshold is None else (column("threshold", "double"),)
        return (
            column("label", "string"),
            column("labels", "array", items={"type": "string"}),
            column("scores", "map", values={"type": "double"}),
            *threshold,
        )

    @classmethod
    def check_files(cls, task: TaskConfig) -> None:
        """Refuse a label that is a column of the text."""
        columns = task.columns
        has_label = task.label_from == "column" and not columns.labels
        if has_label and columns.label in (*columns.texts, columns.text_pair):
            raise ConfigError(
                f"task {task.name}: columns.label is a column of the text, too; name the column of the label"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Scores of labels; those of a ranking are means over labels (one against the rest; of two, the second).

        F1 is of the labels that are in gold or in answers; macro F1 is their mean.
        """
        shared = ("micro_f1", "macro_f1", *self._ranking_metrics)
        return shared if self.task.multi_label else ("accuracy", *shared)

    @property
    def _ranking_metrics(self) -> tuple[str, ...]:
        return (*RANKING_METRICS, sensitivity_name(self.task.sensitivity_at))

    @property
    def rules(self) -> tuple[Any, ...]:
        """A threshold belongs to them where it changes the metric."""
        return *super().rules, None if self.metric in self._ranking_metrics else self.task.threshold

    @property
    def default_metric(self) -> str:
        """Accuracy of one label; micro F1 of several, which rare labels cannot leave undefined."""
        return "micro_f1" if self.task.multi_label else "accuracy"

    def fitting_metric(self, splits: Mapping[str, Sequence[Example]], labels: Sequence[str]) -> str:
        """ROC AUC of two labels of which the rarer has less than 35 % of the training examples, else the default.

        Accuracy would reward a model that never finds the rare one. Only where both labels are in every split, without
        which the area is not defined.
        """
        if self.task.multi_label or len(labels) != 2:
            return self.default_metric
        counts = {split: Counter(label for one in some for label in one.labels) for split, some in splits.items()}
        rarer = min(counts["train"][label] for label in labels) / max(1, counts["train"].total())
        both = all(count[label] for count in counts.values() for label in labels)
        return "roc_auc" if both and rarer < _RARE else self.default_metric

    def check_threshold(self, labels: Sequence[str]) -> None:
        """A threshold is of two labels; one that is chosen for each model would change what accuracy and F1 compare."""
        task = self.task
        named = "threshold" if task.alerts_per_1000 is None else "alerts_per_1000"
        if task.threshold is None and task.alerts_per_1000 is None:
            return
        if task.multi_label or len(labels) != 2:
            raise ConfigError(
                f"task {task.name}: {named} is for one of two labels of a text, got "
                f"{'several of ' if task.multi_label else ''}{len(labels)}; remove it"
            )
        if task.alerts_per_1000 is not None and self.metric not in self._ranking_metrics:
            raise ConfigError(
                f"task {task.name}: alerts_per_1000 needs a metric that no threshold changes, got {self.metric}; set "
                f"metric to one of {', '.join(self._ranking_metrics)}"
            )

    def chooses_threshold(self, labels: Sequence[str]) -> bool:
        """Whether there are two labels, a metric that says nothing of a threshold, and none that is fixed."""
        two = len(labels) == 2 and not self.task.multi_label
        return two and self.task.threshold is None and self.metric in self._ranking_metrics

    def dev_scores(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> dict[str, float]:
        """The threshold is the lowest that keeps to the task's rule: `alerts_per_1000`, or specificity."""
        if not self.chooses_threshold(labels) or not examples:
            return self.score(examples, predictions, labels)
        truth, probabilities = self._truth_and_probabilities(self.outcomes(examples, predictions, labels))
        scores, alerts = probabilities[:, 1], self.task.alerts_per_1000
        chosen = (
            threshold_at(1 - self.task.sensitivity_at, scores[truth == 0], scores)
            if alerts is None
            else threshold_at(alerts / 1000, scores, scores)
        )
        deciding = type(self)(self.task.model_copy(update={"threshold": chosen}))
        return deciding.score(examples, predictions, labels)

    def _chosen(self, probabilities: np.ndarray) -> np.ndarray:
        """(N,) numbers of the answered labels: the most probable, or of two the second above the threshold."""
        threshold = self.task.threshold
        if threshold is None:
            return np.asarray(probabilities.argmax(axis=1))
        return np.asarray(probabilities[:, 1] > threshold, dtype=int)

    def problem_type(self, task: TaskConfig) -> str | None:
        """The name by which transformers chooses the loss."""
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
            raise DataError(f"example {example.name} must have one label, got {len(example.labels)}; correct it")
        return labels.index(example.labels[0])

    def decode(
        self,
        example: Example,
        windows: Sequence[Window],
        outputs: Sequence[Mapping[str, np.ndarray]],
        labels: Sequence[str],
    ) -> Prediction:
        """`label` (the most probable, or by `threshold`), `labels` (that one, or all above one half), `scores`.

        outputs: `logits` (num_labels,) of each window; probabilities are averaged.
        """
        logits = np.asarray([output["logits"] for output in outputs], dtype=np.float64)
        probabilities = _sigmoid(logits) if self.task.multi_label else softmax(logits)
        return self._prediction(probabilities.mean(axis=0), labels)

    def _prediction(self, probabilities: np.ndarray, labels: Sequence[str]) -> Prediction:
        best = labels[int(self._chosen(probabilities[None])[0])]
        scores = {label: float(p) for label, p in zip(labels, probabilities, strict=True)}
        chosen = [label for label in labels if scores[label] > 0.5] if self.task.multi_label else [best]
        threshold = {} if self.task.threshold is None else {"threshold": self.task.threshold}
        return {"label": best, "labels": chosen, "scores": scores, **threshold}

    def outcomes(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """The gold class, or 0 and 1 for each label; then each label's probability."""
        probabilities = probabilities_of([prediction["scores"] for prediction in predictions], labels)
        if broken := int((~np.isfinite(probabilities)).any(axis=1).sum()):
            raise DataError(
                f"task {self.task.name}: scores of labels must be finite, got others on {broken:,} of "
                f"{len(examples):,} examples; train again at a lower learning rate or in fp32"
            )
        self._refuse_unknown(examples, labels)
        if self.task.multi_label:
            gold = np.array([[label in example.labels for label in labels] for example in examples], dtype=float)
        else:
            gold = np.array(
                [[labels.index(label) for label in example.labels] for example in examples], dtype=float
            )
        return np.hstack([gold, probabilities])

    def _refuse_unknown(self, examples: Sequence[Example], labels: Sequence[str]) -> None:
        unknown = [example for example in examples if not set(labels).issuperset(example.labels)]
        if unknown:
            raise DataError(
                f"task {self.task.name}: {len(unknown):,} of {len(examples):,} examples have a label that the model "
                f"does not know, first {unknown[0].name}; judge it on data of the labels that it was trained on"
            )

    def scores_of(self, outcomes: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """Scores from scikit-learn."""
        truth, probabilities = self._truth_and_probabilities(outcomes)
        at = self.task.sensitivity_at
        measures = multi_label_measures(at) if self.task.multi_label else single_label_measures(at, self._chosen)
        values = {name: measures[name](truth, probabilities) for name in metrics or self.metrics}
        return {name: value for name, value in values.items() if value is not None}

    def exchangeable(self, outcomes: np.ndarray) -> np.ndarray:
        """Ranks in place of probabilities under a metric of the order alone (Venkatraman and Begg 1996).

        Probabilities of two models have two scales: their mixture has an order of its own, which hides an advantage.
        """
        if self.metric not in self._ranking_metrics:
            return outcomes
        from scipy.stats import rankdata

        _, probabilities = self._truth_and_probabilities(outcomes)
        gold = outcomes.shape[1] - probabilities.shape[1]
        return np.hstack([outcomes[:, :gold], rankdata(probabilities, axis=0) / max(1, len(outcomes))])

    def label_counts(self, outcomes: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Each label against the rest."""
        truth, probabilities = self._truth_and_probabilities(outcomes)
        gold, chosen = (
            (truth > 0, probabilities > 0.5)
            if self.task.multi_label
            else (np.eye(len(labels), dtype=bool)[one] for one in (truth, self._chosen(probabilities)))
        )
        return np.stack([gold & chosen, chosen, gold], axis=2).astype(float)

    def calibration(self, outcomes: np.ndarray) -> dict[str, float]:
        """`calibration_error` of the most probable label (several labels: of each label's yes or no) and `brier_score`.

        As in scikit-learn, Brier's score is the sum over labels, and of two labels that of the second alone; where a
        text can have several it is the mean over labels.
        """
        truth, probabilities = self._truth_and_probabilities(outcomes)
        if self.task.multi_label:
            hot, chance = truth, probabilities.ravel()
            hits, confidence = ((chance > 0.5) == truth.ravel()), np.maximum(chance, 1 - chance)
        else:
            hot = np.eye(probabilities.shape[1])[truth]
            hits, confidence = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
        squares = ((probabilities - hot) ** 2).mean(axis=0)
        alone = self.task.multi_label or len(squares) == 2  # the squares of two labels of a text are equal
        return {
            "calibration_error": calibration(hits.astype(float), confidence),
            "brier_score": float(squares.mean() if alone else squares.sum()),
        }

    def workload(self, outcomes: np.ndarray) -> dict[str, float]:
        """`alerts_per_1000`: of so many notes, those answered by the second of two labels, or by any of several.

        A threshold that was fixed before is beside them, with the `sensitivity` and `specificity` that it has here.
        """
        truth, probabilities = self._truth_and_probabilities(outcomes)
        if self.task.multi_label:
            return {"alerts_per_1000": float(1000 * (probabilities > 0.5).any(axis=1).mean())}
        if probabilities.shape[1] != 2:
            return {}
        alerts = self._chosen(probabilities) == 1
        found = {"alerts_per_1000": float(1000 * alerts.mean())}
        if self.task.threshold is not None:
            found["threshold"] = self.task.threshold
            for name, label, right in (("sensitivity", 1, alerts), ("specificity", 0, ~alerts)):
                if (truth == label).any():
                    found[name] = float(right[truth == label].mean())
        return found

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

    def baseline(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """Logistic regression on TF-IDF of words and word pairs; of a pair, on both texts and the words they share."""
        read = self.measured_texts
        chances = baselines.label_chances(
            train, examples, [map(read, train), map(read, examples)], labels, several=self.task.multi_label
        )
        if chances is None:
            return self.trivial(train, examples, labels)
        return [self._prediction(row, labels) for row in chances]

    @property
    def gold_columns(self) -> tuple[str, ...]:
        """The column of the label, or those of the labels."""
        return () if self.task.label_from == "file" else self.task.columns.labels or (self.task.columns.label,)

    def read_gold(self, record: Record, text: str, findings: Findings) -> dict[str, Any]:
        """The labels of a row, or the label that its file is named by. Finds `rows without a label`."""
        labels = self._labels(record)
        findings.shortened.update(shortened(record.value(self.task.columns.label), labels))
        findings.find("rows without a label", not labels)
        return {"labels": labels}

    def _labels(self, record: Record) -> tuple[str, ...]:
        task, columns = self.task, self.task.columns
        if columns.labels:
            return tuple(label for label in columns.labels if record.read(as_truth, label))
        if task.label_from == "file":
            return (_name_of(record.uri),)
        if task.multi_label:
            return record.read(functools.partial(as_labels, separator=task.label_separator), columns.label)
        return (record.need(as_label, columns.label),)

    def report(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Remark on texts that are there with other labels, too, and on a rare label that is not the one sought.

        Of a public release only on labels that its splits lack, as it is what it is.
        """
        self._remark_on_absent(splits, findings)
        if self.task.format not in self.formats:
            return
        self._remark_on_sought(splits["train"], findings)
        labels = defaultdict(set)
        for one in (one for examples in splits.values() for one in examples):
            labels[one.text, one.text_pair].add(frozenset(one.labels))
        if disputed := sum(len(given) > 1 for given in labels.values()):
            findings.remark(f"{disputed:,} texts have other labels in one row than in another")
        met = {label for example in splits["dev"] for label in example.labels}
        if not self.task.multi_label and len(met) == 1:
            findings.remark(
                f"all {len(splits['dev']):,} texts of dev have label {met.pop()!r}: whichever model always answers it "
                "is best there"
            )

    def _remark_on_absent(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Remark on labels of which macro F1, where that decides, tells nothing."""
        if self.metric != "macro_f1":
            return
        met = {split: {label for one in some for label in one.labels} for split, some in splits.items()}
        known = self.task.labels or self.task.columns.labels or sorted(set().union(*met.values()))
        for split in ("dev", "test"):
            if absent := [repr(label) for label in known if label not in met[split]]:
                findings.remark(
                    f"no text of {split} has label {', '.join(absent)}, of which macro_f1 tells nothing there"
                )

    def _remark_on_sought(self, train: Sequence[Example], findings: Findings) -> None:
        """Remark on two labels in the order of the alphabet of which the rare one is the first."""
        if self.task.labels is not None or self.task.multi_label:
            return
        counts = Counter(label for one in train for label in one.labels)
        if len(counts) == 2 and counts[min(counts)] < _RARE * counts.total():
            first, second = sorted(counts)
            findings.remark(
                f"label {second!r}, the second by the alphabet, is the one that is sought by sensitivity and alerts, "
                f"and {first!r} is the rare one: list labels in the other order where that is the one sought"
            )

    def check_split(self, examples: Sequence[Example], place: str) -> None:
        """Refuse vectors of 0 and 1 of two labels, which all read as the labels 0 and 1 together."""
        if self.task.multi_label and len(examples) > 2 and all({*one.labels} == {"0", "1"} for one in examples):
            raise DataError(
                f"task {self.task.name}: all texts of {place} have labels 0 and 1; are these vectors of 0 and 1? "
                "give each label a column, named by columns.labels"
            )

    def check_labels(self, labels: Sequence[str]) -> None:
        """Refuse one label alone, unless a text may have none."""
        if not self.task.multi_label and len(labels) < 2:
            raise DataError(
                f"task {self.task.name}: at least two labels are needed, got {len(labels)}; check the labels"
            )

    def check_use(self, examples: Sequence[Example], labels: Sequence[str], split: str) -> None:
        """Refuse a split without a label, and one in which the metric is not defined for want of one."""
        counts = Counter(label for one in examples for label in one.labels)
        if not counts:
            raise DataError(
                f"task {self.task.name}: no text of split {split} has a label, and some must, to learn from or to "
                "judge by; check the labels, or split otherwise"
            )
        odd = [label for label in labels if counts[label] in (0, len(examples))]
        if split != "train" and odd and self.metric in self._ranking_metrics:
            raise DataError(
                f"task {self.task.name}: metric {self.metric} needs texts with each label and texts without "
                f"it, and label {odd[0]!r} is in {'all' if counts[odd[0]] else 'none'} of split {split}; give "
                "others, or choose another metric"
            )

    def check_found_labels(self, labels: Sequence[str], num_examples: int) -> None:
        """Refuse so many labels that they are likely something else, and one that joins others."""
        for label in labels:
            multi = self.task.multi_label
            if mark := next((mark for mark in _JOINTS if _joins(label, mark, labels, several=multi)), None):
                several = "" if multi else "multi_label: true and "
                raise DataError(
                    f"task {self.task.name}: a label must be one, got {label!r}, which joins others by {mark!r}; set "
                    f"{several}label_separator: {mark!r}, or list all in labels where it is one of its own"
                )
        lists = [label for label in labels if label[:1] + label[-1:] in ("[]", "{}")]
        if lists and (len(lists) == len(labels) > 1 or any("," in label for label in lists)):
            raise DataError(
                f"task {self.task.name}: a label must be one, got {lists[0]!r}, which seems to be a list; write lists "
                'as JSON, such as ["a", "b"], or list all in labels where brackets belong to them'
            )
        if not self.task.multi_label and len(labels) > max(10, num_examples / 2):
            raise DataError(
                f"task {self.task.name}: {num_examples:,} examples have {len(labels):,} labels, which are likely "
                "texts, ids or measurements; check columns.label, or list them in labels"
            )

    def reading_of_long_documents(self, how: LongDocuments) -> str:
        """Reading of long documents, as the model was trained for."""
        return {
            "truncate": "cut at the window",
            "head_tail": "read at both ends",
            "pool": "read in windows whose probabilities are averaged",
        }[how]


def _name_of(uri: str) -> str:
    """The name of a file without its suffixes, and without the number where it is a part of a table."""
    if part := part_of(uri):
        return PurePath(part[0].rpartition("-*-of-")[0]).name
    path = PurePath(uri)
    return PurePath(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def _joins(label: str, mark: str, labels: Sequence[str], *, several: bool) -> bool:
    """Whether all that `mark` parts in a label are labels; where a text has `several`, parts of others are enough."""
    parts = [part.strip() for part in label.split(mark)]
    if mark == " " and not all(any(map(str.isdecimal, part)) for part in parts):
        return False
    if several:
        others = {part.strip() for other in labels if other != label for part in other.split(mark)}
        return len(parts) > 1 and others.issuperset(parts)
    return len(parts) > 1 and all(part in labels for part in parts)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))  # the form of tanh does not overflow
