"""Scores of labels through scikit-learn, which is imported late: it takes a second to load."""

from collections.abc import Sequence

import numpy as np

from clinscale.tasks.kinds.kind import Prediction


def single_label_scores(
    gold: Sequence[tuple[str, ...]], predictions: Sequence[Prediction], labels: Sequence[str]
) -> dict[str, float]:
    """accuracy, micro_f1, macro_f1 (over all labels of the task), and roc_auc when every label occurs in gold."""
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    truth = [labels.index(one) for (one,) in gold]
    chosen = [labels.index(prediction["label"]) for prediction in predictions]
    every = list(range(len(labels)))
    scores = {
        "accuracy": float(accuracy_score(truth, chosen)),
        "micro_f1": float(f1_score(truth, chosen, labels=every, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(truth, chosen, labels=every, average="macro", zero_division=0)),
    }
    if set(truth) == set(every):
        probabilities = _probabilities(predictions, labels)
        likely = probabilities[:, 1] if len(labels) == 2 else probabilities
        scores["roc_auc"] = float(roc_auc_score(truth, likely, multi_class="ovr", labels=every))
    return scores


def multi_label_scores(
    gold: Sequence[tuple[str, ...]], predictions: Sequence[Prediction], labels: Sequence[str]
) -> dict[str, float]:
    """micro_f1, macro_f1, and roc_auc (mean over labels) when gold has each label both present and absent."""
    from sklearn.metrics import f1_score, roc_auc_score

    truth = np.array([[label in one for label in labels] for one in gold], dtype=int)
    chosen = np.array([[label in p["labels"] for label in labels] for p in predictions], dtype=int)
    scores = {
        "micro_f1": float(f1_score(truth, chosen, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(truth, chosen, average="macro", zero_division=0)),
    }
    if np.all(truth.any(axis=0) & ~truth.all(axis=0)):
        scores["roc_auc"] = float(roc_auc_score(truth, _probabilities(predictions, labels), average="macro"))
    return scores


def _probabilities(predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """(examples, labels)."""
    return np.array([[prediction["scores"][label] for label in labels] for prediction in predictions])
