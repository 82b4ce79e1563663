"""A run is counted from its config, and says what it had to assume."""

import pytest

from clinscale.errors import ConfigError
from clinscale.plan import Run
from clinscale.pretrain import PretrainConfig

NOWHERE = {"name": "x", "recipe": {"shards": "nowhere"}}


def test_epochs_are_counted_from_the_shards_or_left_out(shards):
    tiny = ("recipe.model.size=tiny", "recipe.row_tokens=256", "recipe.duration=2epochs", "runtime.num_workers=1")
    own = {"name": "x", "recipe": {"shards": shards.uri}}
    run = Run.of(PretrainConfig.load(None, list(tiny), base=own))
    tokens = shards.manifest.splits["train"].tokens
    assert run.total_steps == pytest.approx(2 * tokens / 256 / 18, abs=2)
    assert run.model.config.vocab_size == shards.vocab_size
    unknown = Run.of(PretrainConfig.load(None, list(tiny), base=NOWHERE))
    assert unknown.total_steps is None
    assert len(unknown.notes) == 2
    assert (
        Run.of(PretrainConfig.load(None, list(tiny), base=NOWHERE), corpus_tokens=256 * 18 * 5).total_steps == 10
    )


def test_workers_without_rows_are_said():
    run = Run.of(PretrainConfig.load("clinical-longformer", ["runtime.num_workers=32"], base=NOWHERE))
    assert any("32 is more than the 18 rows" in note for note in run.notes)


@pytest.mark.parametrize(
    ("words", "tokens", "told"),
    [
        (["recipe.duration=1epochs"], 256 * 3, "no less than half of one: a step reads 18 rows .* split has 3"),
        (
            ["recipe.duration=1000tokens"],
            None,
            "no less than half of one: a step reads 18 rows of 256 tokens; raise",
        ),
        (["recipe.duration=0.5steps"], None, "must be whole steps"),
        (["recipe.duration=5steps"], 200, "must have a row of 256 tokens, got 200 tokens in all"),
    ],
)
def test_a_training_that_the_verb_refuses_is_not_planned_as_one_step(words, tokens, told):
    tiny = ("recipe.model.size=tiny", "recipe.row_tokens=256", "runtime.num_workers=1", *words)
    with pytest.raises(ConfigError, match=told):
        Run.of(PretrainConfig.load(None, tiny, base=NOWHERE), corpus_tokens=tokens)
