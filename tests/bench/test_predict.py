"""Prediction beside Hugging Face's pipeline and loop: counted right, and never timed where answers differ."""

import pytest

from clinscale.bench import bench_predict
from clinscale.bench.predict import _assert_equal
from clinscale.errors import ClinscaleError

SMALL = {
    "documents": 3,
    "tokens": (300, 1500),
    "max_tokens": 1024,
    "batch_size": 2,
    "layers": 1,
    "hidden_size": 64,
}


@pytest.mark.parametrize(("family", "kind"), [("longformer", "entities"), ("bigbird", "classification")])
def test_it_measures_answers_that_are_equal(family, kind):
    record = bench_predict(**SMALL, repeats=1, families=(family,), kinds=(kind,), precision="bf16")
    name = f"{family}_{kind}"
    assert set(record.ratios) == {name} | ({f"{name}_pipeline"} if kind == "classification" else set())
    assert record.equal is True
    details = record.details[name]
    assert details["documents"] == 3
    if kind == "classification":  # of 300, 900 and 1,500 tokens, cut to the model's window
        assert details["windows"] == 3
        assert details["tokens"] == pytest.approx(300 + 900 + 1024, abs=20)
    else:
        assert details["windows"] == 4
        assert details["tokens"] > 300 + 900 + 1500
    for side in "ab":
        speeds, seconds = record.per_s[name][side], details[side]["median_s"]
        assert speeds == pytest.approx({"documents": 3 / seconds, "tokens": details["tokens"] / seconds})


LABELS = {"labels": ["x"], "scores": {"x": 0.6, "y": 0.4}}
ENTITIES = {"entities": [{"start": 0, "end": 4, "label": "test", "score": 0.9}]}


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        (LABELS, {**LABELS, "scores": {"x": 0.6011, "y": 0.3989}}),
        (LABELS, {**LABELS, "labels": ["y"]}),
        (LABELS, {**LABELS, "scores": {"x": float("nan"), "y": 0.4}}),
        (ENTITIES, {"entities": [{**ENTITIES["entities"][0], "end": 5}]}),
        (ENTITIES, {"entities": []}),
    ],
)
def test_answers_that_differ_are_never_timed(theirs, mine):
    _assert_equal("x", [theirs], [theirs])
    with pytest.raises(ClinscaleError, match="answer note 0 differently"):
        _assert_equal("x", [theirs], [mine])
