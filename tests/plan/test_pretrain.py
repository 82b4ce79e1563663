"""A plan answers from the verb's own config: what fits, how long, what it costs, what would be better."""

import dataclasses

import pytest

from clinscale.engine import load_hardware
from clinscale.errors import ConfigError
from clinscale.plan import Run, Site, plan_pretrain, simulate_pretrain
from clinscale.plan.estimate import memory_of, snapshot_bytes
from clinscale.plan.simulation import daly_s
from clinscale.pretrain import PretrainConfig


def config(*overrides, recipe="clinical-longformer"):
    base = {"name": "plan", "recipe": {"shards": "", "attention_dropout": 0}}
    return PretrainConfig.load(recipe, overrides, base=base)


def site(name="h100", **changes):
    hardware = load_hardware()
    of_device = {key: changes.pop(key) for key in list(changes) if key.startswith(("usd", "memory"))}
    return Site(
        hardware=hardware,
        device_name=name,
        device=hardware.device(name).model_copy(update=of_device),
        **changes,
    )


def planned(*overrides, at=None, recipe="clinical-longformer", sizes=(1, 2, 4, 8, 16, 32), **known):
    return plan_pretrain(Run.of(config(*overrides, recipe=recipe), **known), at or site(), sizes=sizes)


def test_the_paper_s_run_fits_and_takes_hours():
    found = planned("runtime.num_workers=1")
    assert found.asked.fits
    assert 0.1 < found.asked.days < 1
    assert 0.15 < found.asked.mfu < 0.5
    assert found.asked.usd is None
    assert found.asked.kwh == pytest.approx(found.asked.device_hours * 0.7)
    assert [one.shape.workers for one in found.sizes] == [1, 2, 4, 8, 16]  # 18 rows a step: 32 would have none
    assert 1 < found.pays_up_to < 16


def test_missing_prices_leave_out_money_alone():
    priced = planned(at=site(usd_per_hour=2.0, usd_per_spot_hour=0.5))
    free = planned()
    assert priced.asked.usd == pytest.approx(2 * priced.asked.device_hours)
    assert priced.asked.usd_spot < priced.asked.usd
    assert priced.asked.preemptions > 0
    assert (free.asked.usd, free.asked.usd_spot) == (None, None)
    assert free.asked.days == priced.asked.days


def test_a_micro_batch_is_halved_as_the_run_halves_it():
    small = site(memory_bytes=6e9)
    found = planned("runtime.num_workers=1", "runtime.micro_rows_per_gpu=16", at=small)
    assert found.asked.fits
    assert found.asked.shape.micro_rows in (1, 2, 4, 8)
    assert found.asked.memory.total <= 6e9


def test_what_does_not_fit_is_answered_with_the_nearest_that_does():
    found = planned("runtime.num_workers=2", "runtime.zero.stage=0", at=site(memory_bytes=3.2e9))
    assert found.asked.fits is False
    assert found.asked.shape.micro_rows == 1
    assert found.nearest
    assert all(one.fits and one.memory.total <= 3.2e9 for one in found.nearest)
    assert planned(at=site(memory_bytes=1e9)).nearest == ()


def test_the_cheapest_and_the_fastest_are_among_the_sizes():
    found = planned(at=site(usd_per_hour=1.0))
    assert found.cheapest.usd == min(one.usd for one in found.sizes)
    assert found.fastest.days == min(one.days for one in found.sizes)


def test_every_stage_with_and_without_offload_is_shown():
    stages = [(one.shape.zero.stage, one.shape.zero.offload_optimizer) for one in planned().stages]
    assert stages == [*((n, "none") for n in (0, 1, 2, 3)), *((n, "cpu") for n in (1, 2, 3))]
    muon = planned("recipe.optimizer.name=muon", "runtime.zero.stage=0")
    assert [one.shape.zero.stage for one in muon.stages] == [0]


def test_attention_dropout_on_a_gpu_is_planned_as_the_code_that_runs_it():
    exact, hf = planned(), planned("recipe.attention_dropout=null")
    assert any("attention_dropout=0" in note for note in hf.run.notes)
    assert hf.asked.step.total_s > 1.5 * exact.asked.step.total_s
    bigbird = planned("recipe.attention_dropout=null", recipe="clinical-bigbird")
    assert not bigbird.run.notes  # HF's block-sparse attention has no dropout
    assert bigbird.run.model.config.model_type == "big_bird"


def test_a_run_of_unknown_length_is_planned_by_its_step():
    found = planned("recipe.duration=2epochs", sizes=[1])
    assert (found.asked.days, found.asked.usd) == (None, None)
    assert found.asked.tokens_per_s > 0


def test_short_rows_cost_less():
    cut = planned("recipe.short_rows.row_tokens=512")
    assert cut.asked.step.attention_s < planned().asked.step.attention_s


def test_a_causal_phase_costs_the_head_for_every_token_in_time_and_memory():
    plain, causal = planned(), planned("recipe.causal.share=0.25")
    assert causal.asked.step.head_s == pytest.approx(plain.asked.step.head_s * (0.75 + 0.25 / 0.15), rel=0.01)
    assert causal.asked.step.dense_s == pytest.approx(plain.asked.step.dense_s)
    shape = plain.asked.shape
    assert memory_of(causal.run, causal.site, shape).total > memory_of(plain.run, plain.site, shape).total


def test_small_batches_are_more_steps_of_as_many_tokens():
    tokens = ("recipe.duration=1e9tokens", "recipe.rows_per_step=36", "recipe.optimizer.warmup_steps=null")
    plain, cut = planned(*tokens), planned(*tokens, "recipe.small_batches.rows_per_step=18")
    assert cut.run.total_steps == pytest.approx(1.25 * plain.run.total_steps, abs=1)
    assert cut.plain()["mean_rows_per_step"] == pytest.approx(36 / 1.25)
    read = [found.asked.tokens_per_s * found.asked.days * 86400 for found in (plain, cut)]
    assert read == pytest.approx([1e9, 1e9], rel=1e-3)
    assert cut.asked.days > plain.asked.days, "updates and collectives cost"
    both = planned(
        *tokens,
        "recipe.small_batches.rows_per_step=18",
        "recipe.short_rows.row_tokens=512",
        "recipe.short_rows.share=0.9",
    )
    assert both.asked.step.attention_s < cut.asked.step.attention_s


@pytest.mark.parametrize(
    ("overrides", "device", "said"),
    [
        (["recipe.row_tokens=8192"], "h100", "4096 positions, got 8192"),
        ([], "v100", "recipe.precision=fp16"),
        (["recipe.short_rows.row_tokens=500"], "h100", "must divide"),
        (["recipe.small_batches.rows_per_step=8"], "h100", "take a multiple of 18 rows"),
        (["recipe.optimizer.warmup_steps=300000"], "h100", "warmup_steps must be at most 199999"),
        (["recipe.model.pretrained=nobody/unknown"], "h100", "nobody/unknown"),
    ],
)
def test_impossible_requests_name_number_and_limit(overrides, device, said):
    with pytest.raises(ConfigError, match=said):
        planned(*overrides, at=site(device))


def test_a_cpu_is_planned_by_its_cores():
    def days(cores):
        own = config("runtime.gpus_per_worker=0", "runtime.num_workers=1", f"runtime.cpus_per_worker={cores}")
        return plan_pretrain(Run.of(own), site("cpu", host_bytes_per_device=64e9), sizes=[1]).asked.days

    assert 10 < days(16) < days(4) < days(1)


def test_the_json_holds_every_part():
    plain = planned(at=dataclasses.replace(site(), device_name="mine")).plain()
    assert {"weights", "gradients", "optimizer", "activations", "temporary", "slack", "total"} <= set(
        plain["plan"]["memory_bytes"]
    )
    assert {"dense_s", "attention_s", "head_s", "traffic_s", "collectives_s", "data_s", "checkpoint_s"} <= set(
        plain["plan"]["step_s"]
    )
    assert len(plain["stages"]) == 7
    assert plain["cluster_sizes"][0]["scaling_efficiency"] == 1


def test_a_simulated_checkpoint_stalls_training_as_long_as_the_planned_one():
    """Below ZeRO 3 rank 0 copies all weights, however many ranks there are."""
    run = Run.of(config("runtime.num_workers=8", "runtime.zero.stage=2"))
    at = site(preemptions_per_device_day=2.0)
    step, between_s = plan_pretrain(run, at, sizes=()).asked.step, 86400 / (2.0 * 8)
    stall_s = step.checkpoint_s * run.config.runtime.checkpoint_every_steps
    expected = round(daly_s(stall_s, between_s) / (step.total_s - step.checkpoint_s))
    assert simulate_pretrain(run, at, replace_s=600).young_daly_steps == expected


def test_a_checkpoint_holds_masters_and_moments_and_below_zero_3_the_weights():
    """As DeepSpeed writes them: `clinscale bench checkpoint` found these sums."""
    run = Run.of(config("recipe.precision=fp32"))
    trained, weights = run.model.trained, 4 * run.model.parameters
    held = [8 * trained + weights, 12 * trained + weights, 12 * trained + weights, 12 * trained]
    assert [snapshot_bytes(run, stage, 1) for stage in range(4)] == held
    assert snapshot_bytes(run, 2, 8) == 12 * trained / 8 + weights
