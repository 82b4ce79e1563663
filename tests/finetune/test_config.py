"""Settings that no fine-tuning can have are refused before anything is read."""

import pytest

from clinscale.errors import ConfigError
from clinscale.finetune import FinetuneConfig, FinetuneRecipe

BASE = {"name": "r", "task": "t", "data": "d", "recipe": {"model": "m"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.micro_batch_size=-2", "recipe.micro_batch_size: .* greater than or equal to 1, got -2"),
        ("recipe.max_tokens=0", "recipe.max_tokens: .* greater than or equal to 8, got 0"),
        ("recipe.stride_tokens=-1", "recipe.stride_tokens: .* greater than or equal to 0"),
        ("runtime.device=GPU", "runtime.device: .* 'cpu' or 'cuda'"),
        ("recipe.seed=-1", "recipe.seed: .* greater than or equal to 0"),
        ("recipe.seed=4294967296", "recipe.seed: .* less than 4294967296"),
        ("recipe.optimizer.betas=[0.9, 1.5]", r"betas must be from 0 to below 1 .*, got \[0\.9, 1\.5\]"),
        ("recipe.optimizer.eps=-1", "eps above 0, got .* and -1"),
        ("recipe.optimizer.learning_rate=1e-320", "learning_rate must be between 0 and 1 in fp32, got 1e-320"),
    ],
)
def test_numbers_that_nothing_can_be_trained_with_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig.load(None, [override], base=BASE)


def test_another_learning_rate_leaves_decay_and_warm_up_as_fine_tuning_has_them():
    usual = FinetuneRecipe(model="m").optimizer
    changed = FinetuneConfig.load(None, ["recipe.optimizer.learning_rate=1e-5"], base=BASE).recipe.optimizer
    assert changed == usual.model_copy(update={"learning_rate": 1e-5})


def test_several_seeds_are_all_seeds():
    last = [f"recipe.seed={2**32 - 2}"]
    assert FinetuneConfig.load(None, [*last, "seeds=2"], base=BASE).seeds == 2
    with pytest.raises(ConfigError, match=r"make seeds up to 4294967296, and the last one is 4294967295"):
        FinetuneConfig.load(None, [*last, "seeds=3"], base=BASE)
