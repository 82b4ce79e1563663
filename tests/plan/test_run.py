"""A run is counted from its config, and says what it had to assume."""

import pytest

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
