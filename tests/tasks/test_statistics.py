"""Intervals and tests beside SciPy's and beside what can be counted by hand."""

import json

import numpy as np
import pytest
import scipy.stats

from clinscale.errors import DataError
from clinscale.tasks import (
    Answer,
    Entity,
    Estimate,
    Example,
    Outcomes,
    by_length,
    compare,
    compare_seeds,
    differences_by_label,
    differences_by_length,
    estimate,
    estimate_mean,
    estimate_seeds,
    holm,
    kind_of,
)

LABELS = ("a", "b")


def judged(task_of, hits, *, texts=None, metric="accuracy"):
    """Outcomes of a classifier that is right where `hits` says so."""
    kind = kind_of(task_of("sequence", metric=metric))
    texts = texts or [f"text {number}" for number in range(len(hits))]
    examples = [Example(str(number), text, labels=("a",)) for number, text in enumerate(texts)]
    predictions = [
        {"label": "a" if hit else "b", "scores": {"a": 0.9 if hit else 0.1, "b": 0.1 if hit else 0.9}}
        for hit in hits
    ]
    return Outcomes.of(kind, examples, predictions, LABELS, lambda text: len(text.split()))


def test_the_interval_of_an_accuracy_is_scipys(task_of):
    hits = np.random.default_rng(3).random(80) < 0.7
    found = estimate(judged(task_of, hits))
    expected = scipy.stats.bootstrap(
        (hits.astype(float),), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert found.value == hits.mean()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.013)


@pytest.mark.parametrize("number", [2, 10, 100])
def test_a_perfect_score_on_few_documents_is_not_certain(task_of, number):
    """The exact binomial interval; drawing again gives the same score each time."""
    for hits, (low, high) in ((number, (0.025 ** (1 / number), 1)), (0, (0, 1 - 0.025 ** (1 / number)))):
        exact = scipy.stats.binomtest(hits, number).proportion_ci()
        assert (exact.low, exact.high) == pytest.approx((low, high))
        outcomes = judged(task_of, [bool(hits)] * number)
        for found in (
            estimate(outcomes),
            estimate_seeds([outcomes] * 2, resamples=20),
            by_length(outcomes, resamples=20)[0].score,
        ):
            assert (found.value, found.low, found.high) == pytest.approx((hits / number, low, high))
    assert estimate(outcomes, resamples=0) == by_length(outcomes, resamples=0)[0].score == Estimate(0, 0, 0)


def test_questions_on_one_document_are_drawn_together(task_of):
    hits = [True] * 30 + [False] * 30
    alone = estimate(judged(task_of, hits))
    together = estimate(judged(task_of, hits, texts=["one"] * 30 + ["two"] * 30))
    assert (together.low, together.high) == (0, 1)
    assert alone.high - alone.low < 0.3
    assert estimate(judged(task_of, hits, texts=["one"] * 60)) == estimate(judged(task_of, hits, texts=["x"] * 60))


def test_notes_of_one_patient_are_drawn_together(task_of):
    kind, predictions = kind_of(task_of("sequence")), [{"scores": {"a": 0.9, "b": 0.1}}] * 3
    groups = {"1": "one", "2": "two", "3": "two", "4": "one", "5": "three"}
    examples = [Example(id, f"note {id}", labels=("a",), group=group) for id, group in groups.items()]
    made = Outcomes.of(kind, examples, [*predictions, *predictions[:2]], LABELS, lambda text: int(text[-1]))
    assert made.documents.tolist() == [0, 1, 1, 0, 2]
    assert made.tokens.tolist() == [1, 2, 3, 4, 5], "each note keeps its own length"


def test_of_one_document_nothing_is_known(task_of):
    ours, theirs = (judged(task_of, [hit] * 3, texts=["one"] * 3) for hit in (True, False))
    assert estimate(ours) == estimate_seeds([ours, ours]) == Estimate(1.0, 0.0, 1.0)
    assert compare(ours, theirs).difference == Estimate(1.0, -1.0, 1.0)
    assert differences_by_length(ours, theirs) == {"1-512_tokens": Estimate(1.0, -1.0, 1.0)}


@pytest.mark.parametrize(("number", "proven"), [(3, False), (4, True)])
def test_a_label_or_length_of_few_documents_proves_nothing(task_of, number, proven):
    kind, texts = kind_of(task_of("sequence")), ["a " * (600 if at < number else 5) for at in range(30)]
    examples = [
        Example(f"{at}", f"{at} {text}", labels=("b" if at < number else "a",)) for at, text in enumerate(texts)
    ]

    def found(right):
        scores = [{"a": 0.1, "b": 0.9} if at < number and right else {"a": 0.9, "b": 0.1} for at in range(30)]
        return Outcomes.of(
            kind, examples, [{"scores": one} for one in scores], LABELS, lambda text: len(text.split())
        )

    sides = found(False), found(True)
    spreads = differences_by_label(*sides)["b"], differences_by_length(*sides)["513-1024_tokens"]
    assert [(one.value, one.high < 0) for one in spreads] == [(-1, proven)] * 2


def test_few_documents_without_noise_do_not_prove_a_recipe_better(task_of):
    for number, proven in ((5, False), (6, True)):
        right, wrong = ([judged(task_of, [hit] * number)] * 2 for hit in (True, False))
        found = compare_seeds(right, wrong, resamples=20)
        assert (found.p_value, found.difference.low > 0) == (0.5 ** (number - 1), proven)


@pytest.mark.parametrize(("better", "worse"), [(6, 0), (5, 1), (3, 3)])
def test_few_documents_are_swapped_in_every_way(task_of, better, worse):
    ours = judged(task_of, [True] * better + [False] * worse)
    theirs = judged(task_of, [False] * better + [True] * worse)
    found = compare(ours, theirs)
    differences = np.array([1.0] * better + [-1.0] * worse)
    signs = np.array(np.meshgrid(*[[1, -1]] * 6)).reshape(6, -1)
    sums = (differences[:, None] * signs).sum(axis=0)
    expected = min(1.0, 2 * min((sums >= differences.sum()).mean(), (sums <= differences.sum()).mean()))
    assert found.p_value == pytest.approx(expected)
    assert found.difference.value == pytest.approx(differences.mean())


def test_a_clear_difference_is_seen_and_none_is_not(task_of):
    rng = np.random.default_rng(0)
    good, bad = rng.random(200) < 0.9, rng.random(200) < 0.6
    clear = compare(judged(task_of, good), judged(task_of, bad))
    assert clear.p_value < 0.01
    assert clear.difference.low > 0
    same = compare(judged(task_of, good), judged(task_of, good))
    assert same.p_value == 1
    assert (same.difference.value, same.difference.low, same.difference.high) == (0, 0, 0)


def test_models_judged_on_other_examples_are_not_compared(task_of):
    with pytest.raises(DataError, match="judged on different test examples"):
        compare(judged(task_of, [True, False]), judged(task_of, [True, False, True]))


def test_a_score_that_is_not_defined_proves_nothing(task_of):
    """No ranking of notes that all have one label."""
    ours, theirs = (judged(task_of, [hit, True] * 8, metric="roc_auc") for hit in (True, False))
    found = compare(ours, theirs)
    assert np.isnan(found.difference.value)
    assert found.p_value == 1


def test_a_ranking_is_compared_by_ranks_and_not_by_the_scale_of_the_probabilities(task_of):
    kind, draw = kind_of(task_of("sequence", metric="roc_auc")), np.random.default_rng(0)
    sick = draw.random(80) < 0.2
    examples = [
        Example(str(number), f"text {number}", labels=("ab"[int(one)],)) for number, one in enumerate(sick)
    ]

    def ranked(scores):
        predictions = [{"scores": {"a": 1 - score, "b": score}} for score in scores]
        return Outcomes.of(kind, examples, predictions, LABELS, lambda _: 1)

    score = draw.normal(size=80) + 1.5 * sick
    timid, bold = (ranked(1 / (1 + np.exp(-(at + score * scale)))) for at, scale in ((-3, 0.05), (2, 1.0)))
    constant = ranked(np.full(80, 0.2))
    assert compare(timid, bold).p_value == 1
    for model in (timid, bold):
        found = compare(model, constant)
        assert found.p_value < 0.01
        assert found.difference.value == pytest.approx(model.value() - 0.5)


def test_bands_hold_the_documents_of_their_lengths(task_of):
    texts = ["a " * tokens for tokens in (10, 512, 513, 1024, 3000, 5000)]
    bands = by_length(judged(task_of, [True, True, False, True, False, True], texts=texts))
    assert [(b.above_tokens, b.up_to_tokens, b.examples, b.score.value) for b in bands] == [
        (0, 512, 2, 1.0),
        (512, 1024, 2, 0.5),
        (2048, 4096, 1, 0.0),
        (4096, None, 1, 1.0),
    ]


def test_outcomes_are_stored_without_text_and_read_back(task_of):
    kind = kind_of(task_of("spans"))
    examples = [
        Example("1", "secret note", "secret question", answers=(Answer(0, "secret"),)),
        Example("2", "secret note", "another", answers=()),
    ]
    predictions = [{"answer": "note"}, {"answer": ""}]
    made = Outcomes.of(kind, examples, predictions, (), len)
    assert "secret" not in str(made.plain())
    again = Outcomes.parse(made.plain(), source="test")
    assert estimate(again) == estimate(made)
    assert compare(again, made).p_value == 1
    with pytest.raises(DataError, match="x holds no outcomes"):
        Outcomes.parse({"rows": 1}, source="x")


def test_a_ranking_is_stored_to_the_last_digit(task_of):
    kind = kind_of(task_of("sequence", metric="roc_auc"))
    chances = {"a": (1e-12, 3e-12), "b": (2e-12, 4e-12)}
    examples = [Example(f"{label}{p}", f"{label}{p}", labels=(label,)) for label in LABELS for p in chances[label]]
    predictions = [{"scores": {"a": 1 - p, "b": p}} for label in LABELS for p in chances[label]]
    made = Outcomes.of(kind, examples, predictions, LABELS, len)
    assert Outcomes.parse(json.loads(json.dumps(made.plain())), source="x").value() == made.value() == 0.75


def test_a_metric_without_meaning_in_a_draw_is_left_out_of_it(task_of):
    hits = [True] * 19 + [False]
    kind = kind_of(task_of("sequence", metric="roc_auc"))
    examples = [Example(str(n), f"t{n}", labels=("b" if n == 19 else "a",)) for n in range(20)]
    predictions = [{"scores": {"a": 0.9 if hit else 0.1, "b": 0.1 if hit else 0.9}} for hit in hits]
    found = estimate(Outcomes.of(kind, examples, predictions, LABELS, len))
    assert (found.value, found.high, found.low) == (1.0, 1.0, pytest.approx(0.025 ** (1 / 20)))


def test_a_recipe_is_better_only_beyond_the_noise_between_its_seeds(task_of):
    rng = np.random.default_rng(1)

    def seeds(*rates):
        return [judged(task_of, rng.random(150) < rate) for rate in rates]

    clear = compare_seeds(seeds(0.9, 0.91, 0.89), seeds(0.6, 0.61, 0.62), resamples=100)
    assert clear is not None
    assert clear.difference.low > 0
    assert clear.p_value < 0.05
    lucky = compare_seeds(seeds(0.9, 0.6, 0.75), seeds(0.6, 0.8, 0.7), resamples=100)
    assert lucky is not None
    assert lucky.difference.low < 0 < lucky.difference.high
    assert lucky.p_value > 0.05
    assert compare_seeds(seeds(0.9), seeds(0.6)) is None
    assert compare_seeds(seeds(0.9, 0.9), seeds(0.6), resamples=100) is not None


def test_an_interval_over_seeds_is_wider_than_over_documents_alone(task_of):
    rng = np.random.default_rng(2)
    same = judged(task_of, rng.random(150) < 0.7)
    apart = [judged(task_of, rng.random(150) < rate) for rate in (0.5, 0.7, 0.9)]
    alone, alike, spread = (estimate_seeds(seeds, resamples=200) for seeds in ([same], [same, same], apart))
    assert alone == estimate(same, resamples=200)
    assert alike.value == same.value()
    assert spread.value == pytest.approx(np.mean([one.value() for one in apart]))
    assert spread.high - spread.low > 2 * (alike.high - alike.low)


def test_tests_made_together_are_adjusted_by_holms_method():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # worked out by hand
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_differences_are_told_by_length_and_by_label(task_of):
    texts = ["a " * tokens for tokens in (10, 20, 600, 700)] * 10
    ours, theirs = ([True, True, hit, hit] * 10 for hit in (True, False))
    found = differences_by_length(judged(task_of, ours, texts=texts), judged(task_of, theirs, texts=texts))
    assert {name: one.value for name, one in found.items()} == {"1-512_tokens": 0, "513-1024_tokens": 1}
    by_label = differences_by_label(judged(task_of, ours), judged(task_of, theirs))
    assert by_label["a"].value == pytest.approx(1 - 2 / 3)  # recall of one half
    assert "b" not in by_label, "it has no gold"


def test_entities_are_counted_by_their_type(task_of):
    kind = kind_of(task_of("tokens"))
    text = "aspirin for pain and fever"
    gold = (Entity(0, 7, "drug"), Entity(12, 16, "sign"), Entity(21, 26, "sign"))
    predicted = {"entities": [{"start": 0, "end": 7, "label": "drug"}, {"start": 12, "end": 16, "label": "sign"}]}
    outcomes = Outcomes.of(kind, [Example("1", text, entities=gold)], [predicted], ("drug", "sign", "dose"), len)
    assert outcomes.label_scores() == {"drug": 1, "sign": pytest.approx(2 / 3)}
    assert Outcomes.parse(outcomes.plain(), source="x").label_scores() == outcomes.label_scores()


def test_the_interval_of_a_mean_of_runs_is_scipys_and_one_run_has_none():
    runs = [1.2, 1.9, 1.4]
    found = estimate_mean(runs)
    theirs = scipy.stats.ttest_1samp(runs, 0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((1.5, theirs.low, theirs.high))
    assert estimate_mean([0.0, 0.0]) == Estimate(0.0, 0.0, 0.0)
    alone = estimate_mean([1.2])
    assert alone.value == 1.2
    assert np.isnan([alone.low, alone.high]).all()


def test_a_side_with_one_seed_varies_as_the_other_does(task_of):
    right, wrong = (judged(task_of, [hit] * 20) for hit in (True, False))
    found = compare_seeds([right, wrong], [right]).difference
    # by hand: no noise of documents; the seeds' variance 1/2, halved for two and whole for one; Welch-Satterthwaite
    reach = scipy.stats.t.ppf(0.975, 0.75**2 / (0.25**2 + 0.5**2)) * 0.75**0.5
    assert (found.value, found.high) == (-0.5, pytest.approx(-0.5 + reach))


def test_intervals_of_several_lengths_are_wider_than_that_of_one(task_of):
    rng = np.random.default_rng(5)
    ours, theirs = rng.random(80) < 0.7, rng.random(80) < 0.5
    texts = [f"{number} " * (10 if number < 40 else 600) for number in range(80)]

    def width(begin):
        sides = (judged(task_of, hits[begin:], texts=texts[begin:]) for hits in (ours, theirs))
        found = differences_by_length(*sides)["513-1024_tokens"]
        return found.high - found.low

    assert width(0) > width(40)
