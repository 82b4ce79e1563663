"""A sweep's cost before it starts: windows counted on the real files, epochs by arithmetic, all work included."""

import json
from dataclasses import replace

import pytest
from transformers import BertConfig

from clinscale.engine import load_hardware
from clinscale.errors import ConfigError
from clinscale.finetune import card_of
from clinscale.models import encoder_shape
from clinscale.plan import Site, plan_tune, planned_costs, site_here
from clinscale.plan.sweep import Windows
from clinscale.predict import windows_of
from clinscale.sweep import SweepConfig, expected_work, read_inputs
from clinscale.tokenizers import load_tokenizer


@pytest.fixture
def sweep(demo_data, base_models, tracking, tmp_path):
    """Makes a sweep with its inputs."""

    def make(*overrides, model=base_models["longformer"], task="demo_entities", **fields):
        study = {"name": "s", "task": task, "data": str(demo_data), "models": [str(model)], **fields}
        config = SweepConfig.load(None, overrides, base={"name": "x", "recipe": {"studies": [study]}})
        return config, read_inputs(config, tracking=tracking, home=tmp_path, loads_weights=False)

    return make


def gpu(name="a100-80gb", **prices):
    device = load_hardware().device(name).model_copy(update=prices)
    return Site(hardware=load_hardware(), device_name=name, device=device)


def test_windows_are_those_that_training_will_read(sweep, base_models):
    config, inputs = sweep()
    [study] = inputs.studies
    recipe = study.recipe({}, 0)
    data, tokenizer = study.data, load_tokenizer(str(base_models["longformer"]))
    card = card_of(recipe, data, 4096)
    lengths = [len(w.input_ids) for e in data.splits["train"] for w in windows_of(card, tokenizer, e, train=True)]
    found = plan_tune(config, inputs, gpu(), devices=1).studies[0].train
    assert found.longest <= max(lengths)
    assert found.number == pytest.approx(len(lengths), rel=0.1)
    assert found.tokens == pytest.approx(sum(lengths), rel=0.1)
    whole = Windows.of(data.splits["train"][:100], card, tokenizer, train=True)
    some = Windows.of(data.splits["train"][:100] * 4, card, tokenizer, train=True)
    assert (some.number, some.tokens) == (4 * whole.number, pytest.approx(4 * whole.tokens, rel=0.05))


def test_faster_devices_and_shorter_windows_take_less_and_more_devices_take_the_same_device_hours(sweep):
    config, inputs = sweep("recipe.budget.trials=8", "runtime.gpus_per_trial=1")
    slow, fast = (plan_tune(config, inputs, gpu(name), devices=1) for name in ("v100", "h200"))
    assert fast.work.hours < slow.work.hours
    many = plan_tune(config, inputs, gpu("v100"), devices=4)
    assert many.trials_at_once == 4
    assert many.work.device_hours == slow.work.device_hours
    assert many.work.hours == pytest.approx(slow.work.hours / 4)
    assert many.studies[0].fits is True
    json.dumps(many.plain())


def test_money_needs_a_price_and_spot_costs_restarts(sweep):
    config, inputs = sweep("runtime.gpus_per_trial=1")
    assert plan_tune(config, inputs, gpu(), devices=1).usd is None
    site = gpu(usd_per_hour=2.0, usd_per_spot_hour=2.0)
    found = plan_tune(config, inputs, site, devices=1)
    assert found.usd == pytest.approx(2 * found.work.device_hours)
    assert found.usd_spot > found.usd
    never = plan_tune(config, inputs, replace(site, preemptions_per_device_day=0.0), devices=1)
    assert never.usd_spot == pytest.approx(found.usd)


def test_confirmations_under_more_seeds_are_part_of_the_hours(sweep):
    config, _ = sweep("recipe.budget.trials=6", "recipe.scheduler=none")
    seeds, _ = sweep("recipe.budget.trials=6", "recipe.scheduler=none", "recipe.confirm_seeds=3")
    once, thrice = (expected_work(one, [5], [72.0], at_once=1) for one in (config, seeds))
    assert once.device_hours == pytest.approx(6 * 5 * 72 / 3600)
    assert thrice.device_hours == pytest.approx((6 + 3 * 2) * 5 * 72 / 3600)
    limited, _ = sweep("recipe.budget.device_hours=1.2", "recipe.scheduler=none", "recipe.confirm_seeds=3")
    assert expected_work(limited, [5], [72.0], at_once=1).trials == 6  # the rest is kept for the confirmations


def test_a_bert_is_planned_as_attention_to_everything_and_an_unknown_type_is_named(sweep, base_models, tmp_path):
    BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4).save_pretrained(tmp_path)
    shape = encoder_shape(str(tmp_path))
    assert (shape.hidden_size, shape.attention_window) == (64, 1024)
    config, inputs = sweep()
    [study] = inputs.studies
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "deberta-v2", "hidden_size": 64}))
    unknown = replace(study, bases=(replace(study.bases[0], path=str(tmp_path)),))
    found = plan_tune(config, replace(inputs, studies=(unknown,)), gpu(), devices=1)
    assert found.work is None
    assert "deberta-v2" in found.failures["s"]
    assert planned_costs(config, site_here(on_gpu=False))(unknown, [{}]) is None


def test_too_few_devices_for_one_trial_are_refused(sweep):
    config, inputs = sweep("runtime.gpus_per_trial=1", "runtime.workers_per_trial=4")
    with pytest.raises(ConfigError, match="a trial needs 4 devices, got 2"):
        plan_tune(config, inputs, gpu(), devices=2)


def test_attention_dropout_leaves_a_longformer_on_a_gpu_to_slower_code_and_the_plan_says_so(sweep):
    def planned(**fields):
        config, inputs = sweep("runtime.gpus_per_trial=1", **fields)
        return plan_tune(config, inputs, gpu(), devices=1).studies[0]

    usual, exact = planned(fixed={"dropout": 0.1}), planned(fixed={"dropout": 0.1, "attention_dropout": 0})
    assert "attention_dropout: 0" in usual.notes[0]
    assert not exact.notes
    assert exact.memory.total < usual.memory.total
