"""The gate on models whose true skill is known: it lets pass what is better, and chance alone rarely."""

import dataclasses

import numpy as np
import pytest

from clinscale.errors import ConfigError
from clinscale.promotion import Evidence, GateRules, Latency, decide
from clinscale.tasks import Outcomes, TaskConfig

TASK = TaskConfig.parse(
    {
        "name": "drugs",
        "kind": "tokens",
        "format": "brat",
        "splits": {"train": "a", "dev": "b", "test": "c"},
    },
    source="test",
)
DOCUMENTS, GOLD = 120, 8
DIFFICULTY = np.random.default_rng(7).normal(0, 0.12, DOCUMENTS)
"""Some documents are hard for every model, which is why comparisons are paired."""


def judged(skill, rng, *, documents=None, labels=("drug",), skills=None, tokens=300):
    """Test outcomes of a model that finds each entity with chance `skill` (of `skills` by label)."""
    documents = np.arange(DOCUMENTS) if documents is None else documents
    found = []
    for chance in skills or [skill]:
        rate = np.clip(chance + DIFFICULTY[documents], 0, 1)
        found.append(rng.binomial(GOLD, rate))
    by_label = np.stack([np.stack([right, right * 0 + GOLD, right * 0 + GOLD]) for right in found])
    right = by_label[:, 0].sum(axis=0)
    gold = np.full(len(documents), GOLD * len(found))
    whole = np.stack([right, gold, gold, right, right])
    rows = np.concatenate([whole, by_label.reshape(-1, len(documents))]).T.astype(float)
    return Outcomes(
        task=TASK,
        keys=tuple(map(str, range(len(documents)))),
        documents=np.arange(len(documents)),
        tokens=np.broadcast_to(tokens, len(documents)),
        rows=rows,
        labels=labels,
    )


def evidence(label, *outcomes, **changes):
    return dataclasses.replace(Evidence(label, "task", outcomes, size_bytes=1000, memorised=None), **changes)


def three(label, skill, rng, **changes):
    """Three seeds of one recipe, between which skill varies."""
    return evidence(label, *(judged(skill + rng.normal(0, 0.01), rng, **changes) for _ in range(3)))


def failed(decision):
    return {check.rule for check in decision.checks if not check.passed}


def test_the_better_passes_its_equal_and_the_worse_do_not():
    rng = np.random.default_rng(0)
    champion = three("m/1", 0.7, rng)
    better = decide(three("m/2", 0.78, rng), champion, GateRules())
    assert better.promoted
    assert better.because.startswith("f1 is 0.0")
    assert better.difference is not None
    assert better.difference[1] > 0
    equal, worse = (decide(three("m/2", skill, rng), champion, GateRules()) for skill in (0.7, 0.6))
    assert not equal.promoted
    assert not worse.promoted
    assert "f1 beyond the noise of documents" in failed(worse)
    assert worse.plain()["checks"][0]["rule"] == "judged on a test set"


def test_a_lucky_seed_alone_does_not_pass():
    rng = np.random.default_rng(1)
    champion = three("m/1", 0.7, rng)
    lucky = evidence("m/2", judged(0.8, rng), judged(0.68, rng), judged(0.7, rng))
    assert failed(decide(lucky, champion, GateRules())) == {"better beyond the noise between seeds"}
    alone = decide(evidence("m/2", judged(0.8, rng)), champion, GateRules())
    assert failed(alone) == {"better beyond the noise between seeds"}
    assert "recipe.confirm_seeds=3" in alone.because
    assert decide(evidence("m/2", judged(0.8, rng)), champion, GateRules(min_seeds=1)).promoted


def test_chance_passes_at_most_one_time_in_twenty():
    """50 pairs of equals: the documents drawn again from one pool, the seeds of both sides from one recipe."""
    rng = np.random.default_rng(2)
    passed = 0
    for _ in range(50):
        documents = rng.integers(0, DOCUMENTS, DOCUMENTS)
        ours, theirs = (three(label, 0.7, rng, documents=documents) for label in ("m/2", "m/1"))
        passed += decide(ours, theirs, GateRules(), resamples=100).promoted
    assert passed <= 1, "where the noise between seeds is not looked at, 2 pass"


def test_what_is_better_on_the_whole_may_not_lose_a_label_or_a_length():
    rng = np.random.default_rng(3)
    labels = ("drug", "dose")
    champion = evidence("m/1", *(judged(0, rng, labels=labels, skills=[0.6, 0.7]) for _ in range(3)))
    lopsided = evidence("m/2", *(judged(0, rng, labels=labels, skills=[0.9, 0.5]) for _ in range(3)))
    assert failed(decide(lopsided, champion, GateRules())) == {"no label loses more than 0.05"}
    assert decide(lopsided, champion, GateRules(max_loss_in_label=0.5)).promoted

    long = np.arange(DOCUMENTS) % 3 == 0
    tokens = np.where(long, 2000, 300)

    def by_length(short_skill, long_skill):
        made = [judged(skill, rng, tokens=tokens) for skill in (short_skill, long_skill)]
        rows = np.where(long[:, None], made[1].rows, made[0].rows)
        return dataclasses.replace(made[0], rows=rows)

    champion = evidence("m/1", *(by_length(0.6, 0.8) for _ in range(3)))
    shortsighted = evidence("m/2", *(by_length(0.9, 0.6) for _ in range(3)))
    refused = decide(shortsighted, champion, GateRules())
    assert failed(refused) == {"no length loses more than 0.02"}
    assert "1025-2048_tokens -0." in refused.because


def test_a_loss_on_few_documents_counts_where_it_is_beyond_noise():
    rng = np.random.default_rng(8)
    tokens = np.where(np.arange(DOCUMENTS) < 4, 2000, 300)

    def with_long(skill, right):
        made = judged(skill, rng, tokens=tokens)
        made.rows[:4, [0, 3, 4, 5]] = np.array(right)[:, None]
        return made

    champion = evidence("m/1", *(with_long(0.6, [5, 5, 5, 5]) for _ in range(3)))
    mixed, worse = (
        evidence("m/2", *(with_long(0.8, right) for _ in range(3))) for right in ([1, 7, 6, 4], [1, 1, 2, 1])
    )
    assert decide(mixed, champion, GateRules(), resamples=100).promoted
    assert failed(decide(worse, champion, GateRules(), resamples=100)) == {"no length loses more than 0.02"}


def test_probabilities_may_be_a_little_further_from_the_truth_than_the_champions():
    values = {"name": "ward", "kind": "sequence", "format": "records", "metric": "accuracy"}
    task = TaskConfig.parse({**values, "splits": {"train": "a", "dev": "b", "test": "c"}}, source="test")

    def sure(label, right, probability):
        truth = np.arange(DOCUMENTS) % 2
        chosen = np.where(np.arange(DOCUMENTS) < right * DOCUMENTS, truth, 1 - truth)
        rows = np.full((DOCUMENTS, 3), 1 - probability)
        rows[:, 0], rows[np.arange(DOCUMENTS), 1 + chosen] = truth, probability
        one = dataclasses.replace(judged(0, np.random.default_rng(0)), task=task, rows=rows, labels=("a", "b"))
        return evidence(label, one, one, one)

    champion = sure("m/1", right=0.6, probability=0.6)
    assert decide(sure("m/2", right=0.9, probability=0.91), champion, GateRules(), resamples=100).promoted
    doubtful = decide(sure("m/2", right=0.9, probability=0.7), champion, GateRules(), resamples=100)
    assert failed(doubtful) == {"calibration"}
    assert "error 0.2000, the champion's 0.0000, allowed above it 0.02" in doubtful.because


@pytest.mark.parametrize(
    ("rules", "changes", "latency", "rule"),
    [
        ({}, {"memorised": True}, None, "memorisation"),
        ({"require_memorisation_test": True}, {}, None, "memorisation"),
        ({"max_size_bytes": 999}, {}, None, "size"),
        ({}, {}, Latency(0.2, 0.1), "latency beside the champion"),
        ({"max_latency_s_per_1000_tokens": 0.1}, {}, Latency(0.2, 0.2), "latency"),
    ],
)
def test_limits_hold_for_the_better_too(rules, changes, latency, rule):
    rng = np.random.default_rng(4)
    better = dataclasses.replace(three("m/2", 0.8, rng), **changes)
    decision = decide(better, three("m/1", 0.7, rng), GateRules(**rules), latency=latency)
    assert failed(decision) == {rule}
    assert not decision.promoted


def test_only_what_was_judged_on_the_same_examples_is_compared():
    rng = np.random.default_rng(5)
    champion = three("m/1", 0.7, rng)
    other = dataclasses.replace(judged(0.9, rng), keys=tuple(f"x{number}" for number in range(DOCUMENTS)))
    assert "m/1 was judged on other examples" in decide(evidence("m/2", other), champion, GateRules()).because
    assert "no test outcomes of m/2" in decide(evidence("m/2"), champion, GateRules()).because
    assert "none on record" in decide(evidence("m/2"), None, GateRules()).because


def test_a_first_champion_must_beat_the_trivial_baseline_beyond_noise():
    rng = np.random.default_rng(6)
    nothing = judged(0, rng)
    nothing.rows[:, [0, 1]] = 0  # no entity is found, as the baseline answers
    good, chance = judged(0.7, rng), dataclasses.replace(nothing, rows=nothing.rows.copy())
    chance.rows[0] = good.rows[0]  # right on one document of 120
    first = decide(evidence("m/1", good, trivial=nothing), None, GateRules())
    assert first.promoted
    assert first.because.startswith("there is no champion yet, and f1 above the trivial baseline's: 0.")
    for poor in (chance, nothing):
        refused = decide(evidence("m/1", poor, trivial=nothing), None, GateRules())
        assert failed(refused) == {"f1 above the trivial baseline's"}
        assert "more data, start from a pretrained base, or search longer" in refused.because
        assert decide(evidence("m/1", poor), None, GateRules(min_over_trivial=None)).promoted
    far = decide(evidence("m/1", good, trivial=nothing), None, GateRules(min_over_trivial=0.9))
    assert failed(far) == {"f1 above the trivial baseline's by 0.9"}
    unknown = decide(evidence("m/1", good), None, GateRules())
    assert "no test outcomes of the baseline are on record; give the task's data with --data" in unknown.because
    other = dataclasses.replace(nothing, keys=tuple(f"x{number}" for number in range(DOCUMENTS)))
    assert "judged on other examples" in decide(evidence("m/1", good, trivial=other), None, GateRules()).because
    weak = three("m/2", 0.8, rng)
    assert decide(weak, three("m/1", 0.7, rng), GateRules()).promoted, "a later one is compared with the champion"


def test_a_base_model_is_not_compared_but_must_not_remember():
    base = Evidence("b/2", "base", (), 1000, None)
    assert decide(base, dataclasses.replace(base, label="b/1"), GateRules()).promoted
    assert not decide(dataclasses.replace(base, memorised=True), None, GateRules()).promoted


def test_rules_are_checked():
    with pytest.raises(ConfigError, match="min_seeds must be at least 1"):
        GateRules.load(overrides=["min_seeds=0"])
    with pytest.raises(ConfigError, match="max_loss_in_band must not be negative"):
        GateRules.load(overrides=["max_loss_in_band=-0.1"])
    with pytest.raises(ConfigError, match="did you mean max_latency_ratio"):
        GateRules.load(overrides=["max_latency=2"])


def test_a_champion_of_another_kind_labels_or_rules_is_not_compared():
    rng = np.random.default_rng(9)
    champion = three("m/1", 0.7, rng)
    base = Evidence("m/2", "base", (), 1000, None)
    refused = decide(base, champion, GateRules())
    assert failed(refused) == {"of the champion's kind"}
    assert "m/2 is a base model, m/1 a task model" in refused.because
    assert failed(decide(three("m/2", 0.9, rng), dataclasses.replace(base, label="m/1"), GateRules())) == {
        "of the champion's kind"
    }
    for changes in ({"labels": ("dose",)}, {"labels": ("dose", "drug")}, {"scorer": "seqeval"}):
        others = [dataclasses.replace(one, **changes) for one in three("m/2", 0.9, rng).outcomes]
        refused = decide(evidence("m/2", *others), champion, GateRules())
        assert failed(refused) == {"judged on the champion's test set"}
        assert "another threshold, scorer or list of labels" in refused.because
    unfit = dataclasses.replace(evidence("m/1"), unfit="m/1 cannot be judged: it is gone")
    assert decide(three("m/2", 0.9, rng), unfit, GateRules()).because.endswith("m/1 cannot be judged: it is gone")
