"""Scores of labels through scikit-learn, which is imported late: it takes a second to load."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray], float | None]
"""(truth, probabilities) -> the score, None where it is not defined."""


RANKING_METRICS = ("roc_auc", "average_precision")
"""Metrics of how notes are ranked, beside that of `sensitivity_name`: no threshold changes them."""


def single_label_measures(specificity: float, choose: Callable[[np.ndarray], np.ndarray]) -> dict[str, Measure]:
    """Measures by metric, for truth (N,) class numbers and probabilities (N, labels).

    Args:
        specificity: at which `sensitivity` is read off.
        choose: probabilities -> (N,) numbers of the classes that are answered.
    """

    def f1(average: str) -> Measure:
        def measure(truth: np.ndarray, probabilities: np.ndarray) -> float | None:
            return _f1(truth, choose(probabilities), list(range(probabilities.shape[1])), average)

        return measure

    def of_labels(measure: Measure) -> Measure:
        def one_against_the_rest(truth: np.ndarray, probabilities: np.ndarray) -> float | None:
            hot = np.eye(probabilities.shape[1], dtype=int)[truth]
            if hot.shape[1] == 2:  # of two labels, that of the second
                hot, probabilities = hot[:, 1:], probabilities[:, 1:]
            return measure(hot, probabilities)

        return one_against_the_rest

    return {
        "accuracy": lambda truth, probabilities: float((truth == choose(probabilities)).mean()),
        "micro_f1": f1("micro"),
        "macro_f1": f1("macro"),
        **{name: of_labels(measure) for name, measure in _ranking_measures(specificity).items()},
    }


def multi_label_measures(specificity: float) -> dict[str, Measure]:
    """Measures by metric, for truth and probabilities (N, labels); roc_auc is the mean over labels.

    Args:
        specificity: at which `sensitivity` is read off.
    """

    def f1(average: str) -> Measure:
        def measure(truth: np.ndarray, probabilities: np.ndarray) -> float | None:
            # a column alone is two classes to scikit-learn, which counts those without the label, too
            alone = [1] if truth.shape[1] == 1 else None
            return _f1(truth, probabilities > 0.5, alone, average)

        return measure

    return {
        "micro_f1": f1("micro"),
        "macro_f1": f1("macro"),
        **_ranking_measures(specificity),
    }


def _f1(truth: np.ndarray, chosen: np.ndarray, labels: Sequence[int] | None, average: str) -> float | None:
    """F1 over the labels that are in gold or in answers: of any other it is not defined, and no mean has it.

    So it is with the labels of notes that are drawn again, of which each draw lacks some of the rare ones.
    """
    from sklearn.metrics import f1_score

    found = float(f1_score(truth, chosen, labels=labels, average=average, zero_division=np.nan))
    return found if np.isfinite(found) else None


def _ranking_measures(specificity: float) -> dict[str, Measure]:
    """Measures of how the notes are ranked, for truth and probabilities (N, labels): means over labels."""
    from sklearn.metrics import average_precision_score

    def mean_over_labels(of_one: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
        def measure(truth: np.ndarray, probabilities: np.ndarray) -> float | None:
            if not np.all(truth.any(axis=0) & ~truth.all(axis=0)):
                return None  # some label is in no note, or in all
            return float(np.mean([of_one(*one) for one in zip(truth.T > 0, probabilities.T, strict=True)]))

        return measure

    return {
        "roc_auc": mean_over_labels(roc_area),
        "average_precision": mean_over_labels(average_precision_score),
        sensitivity_name(specificity): mean_over_labels(functools.partial(sensitivity_at, specificity)),
    }


def roc_area(truth: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs of a positive and a negative in which the positive has the higher score, ties half.

    It is `sklearn.metrics.roc_auc_score`, without its checks: the resampling of a test calls it some 10,000 times.

    Args:
        truth: (N,) booleans, some of each.
        scores: (N,).
    """
    positives, negatives = scores[truth], np.sort(scores[~truth])
    twice_below = sum(int(np.searchsorted(negatives, positives, side).sum()) for side in ("left", "right"))
    return twice_below / (2 * len(positives) * len(negatives))


def sensitivity_name(specificity: float) -> str:
    """The name of the metric, `sensitivity_at_0.9`: two specificities are two metrics, which are never compared."""
    return f"sensitivity_at_{specificity!r}"


def sensitivity_at(specificity: float, truth: np.ndarray, scores: np.ndarray) -> float:
    """The highest sensitivity on the ROC curve (`sklearn.metrics.roc_curve`) with at least this specificity.

    Args:
        specificity: the share of negatives without an alarm, from 0 to 1.
        truth: (N,) booleans, some of each.
        scores: (N,) an alarm is a score of at least some threshold; equal scores go together.
    """
    return float((scores[truth] > _bound(1 - specificity, scores[~truth])).mean())


def threshold_at(share: float, limited: np.ndarray, scores: np.ndarray) -> float:
    """The lowest threshold that at most a share of some scores exceeds; an alarm is a score above it.

    Args:
        share: from 0 to 1.
        limited: (M,) scores that should make no more alarms: of the negatives, or of all notes.
        scores: (N,) of all notes; the threshold is midway to the next of them, far from what rounding can do.
    """
    bound = max(0.0, _bound(share, limited))
    higher = scores[scores > bound]
    return float((bound + higher.min()) / 2) if len(higher) else float(bound)


def _bound(share: float, limited: np.ndarray) -> float:
    """The least of `limited` that at most a share of them exceeds, minus infinity where all may."""
    falling = -np.sort(-limited)
    alarms = int(share * len(falling) + 1e-9)  # at most; 0.1 * 10 alarms are one
    return float(falling[alarms]) if alarms < len(falling) else -np.inf


def threshold_sentence(scores: Mapping[str, float]) -> str:
    """The sentence on what a threshold that was fixed before these scores does; empty where there was none."""
    if "threshold" not in scores:
        return ""
    shares = [f"{name} {scores[name]:.3f}" for name in ("sensitivity", "specificity") if name in scores]
    alerts = f"{scores['alerts_per_1000']:.0f} alerts per 1,000 notes"
    return f"threshold {scores['threshold']:.4g}, fixed before the test: {', '.join([*shares, alerts])}"


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
