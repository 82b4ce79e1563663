"""Kinds sequence and pair: windows, predictions, and scores equal to scikit-learn's on the same numbers."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
    roc_curve,
)

from clinscale.errors import ConfigError, DataError
from clinscale.tasks import Example, Outcomes, estimate, kind_of, metric_of, threshold_sentence
from clinscale.tasks.kinds.classification import roc_area, sensitivity_at, threshold_at

LABELS = ("a", "b", "c")
LIMITS = {"max_tokens": 32, "stride_tokens": 8, "train": True}


def examples_of(*labels):
    return [Example(str(number), "text", labels=one) for number, one in enumerate(labels)]


def decoded(kind, examples, logits, labels):
    return [kind.decode(e, [], [{"logits": row}], labels) for e, row in zip(examples, logits, strict=True)]


class TestWindows:
    def test_one_window_with_global_attention_at_the_classification_token(self, task_of, tokenizer):
        example = Example("1", "chest pain " * 100, labels=("b",))
        (window,) = kind_of(task_of("sequence")).windows(example, tokenizer, LABELS, **LIMITS)
        assert len(window.input_ids) == 32
        assert window.input_ids[0] == tokenizer.cls_token_id
        assert window.input_ids[-1] == tokenizer.sep_token_id
        assert window.global_mask == [1] + [0] * 31
        assert window.targets == {"labels": 1}

    def test_of_a_pair_the_longer_side_is_cut(self, task_of, tokenizer):
        example = Example("1", "chest pain " * 100, "no fever", labels=("a",))
        (window,) = kind_of(task_of("pair")).windows(example, tokenizer, LABELS, **LIMITS)
        assert len(window.input_ids) == 32
        assert tokenizer.decode(window.input_ids).endswith("</s></s>no fever</s>")
        assert sum(window.global_mask) == 1

    @pytest.mark.parametrize("kind", ["sequence", "pair"])
    def test_head_and_tail_of_a_long_text_are_read(self, task_of, tokenizer, kind):
        text = "Patient " + "chest pain " * 100 + "metoprolol"
        example = Example("1", text, "no fever" if kind == "pair" else None, labels=("b",))
        (window,) = kind_of(task_of(kind)).windows(
            example, tokenizer, LABELS, **LIMITS, long_documents="head_tail"
        )
        assert len(window.input_ids) == len(window.global_mask) == 32
        read = tokenizer.decode(window.input_ids)
        assert read.startswith("<s>Patient chest")
        assert read.endswith(" metoprolol</s>" + ("</s>no fever</s>" if kind == "pair" else ""))
        parts = [window.offsets[p] for p in window.text_positions]
        assert sum(after[0] - before[1] > 1 for before, after in itertools.pairwise(parts)) == 1

    @pytest.mark.parametrize("kind", ["sequence", "pair"])
    def test_pooled_windows_cover_the_whole_text_and_carry_its_label(self, task_of, tokenizer, kind):
        text = " ".join(f"word{number}" for number in range(60))
        example = Example("1", text, "no fever" if kind == "pair" else None, labels=("b",))
        windows = kind_of(task_of(kind)).windows(example, tokenizer, LABELS, **LIMITS, long_documents="pool")
        assert len(windows) > 3
        assert all(len(w.input_ids) <= 32 and w.targets == {"labels": 1} for w in windows)
        assert all(sum(w.global_mask) == 1 and w.global_mask[0] == 1 for w in windows)
        seen = {c for w in windows for p in w.text_positions for c in range(*w.offsets[p])}
        assert seen >= {c for c, character in enumerate(text) if not character.isspace()}
        overlap = set(windows[0].offsets) & set(windows[1].offsets)
        assert len(overlap - {None}) == 8

    @pytest.mark.parametrize("how", ["truncate", "head_tail", "pool"])
    def test_a_text_that_fits_is_the_same_window_however_long_ones_are_read(self, task_of, tokenizer, how):
        kind = kind_of(task_of("pair"))
        example = Example("1", "chest pain", "no fever", labels=("b",))
        (window,) = kind.windows(example, tokenizer, LABELS, **LIMITS, long_documents=how)
        assert window.input_ids == tokenizer("chest pain", "no fever")["input_ids"]

    def test_several_labels_are_a_row_of_floats(self, task_of, tokenizer):
        kind = kind_of(task_of("sequence", multi_label=True))
        (window,) = kind.windows(Example("1", "x", labels=("c", "a")), tokenizer, LABELS, **LIMITS)
        assert window.targets == {"labels": [1.0, 0.0, 1.0]}
        assert kind.problem_type(kind.task) == "multi_label_classification"

    def test_targets_only_when_training(self, task_of, tokenizer):
        kind = kind_of(task_of("sequence"))
        (window,) = kind.windows(Example("1", "x"), tokenizer, LABELS, **{**LIMITS, "train": False})
        assert window.targets == {}
        with pytest.raises(DataError, match="example 1 must have one label, got 0"):
            kind.windows(Example("1", "x"), tokenizer, LABELS, **LIMITS)

    def test_a_pair_without_its_second_text_is_refused(self, task_of, tokenizer):
        with pytest.raises(DataError, match="example 1: kind pair needs a second text"):
            kind_of(task_of("pair")).windows(Example("1", "x"), tokenizer, LABELS, **LIMITS)

    def test_windows_without_room_are_refused(self, task_of, tokenizer):
        with pytest.raises(ConfigError, match="no room for text"):
            kind_of(task_of("sequence")).windows(
                Example("1", "x"), tokenizer, LABELS, **{**LIMITS, "max_tokens": 3}
            )


def test_probabilities_of_one_label_sum_to_one_and_large_logits_do_not_overflow(task_of):
    kind = kind_of(task_of("sequence"))
    prediction = kind.decode(
        Example("1", "x"), [], [{"logits": np.array([1e4, 0.0, -1e4], dtype=np.float32)}], LABELS
    )
    assert prediction == {"label": "a", "labels": ["a"], "scores": {"a": 1.0, "b": 0.0, "c": 0.0}}


def test_several_labels_are_those_above_one_half(task_of):
    kind = kind_of(task_of("sequence", multi_label=True))
    prediction = kind.decode(Example("1", "x"), [], [{"logits": np.array([0.1, -0.1, 900.0])}], LABELS)
    assert (prediction["label"], prediction["labels"]) == ("c", ["a", "c"])
    assert prediction["scores"]["a"] == pytest.approx(1 / (1 + np.exp(-0.1)))


def test_of_one_label_that_a_text_may_have_those_without_it_count_for_nothing(task_of):
    kind, examples = kind_of(task_of("sequence", multi_label=True)), examples_of(("a",), ("a",), (), (), (), ())
    predictions = [{"scores": {"a": chance}} for chance in (0.9, 0.1, 0.8, 0.1, 0.1, 0.1)]
    scores = kind.scores_of(kind.outcomes(examples, predictions, ("a",)))
    assert scores["micro_f1"] == scores["macro_f1"] == 0.5, "one right, two answered, two gold"
    never = kind.scores_of(kind.outcomes(examples, [{"scores": {"a": 0.1}}] * 6, ("a",)))
    assert never["micro_f1"] == never["macro_f1"] == 0


@pytest.mark.parametrize(
    ("train", "dev", "metric"),
    [
        ("a" * 66 + "b" * 34, "ab", "roc_auc"),
        ("b" * 66 + "a" * 34, "ab", "roc_auc"),
        ("a" * 65 + "b" * 35, "ab", "accuracy"),
        ("a" * 66 + "b" * 34, "aa", "accuracy"),
    ],
)
def test_two_labels_of_which_one_is_rare_are_judged_by_the_area(task_of, train, dev, metric):
    splits = {"train": examples_of(*train), "dev": examples_of(*dev), "test": examples_of("a", "b")}
    assert kind_of(task_of("sequence")).fitting_metric(splits, ("a", "b")) == metric


def test_three_labels_or_several_keep_their_default_metric(task_of):
    splits = dict.fromkeys(("train", "dev", "test"), examples_of(*"aaaaabc"))
    assert kind_of(task_of("sequence")).fitting_metric(splits, LABELS) == "accuracy"
    assert kind_of(task_of("sequence", multi_label=True)).fitting_metric(splits, ("a", "b")) == "micro_f1"


def highest_sensitivity(truth, scores, specificity):
    """From scikit-learn's whole ROC curve."""
    alarms, sensitivity, _ = roc_curve(truth, scores, drop_intermediate=False)
    return sensitivity[1 - alarms >= specificity - 1e-9].max()


@pytest.mark.parametrize("specificity", [0.05, 0.5, 0.8, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("values", [2, 7, 10_000])
def test_sensitivity_and_area_are_those_of_scikit_learns_curve_whatever_is_tied(specificity, values):
    rng = np.random.default_rng(values)
    for examples in (2, 3, 11, 40, 200):
        truth = np.append(rng.random(examples - 2) < 0.3, [True, False])
        scores = rng.integers(values, size=examples) / values
        assert roc_area(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        found = sensitivity_at(specificity, truth, scores)
        assert found == pytest.approx(highest_sensitivity(truth, scores, specificity), abs=1e-12)


def test_the_specificity_is_part_of_the_metrics_name(task_of):
    strict = task_of("sequence", sensitivity_at=0.95, metric="sensitivity_at_0.95")
    assert metric_of(strict) == "sensitivity_at_0.95"
    assert strict.plain()["sensitivity_at"] == 0.95
    assert "sensitivity_at" not in task_of("sequence").plain()  # as recipes recorded before it was there
    with pytest.raises(ConfigError, match=r"got 'sensitivity_at_0.95'; did you mean sensitivity_at_0.9\?"):
        kind_of(task_of("sequence", metric="sensitivity_at_0.95"))
    with pytest.raises(ConfigError, match="sensitivity_at must be a specificity between 0 and 1, got 90"):
        task_of("sequence", sensitivity_at=90)


def test_two_models_are_not_compared_at_two_specificities(task_of):
    def judged(at):
        kind, some = (
            kind_of(task_of("sequence", sensitivity_at=at, metric=f"sensitivity_at_{at}")),
            examples_of(*"ab"),
        )
        return Outcomes.of(kind, some, kind.trivial(some, some, ("a", "b")), ("a", "b"), len)

    assert judged(0.9).is_comparable(judged(0.9))
    assert not judged(0.9).is_comparable(judged(0.8))


def test_alerts_are_the_notes_answered_by_the_second_of_two_labels_or_by_any_of_several(task_of):
    def alerts(kind, logits, labels):
        some = examples_of(*[("a",)] * len(logits))
        return kind.workload(kind.outcomes(some, decoded(kind, some, logits, labels), labels))

    one, several = kind_of(task_of("sequence")), kind_of(task_of("sequence", multi_label=True))
    logits = np.array([[1.0, -1.0], [-2.0, 3.0], [2.0, 1.0], [-1.0, -1.0]])
    assert alerts(one, logits, ("a", "b")) == {"alerts_per_1000": 250}
    assert alerts(several, logits, ("a", "b")) == {"alerts_per_1000": 750}
    assert alerts(one, np.eye(3), LABELS) == {}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("values", [1, 2, 7, 10_000])
def test_a_threshold_is_the_lowest_that_keeps_to_its_share(share, values):
    rng = np.random.default_rng(values)
    for examples in (1, 2, 10, 200):
        scores = rng.integers(values + 1, size=examples) / values
        limited = scores[: max(1, examples // 2)]
        threshold = threshold_at(share, limited, scores)
        assert 0 <= threshold <= 1
        assert (limited > threshold).mean() <= share + 1e-9
        if lower := [one for one in scores if one <= threshold and one > 0]:
            assert (limited >= max(lower)).mean() > share


def likely(*chances):
    """Predictions of a model that gives the second of two labels these probabilities."""
    return [{"scores": {"a": 1 - chance, "b": chance}} for chance in chances]


def test_the_threshold_of_a_rare_label_is_chosen_on_dev_and_answers_by_it(task_of):
    dev, found = examples_of(*"aaaab"), likely(0.1, 0.2, 0.05, 0.3, 0.25)
    strict = kind_of(task_of("sequence", metric="roc_auc", sensitivity_at=0.75))
    scores = strict.dev_scores(dev, found, ("a", "b"))
    assert scores["threshold"] == pytest.approx(0.225)  # the fourth of four may alert, which is above the only b
    assert (scores["sensitivity"], scores["specificity"], scores["alerts_per_1000"]) == (1, 0.75, 400)
    assert "threshold" not in strict.score(dev, found, ("a", "b"))  # of any other split
    budget = kind_of(task_of("sequence", metric="roc_auc", alerts_per_1000=200))
    assert budget.dev_scores(dev, found, ("a", "b"))["threshold"] == pytest.approx(0.275)
    assert threshold_sentence(scores) == (
        "threshold 0.225, fixed before the test: sensitivity 1.000, specificity 0.750, 400 alerts per 1,000 notes"
    )

    serving = kind_of(task_of("sequence", metric="roc_auc", threshold=scores["threshold"]))
    rows = np.log([[0.75, 0.25], [0.8, 0.2]])
    answers = decoded(serving, examples_of(*"ab"), rows, ("a", "b"))
    assert [(one["label"], one["labels"], one["threshold"]) for one in answers] == [
        ("b", ["b"], scores["threshold"]),
        ("a", ["a"], scores["threshold"]),
    ]
    assert list(answers[0]) == [column["name"] for column in serving.output_columns]
    assert serving.reading_of_threshold(("a", "b")) == "label b is answered where its probability is above 0.225"


def test_a_threshold_decides_in_every_score_of_answers_and_in_none_of_ranking(task_of):
    some, found = examples_of(*"aabb"), likely(0.1, 0.3, 0.2, 0.4)
    plain, moved = (kind_of(task_of("sequence", metric="roc_auc", threshold=at)) for at in (None, 0.15))
    before, after = (kind.score(some, found, ("a", "b")) for kind in (plain, moved))
    assert (before["accuracy"], after["accuracy"]) == (0.5, 0.75)
    assert (before["alerts_per_1000"], after["alerts_per_1000"]) == (0, 750)
    assert before["roc_auc"] == after["roc_auc"] == 0.75
    rows = moved.outcomes(some, found, ("a", "b"))
    assert moved.label_scores(rows, ("a", "b"))["b"] == pytest.approx(0.8)
    assert plain.label_scores(rows, ("a", "b"))["b"] == 0


def test_a_label_that_is_chosen_by_accuracy_is_answered_where_it_is_more_probable(task_of):
    kind = kind_of(task_of("sequence"))
    scores = kind.dev_scores(examples_of(*"ab"), likely(0.4, 0.6), ("a", "b"))
    assert set(scores) == {*kind.metrics, "alerts_per_1000"}
    assert {"threshold", "alerts_per_1000"}.isdisjoint(kind.task.plain())


def test_models_with_their_own_thresholds_are_compared_by_ranking_alone(task_of):
    def judged(threshold, metric):
        kind = kind_of(task_of("sequence", metric=metric, threshold=threshold))
        return Outcomes.of(kind, examples_of(*"ab"), likely(0.1, 0.2), ("a", "b"), len)

    assert judged(0.1, "roc_auc").is_comparable(judged(0.2, "roc_auc"))
    assert judged(0.1, "accuracy").is_comparable(judged(0.1, "accuracy"))
    assert not judged(0.1, "accuracy").is_comparable(judged(0.2, "accuracy"))


@pytest.mark.parametrize(
    ("kind", "fields", "labels", "refused"),
    [
        (
            "sequence",
            {"alerts_per_1000": 50},
            "ab",
            "alerts_per_1000 needs a metric .* got accuracy; set metric to",
        ),
        (
            "sequence",
            {"alerts_per_1000": 50, "metric": "roc_auc"},
            "abc",
            "alerts_per_1000 is for one of two labels",
        ),
        (
            "sequence",
            {"threshold": 0.5, "multi_label": True},
            "ab",
            "threshold is for one of two labels .* several",
        ),
        ("tokens", {"threshold": 0.5}, "ab", "threshold is for one of two labels of a text, got kind tokens"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(task_of, kind, fields, labels, refused):
    with pytest.raises(ConfigError, match=refused):
        kind_of(task_of(kind, **fields)).check_threshold(tuple(labels))


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"alerts_per_1000": 0}, "alerts_per_1000 must be above 0 and at most 1000, got 0"),
        ({"threshold": 50}, "threshold must be a probability from 0 to 1, got 50"),
    ],
)
def test_a_threshold_out_of_range_is_refused(task_of, fields, refused):
    with pytest.raises(ConfigError, match=refused):
        task_of("sequence", **fields)


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_that_are_no_numbers_are_refused(task_of, multi_label):
    kind, some = kind_of(task_of("sequence", multi_label=multi_label)), examples_of(("a",), ("b",))
    predictions = decoded(kind, some, np.array([[0.0, 1.0], [np.nan, 1.0]]), ("a", "b"))
    with pytest.raises(DataError, match="must be finite, got others on 1 of 2 examples"):
        kind.score(some, predictions, ("a", "b"))


@pytest.mark.parametrize("labels", [("no", "yes"), LABELS])
def test_scores_of_one_label_equal_scikit_learn(task_of, labels):
    rng = np.random.default_rng(0)
    truth = rng.integers(len(labels), size=50)
    logits = rng.normal(size=(50, len(labels))) + np.eye(len(labels))[truth]
    kind = kind_of(task_of("sequence"))
    examples = examples_of(*[(labels[t],) for t in truth])
    scores = kind.score(examples, decoded(kind, examples, logits, labels), labels)
    chosen = logits.argmax(1)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert scores == pytest.approx(
        {
            "accuracy": accuracy_score(truth, chosen),
            "micro_f1": f1_score(truth, chosen, average="micro"),
            "macro_f1": f1_score(truth, chosen, average="macro"),
            "roc_auc": roc_auc_score(truth, chance[:, 1] if len(labels) == 2 else chance, multi_class="ovr"),
            **ranking(np.eye(len(labels))[truth], chance, [1] if len(labels) == 2 else range(3)),
            **({"alerts_per_1000": 1000 * np.mean(chosen)} if len(labels) == 2 else {}),
        },
        abs=1e-12,
    )
    assert set(scores) - {"alerts_per_1000"} == set(kind.metrics)


def ranking(truth, chance, columns):
    """Means over labels."""
    return {
        "average_precision": np.mean([average_precision_score(truth[:, c], chance[:, c]) for c in columns]),
        "sensitivity_at_0.9": np.mean([highest_sensitivity(truth[:, c], chance[:, c], 0.9) for c in columns]),
    }


def test_scores_of_several_labels_equal_scikit_learn(task_of):
    rng = np.random.default_rng(1)
    truth = rng.integers(2, size=(40, 3))
    logits = rng.normal(size=(40, 3)) + truth
    kind = kind_of(task_of("sequence", multi_label=True))
    examples = examples_of(*[tuple(np.array(LABELS)[row == 1]) for row in truth])
    scores = kind.score(examples, decoded(kind, examples, logits, LABELS), LABELS)
    assert scores == pytest.approx(
        {
            "micro_f1": f1_score(truth, logits > 0, average="micro"),
            "macro_f1": f1_score(truth, logits > 0, average="macro"),
            "roc_auc": roc_auc_score(truth, logits, average="macro"),
            **ranking(truth, logits, range(3)),
            "alerts_per_1000": 1000 * np.mean((logits > 0).any(axis=1)),
        }
    )


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_area_that_is_not_defined_is_left_out_or_raises_when_it_decides(task_of, multi_label):
    examples = examples_of(("a",), ("b",))  # nobody is c
    predictions = kind_of(task_of("sequence", multi_label=multi_label)).trivial(examples, examples, LABELS)
    kind = kind_of(task_of("sequence", multi_label=multi_label))
    undefined = {"roc_auc", "average_precision", "sensitivity_at_0.9"}
    found = set(kind.score(examples, predictions, LABELS))
    assert found - {"alerts_per_1000"} == set(kind.metrics) - undefined
    for metric in undefined:
        decides = kind_of(task_of("sequence", multi_label=multi_label, metric=metric))
        with pytest.raises(DataError, match=f"{metric} is not defined on these 2 examples"):
            decides.score(examples, predictions, LABELS)


@pytest.mark.parametrize("several", [False, True])
def test_macro_f1_is_of_the_labels_that_are_there_also_where_texts_are_drawn_again(task_of, several):
    """Twenty rare labels, of which a draw lacks a third: a perfect model stays perfect, and its interval holds it."""
    labels = tuple(f"l{number:02}" for number in range(22))
    kind = kind_of(task_of("sequence", multi_label=several, metric="macro_f1"))
    some = [Example(str(n), f"text {n}", labels=(label,)) for n, label in enumerate(labels[:20])]
    perfect = [{"scores": {label: float(label in one.labels) for label in labels}} for one in some]
    scores = kind.score(some, perfect, labels)
    assert scores["macro_f1"] == scores["micro_f1"] == 1, "of two labels there is no text"
    found = estimate(Outcomes.of(kind, some, perfect, labels, len), resamples=50)
    assert found.low < found.value == found.high == 1
    wrong = [{"scores": {label: float(label == "l21") for label in labels}}, *perfect[1:]]
    assert kind.score(some, wrong, labels)["macro_f1"] == pytest.approx(19 / 21), "what is answered counts"


def test_f1_of_texts_without_a_label_that_are_answered_so_is_not_defined(task_of):
    kind, some = kind_of(task_of("sequence", multi_label=True)), examples_of((), ())
    rows = kind.outcomes(some, [{"scores": {"a": 0.1, "b": 0.2}}] * 2, ("a", "b"))
    assert "micro_f1" not in kind.scores_of(rows)
    assert kind.scores_of(kind.outcomes(some, [{"scores": {"a": 0.9, "b": 0.2}}] * 2, ("a", "b")))["micro_f1"] == 0


def test_briers_score_is_scikit_learns(task_of):
    rng = np.random.default_rng(2)
    for labels, several in ((("no", "yes"), False), (LABELS, False), (LABELS, True), (("a",), True)):
        kind = kind_of(task_of("sequence", multi_label=several))
        hot = (
            rng.integers(2, size=(30, len(labels)))
            if several
            else np.eye(len(labels))[rng.integers(len(labels), size=30)]
        )
        some = examples_of(*[tuple(np.array(labels)[row == 1]) for row in hot])
        found = decoded(kind, some, rng.normal(size=hot.shape), labels)
        chances = np.array([[one["scores"][label] for label in labels] for one in found])
        columns = [brier_score_loss(hot[:, at], chances[:, at]) for at in range(len(labels))]
        expected = np.mean(columns) if several or len(labels) == 2 else np.sum(columns)
        assert kind.calibration(kind.outcomes(some, found, labels))["brier_score"] == pytest.approx(expected)


@pytest.mark.parametrize("several", [False, True])
def test_gold_that_the_model_does_not_know_is_not_passed_over(task_of, several):
    kind, some = kind_of(task_of("sequence", multi_label=several)), examples_of(("a",), ("d",))
    with pytest.raises(DataError, match="1 of 2 examples have a label that the model does not know, first 1"):
        kind.score(some, likely(0.1, 0.9), ("a", "b"))


def test_the_trivial_answer_is_the_majority_of_the_training_split(task_of):
    kind = kind_of(task_of("sequence"))
    train = examples_of(("a",), ("b",), ("b",))
    (prediction,) = kind.trivial(train, examples_of(("a",)), LABELS)
    assert (prediction["label"], prediction["labels"]) == ("b", ["b"])
    assert prediction["scores"] == pytest.approx({"a": 1 / 3, "b": 2 / 3, "c": 0})


@pytest.mark.parametrize(("num_examples", "num_predictions"), [(0, 0), (2, 1)])
def test_scoring_needs_a_prediction_for_each_example(task_of, num_examples, num_predictions):
    kind = kind_of(task_of("sequence"))
    examples = examples_of(*[("a",)] * num_examples)
    with pytest.raises(DataError, match="must be one for each example"):
        kind.score(examples, [{"label": "a"}] * num_predictions, LABELS)
