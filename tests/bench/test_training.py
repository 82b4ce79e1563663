"""Benches of what surrounds a training step: ZeRO's memory, checkpoints; small, so no figure but shares is asserted."""

import pytest

from clinscale import bench, plan
from clinscale.bench.plan_steps import timed_steps


@pytest.mark.slow
def test_each_rank_keeps_what_arithmetic_says():
    record = bench.bench_zero(
        layers=1, hidden_size=64, stages=(0, 2), num_workers=(2,), precision="bf16", on_progress=lambda _: None
    )
    assert set(record.ratios) == {"zero_0_workers_2", "zero_2_workers_2"} == set(record.at_most)
    for found in record.ratios.values():
        assert found.median == pytest.approx(1, abs=0.05)
    sharded = {row["stage"]: row["bytes"] for row in record.details["per_rank"]}
    assert len(sharded[2]) == 2
    assert max(sharded[2]) < 0.75 * min(sharded[0])


def test_the_arithmetic_is_that_of_the_zero_paper():
    """Rajbhandari et al. 2020, figure 1: 7.5 B parameters in half precision on 64 GPUs, gradients aside."""
    trained = 7_500_000_000
    assert plan.model_states(trained, 0, 0, 0, 64, "bf16").total == pytest.approx(120e9 - 15e9)
    assert plan.model_states(trained, 0, 0, 1, 64, "bf16").total == pytest.approx(31.4e9 - 15e9, rel=0.01)


@pytest.mark.slow
def test_a_checkpoint_is_compared_with_a_save_that_holds_the_same():
    record = bench.bench_checkpoint(
        layers=1, hidden_size=64, tokens=512, stage=2, repeats=1, on_progress=lambda _: None
    )
    assert record.equal is True
    assert record.at_most == ("share_of_training",)
    assert record.ratios["stall_blocking_over_ours"].median > 0
    assert 0 < record.ratios["share_of_training"].median < 1
    assert record.details["checkpoint_bytes"] > 40e6


@pytest.mark.slow
def test_a_planned_step_stands_beside_the_same_step_timed_here():
    shape = {"layers": 1, "hidden_size": 64, "vocab_size": 512}
    steps = list(
        timed_steps(shape, tokens=(1024,), rows=(1, 2), precision="fp32", repeats=1, on_progress=lambda _: None)
    )
    assert [(step.family, step.rows) for step in steps] == [
        (family, rows) for family in ("longformer", "bigbird") for rows in (1, 2)
    ]
    for one, two in zip(steps[::2], steps[1::2], strict=True):
        assert min(one.measured_s) > 0
        assert 0 < one.planned_s == pytest.approx(sum(one.parts.values()))  # of a probe of its own
        assert one.name.endswith("1x1024_fp32")
        assert (two.error < 0) == (two.planned_s < two.measured_s[0])
