"""A probe corrects the part of a plan that it measured, and says where it cannot measure."""

from dataclasses import replace

import pytest

from clinscale.engine import load_hardware
from clinscale.errors import ConfigError
from clinscale.plan import Probe, Reading, Run, Shape, Site, Work, probe_of, probed, rates_of, site_here
from clinscale.plan.estimate import estimate
from clinscale.pretrain import PretrainConfig

AS_ASSUMED = Probe(
    gemm_flops=Reading(1.0, 1.0),
    bytes_per_s=Reading(1.0, 1.0),
    update_bytes_per_s=Reading(1.0, 1.0),
    attention_flops=None,
    link_bytes_per_s=None,
    busy_share=0.0,
    seconds=1.0,
)


def run_of(*overrides):
    base = {"name": "x", "recipe": {"shards": "", "duration": "10steps", "rows_per_step": 4}}
    return Run.of(PretrainConfig.load(None, ["runtime.num_workers=2", *overrides], base=base))


def run():
    """Nothing: its seconds are given."""


def step_of(probe):
    run = run_of()
    cpu = load_hardware().device("cpu")
    site = Site(hardware=load_hardware(), device_name="cpu", device=cpu, host_bytes_per_device=64e9, probe=probe)
    runtime = run.config.runtime
    shape = Shape(workers=2, zero=runtime.zero, activation_checkpointing=False, micro_rows=2)
    return estimate(run, site, shape).step


@pytest.mark.parametrize(
    ("slower", "part"),
    [
        ({"gemm_flops": Reading(0.5, 1.0)}, "dense_s"),
        ({"bytes_per_s": Reading(2.0, 4.0)}, "traffic_s"),
        ({"update_bytes_per_s": Reading(2.0, 4.0)}, "optimizer_s"),
        ({"attention_flops": Reading(1.0, 2.0)}, "attention_s"),
    ],
)
def test_what_is_half_as_fast_takes_twice_as_long(slower, part):
    before, after = step_of(AS_ASSUMED), step_of(replace(AS_ASSUMED, **slower))
    assert before == step_of(None)
    assert getattr(after, part) == pytest.approx(2 * getattr(before, part))


def test_mfu_is_a_share_of_the_products_that_a_cpu_reaches_and_of_a_gpu_s_data_sheet():
    fast = replace(AS_ASSUMED, gemm_flops=Reading(3.0, 2.0))
    cpu, gpu = (rates_of(load_hardware().device(name), "fp32") for name in ("cpu", "h100"))
    assert fast.corrected(cpu).peak_flops == fast.corrected(cpu).gemm_flops == 1.5 * cpu.gemm_flops
    assert fast.corrected(gpu).peak_flops == gpu.peak_flops


def test_a_slower_link_takes_longer_and_attention_that_was_not_measured_follows_the_products():
    before = step_of(None)
    linked = step_of(replace(AS_ASSUMED, link_bytes_per_s=Reading(0.5, 1.0)))
    assert linked.collectives_s == pytest.approx(2 * before.collectives_s, rel=0.01)
    slow = step_of(replace(AS_ASSUMED, gemm_flops=Reading(0.5, 1.0)))
    assert slow.attention_s == pytest.approx(2 * before.attention_s)


def test_a_rate_is_that_of_the_median_turn_over_all_layers_and_the_head():
    works = {
        "layer_products": Work(run, 100, times=3),
        "head_products": Work(run, 200),
        "layer_passes": Work(run, 10, times=3),
        "head_passes": Work(run, 30),
        "update": Work(run, 8),
        "attention": Work(run, 50, product_flops=100),
    }
    seconds = dict.fromkeys(works, 1.0) | {"head_products": 2.0, "head_passes": 3.0, "attention": 3.0}
    slow = {name: 9 * one for name, one in seconds.items()}
    rates = site_here(on_gpu=False).rates("fp32", 1)
    found = probe_of(works, [seconds, slow, seconds], rates, busy_share=0.5)
    assert found.gemm_flops == Reading(100.0, rates.gemm_flops)
    assert found.bytes_per_s == Reading(10.0, rates.bytes_per_s)
    assert found.update_bytes_per_s.measured == 8
    assert found.attention_flops == Reading(25.0, rates.attention_flops)  # a second of three is its projections'
    assert found.is_busy
    lost = probe_of(works, [seconds | {"attention": 1.0}], rates, busy_share=0.0)
    assert lost.attention_flops is None


def test_a_gpu_that_is_not_here_is_not_measured():
    with pytest.raises(ConfigError, match="no GPU was found here"):
        probed(run_of("runtime.gpus_per_worker=1"), site_here(on_gpu=True))


@pytest.mark.slow
def test_a_whole_probe_has_every_part():
    found = probed(run_of("recipe.model.size=tiny"), site_here(on_gpu=False)).probe
    assert all(one.factor > 0 for one in (found.gemm_flops, found.bytes_per_s, found.update_bytes_per_s))
    assert found.attention_flops.factor > 0
    assert found.link_bytes_per_s.factor > 0
