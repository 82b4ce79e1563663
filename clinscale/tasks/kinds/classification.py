"""Scores of labels through scikit-learn, which is imported late: it takes a second to load."""

from collections.abc import Callable, Sequence

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray], float | None]
"""(truth, probabilities) -> the score, None where it is not defined."""


def single_label_measures() -> dict[str, Measure]:
    """Measures by metric, for truth (N,) class numbers and probabilities (N, labels)."""
    from sklearn.metrics import f1_score, roc_auc_score

    def f1(average: str) -> Measure:
        def measure(truth: np.ndarray, probabilities: np.ndarray) -> float:
            every, chosen = range(probabilities.shape[1]), probabilities.argmax(axis=1)
            return float(f1_score(truth, chosen, labels=list(every), average=average, zero_division=0))

        return measure

    def roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float | None:
        labels = probabilities.shape[1]
        if len(np.unique(truth)) < labels:
            return None
        likely = probabilities[:, 1] if labels == 2 else probabilities
        return float(roc_auc_score(truth, likely, multi_class="ovr", labels=list(range(labels))))

    return {
        "accuracy": lambda truth, probabilities: float((truth == probabilities.argmax(axis=1)).mean()),
        "micro_f1": f1("micro"),
        "macro_f1": f1("macro"),
        "roc_auc": roc_auc,
    }


def multi_label_measures() -> dict[str, Measure]:
    """Measures by metric, for truth and probabilities (N, labels); roc_auc is the mean over labels."""
    from sklearn.metrics import f1_score, roc_auc_score

    def f1(average: str) -> Measure:
        return lambda truth, probabilities: float(
            f1_score(truth, probabilities > 0.5, average=average, zero_division=0)
        )

    def roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float | None:
        if not np.all(truth.any(axis=0) & ~truth.all(axis=0)):
            return None
        return float(roc_auc_score(truth, probabilities, average="macro"))

    return {"micro_f1": f1("micro"), "macro_f1": f1("macro"), "roc_auc": roc_auc}


def calibration(hits: np.ndarray, confidence: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy, over equal bins (Guo et al. 2017).

    Args:
        hits: (N,) 1 where the answer was right.
        confidence: (N,) its probability.
        bins: of equal width over 0..1.
    """
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(hits))


def probabilities_of(scores: Sequence[dict[str, float]], labels: Sequence[str]) -> np.ndarray:
    """(examples, labels)."""
    return np.array([[one[label] for label in labels] for one in scores], dtype=np.float64)


def f1_of(right: float, predicted: float, gold: float) -> float:
    """Harmonic mean of precision and recall, from counts; 0 where nothing is predicted or nothing is gold."""
    return float(2 * right / (predicted + gold)) if predicted + gold else 0.0
