"""A probe corrects the part of a plan that it measured, and says where it cannot measure."""

from dataclasses import replace

import pytest

from clinscale.engine import load_hardware
from clinscale.errors import ConfigError
from clinscale.plan import Probe, Reading, Run, Shape, Site, probed, site_here
from clinscale.plan.estimate import estimate
from clinscale.plan.probe import measure_attention
from clinscale.pretrain import PretrainConfig

AS_ASSUMED = Probe(
    gemm_flops=Reading(1.0, 1.0),
    bytes_per_s=Reading(1.0, 1.0),
    attention_flops=None,
    link_bytes_per_s=None,
    busy_share=0.0,
    seconds=1.0,
)


def run_of(*overrides):
    base = {"name": "x", "recipe": {"shards": "", "duration": "10steps", "rows_per_step": 4}}
    return Run.of(PretrainConfig.load(None, ["runtime.num_workers=2", *overrides], base=base))


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
        ({"attention_flops": Reading(1.0, 2.0)}, "attention_s"),
    ],
)
def test_what_is_half_as_fast_takes_twice_as_long(slower, part):
    before, after = step_of(AS_ASSUMED), step_of(replace(AS_ASSUMED, **slower))
    assert before == step_of(None)
    assert getattr(after, part) == pytest.approx(2 * getattr(before, part))


def test_a_slower_link_takes_longer_and_attention_that_was_not_measured_follows_the_products():
    before = step_of(None)
    linked = step_of(replace(AS_ASSUMED, link_bytes_per_s=Reading(0.5, 1.0)))
    assert linked.collectives_s == pytest.approx(2 * before.collectives_s, rel=0.01)
    slow = step_of(replace(AS_ASSUMED, gemm_flops=Reading(0.5, 1.0)))
    assert slow.attention_s == pytest.approx(2 * before.attention_s)


@pytest.mark.slow
def test_the_exact_attention_of_each_family_is_measured_and_no_other():
    rates, small = site_here(on_gpu=False).rates("fp32", 1), "recipe.model.size=tiny"
    # products so fast that little is subtracted for the projections
    measured = {"row_tokens": 1024, "gemm_flops": 1e12, "rates": rates}
    for family in ("longformer", "bigbird"):
        found = measure_attention(run_of(small, f"recipe.model.family={family}").model, "cpu", "fp32", **measured)
        assert found.measured > 0
        assert found.assumed == rates.attention_flops
    assert measure_attention(run_of(small, "runtime.attention=hf").model, "cpu", "fp32", **measured) is None


def test_a_gpu_that_is_not_here_is_not_measured():
    with pytest.raises(ConfigError, match="no GPU was found here"):
        probed(run_of("runtime.gpus_per_worker=1"), site_here(on_gpu=True))


@pytest.mark.slow
def test_a_whole_probe_has_every_part():
    found = probed(run_of("recipe.model.size=tiny"), site_here(on_gpu=False)).probe
    assert all(one.factor > 0 for one in (found.gemm_flops, found.bytes_per_s, found.link_bytes_per_s))
