"""Time of a step by part; constants are not bent to the figures that they are tested on."""

from dataclasses import replace

import pytest

from clinscale import models
from clinscale.bench import anchors
from clinscale.engine import load_hardware
from clinscale.plan import ModelFacts, StepSetup, network_of, rates_of, step_time

SETUP = StepSetup(row_tokens=4096, rows=64, micro_rows=8, workers=8, precision="bf16", mask_share=0.15)


@pytest.fixture(scope="module")
def model():
    return ModelFacts.of(models.shape_of(models.ModelConfig()))


def timed(model, setup, device="h100", *, link="infiniband-ndr", per_node=8):
    hardware = load_hardware()
    known = hardware.device(device)
    network = network_of(hardware, known, between=link, devices_per_node=per_node, ports_per_node=1)
    return step_time(model, setup, rates_of(known, setup.precision), network)


@pytest.mark.parametrize("name", ["v100", "t4", "a100-40gb", "h100", "h200", "l4", "l40s"])
def test_no_device_is_faster_than_its_data_sheet(model, name):
    setup = replace(SETUP, workers=1, precision="fp16")
    tokens_per_s = setup.rows * setup.row_tokens / timed(model, setup, name).total_s
    flops = models.train_flops_per_token(model.config, 4096, head_share=0.15)
    assert 0.05 < tokens_per_s * flops / load_hardware().device(name).half_flops < 0.75


def test_collectives_grow_with_stage_micro_batches_and_slow_links(model):
    one = timed(model, replace(SETUP, workers=1))
    assert one.collectives_s == 0
    by_stage = [timed(model, replace(SETUP, micro_rows=4, stage=stage)).collectives_s for stage in (0, 1, 2, 3)]
    assert by_stage[0] == by_stage[1] < by_stage[2] < by_stage[3]
    two_nodes = replace(SETUP, workers=16)
    assert (
        timed(model, two_nodes, link="ethernet-10").collectives_s
        > 20 * timed(model, two_nodes, per_node=16).collectives_s
    )


def test_the_slowest_worker_decides(model):
    """18 rows on 16 workers take as long as 32."""
    assert timed(model, replace(SETUP, rows=18, workers=16, micro_rows=2)).dense_s == pytest.approx(
        timed(model, replace(SETUP, rows=32, workers=16, micro_rows=2)).dense_s
    )


def test_checkpointing_costs_a_third_more_and_offload_copies(model):
    plain, again = (timed(model, replace(SETUP, activation_checkpointing=flag)) for flag in (False, True))
    assert again.dense_s == pytest.approx(4 / 3 * plain.dense_s)
    assert plain.offload_s == 0 < timed(model, replace(SETUP, offload_optimizer=True)).offload_s


def test_anchors_are_reported_with_their_errors_and_only_our_own_row_is_fitted():
    found = {anchor.name: anchor for anchor in anchors()}
    assert [anchor.name for anchor in found.values() if anchor.is_fitted] == ["longformer_on_h200"]
    assert abs(found["longformer_on_h200"].error) < 0.05
    assert found.pop("paper_on_6_v100").error > 1  # a bound: the run was slower than any arithmetic
    assert all(abs(anchor.error) < 0.4 for anchor in found.values())
    assert all(anchor.source for anchor in found.values())
