"""A launch that cannot fit is refused before anything starts, and nothing else is."""

import pytest

from clinscale.errors import CapacityError
from clinscale.plan import check_launch
from clinscale.pretrain import PretrainConfig

HUGE = ("recipe.model.hf_overrides={hidden_size: 8192, num_hidden_layers: 48, intermediate_size: 32768}",)


def config(*overrides):
    return PretrainConfig.load(None, list(overrides), base={"name": "big", "recipe": {"shards": "nowhere"}})


def test_a_shape_that_cannot_fit_is_refused_with_number_limit_and_what_fits():
    wide = config("runtime.zero.stage=0", "runtime.num_workers=4")
    with pytest.raises(CapacityError) as caught:
        check_launch(wide, machine_bytes=8e9)
    assert "one row of 4096 tokens must fit into the 1.9 GiB of a worker here, got at least" in str(caught.value)
    assert "most of it" in str(caught.value)
    assert "runtime.ignore_plan=true" in str(caught.value)
    with pytest.raises(CapacityError, match="smaller model"):
        check_launch(config(*HUGE))  # no machine holds it
    check_launch(config(*HUGE, "runtime.ignore_plan=true"))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("recipe.model.size=tiny",),
        ("runtime.num_workers=[1,64]",),  # elastic: the fewest fit
        ("runtime.gpus_per_worker=1", "runtime.num_workers=64"),  # each has a GPU of its own
        ("recipe.model.pretrained=nobody/unknown",),  # the run itself will say it
    ],
)
def test_what_may_fit_is_not_refused(overrides):
    check_launch(config(*overrides), machine_bytes=24e9)


def test_a_share_of_a_gpu_has_a_share_of_its_memory():
    shared = ("runtime.gpus_per_worker=0.05", "runtime.zero.stage=0")
    with pytest.raises(CapacityError):
        check_launch(config(*shared), machine_bytes=24e9)


def test_the_switch_changes_neither_fingerprint_nor_what_is_recorded():
    assert "ignore_plan" not in config().plain()["runtime"]
    assert config("runtime.ignore_plan=true").plain()["runtime"]["ignore_plan"] is True
