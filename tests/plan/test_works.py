"""The parts that a probe times are those of the step: as many operations, as many bytes, the model's own attention."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from clinscale import models
from clinscale.plan import Run, works_of
from clinscale.pretrain import PretrainConfig

NOWHERE = {"name": "x", "recipe": {"shards": ""}}


def model_of(*overrides):
    return Run.of(PretrainConfig.load(None, ["recipe.model.size=tiny", *overrides], base=NOWHERE)).model


def works(model, **changes):
    asked = {"row_tokens": 256, "precision": "fp32", "mask_share": 0.15, "device": "cpu"} | changes
    return works_of(model, **asked)


@pytest.mark.parametrize("family", models.EXACT_FAMILIES)
def test_products_are_those_of_the_step_whose_operations_are_counted(family):
    model = model_of(f"recipe.model.family={family}")
    found = works(model)
    counted = models.train_flops(model.config, 256, head_share=0.15)
    hidden = model.config.hidden_size
    assert found["layer_products"].times * found["layer_products"].amount == pytest.approx(256 * counted.dense)
    assert found["head_products"].amount == pytest.approx(
        256 * (counted.head - 3 * 2 * hidden**2 * 0.15), rel=0.02
    )
    for name in ("layer_products", "head_products"):
        with FlopCounterMode(display=False) as counter:
            found[name].run()
        assert counter.get_total_flops() == found[name].amount
    layers = model.config.num_hidden_layers
    assert layers * found["attention"].amount == pytest.approx(256 * counted.attention)


def test_rows_of_one_pass_are_done_together_up_to_a_limit():
    one, four, many = (works(model_of(), rows=rows) for rows in (1, 4, 1000))
    for name in ("layer_products", "head_products", "layer_passes", "head_passes"):
        assert four[name].amount == pytest.approx(4 * one[name].amount, rel=0.02)
        assert many[name].amount == pytest.approx(16 * one[name].amount, rel=0.02)
    assert many["attention"].amount == one["attention"].amount


def test_only_the_exact_attention_is_timed_and_every_part_runs():
    found = works(model_of("runtime.attention=hf"))
    assert "attention" not in found
    for name, work in found.items():
        assert work.amount > 0, name
        work.run()


def test_a_processor_that_is_slow_in_a_precision_is_given_fewer_tokens(monkeypatch):
    monkeypatch.setattr("clinscale.plan.works.timed_s", lambda work, device: 30.0)
    few = works(model_of(), row_tokens=4096, mask_share=0.5)
    monkeypatch.undo()
    assert few["layer_products"].amount == pytest.approx(works(model_of(), row_tokens=64)["layer_products"].amount)
