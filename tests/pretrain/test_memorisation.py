"""The memorisation test finds a model that knows its canaries by heart, and seldom one that has not seen them."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from clinscale import corpus, models
from clinscale.corpus.canaries import ALTERNATIVES
from clinscale.engine import TorchEngine
from clinscale.pretrain import PretrainRecipe, memorised, p_value
from clinscale.pretrain.memorisation import measure_exposures

STEPS, ROWS, ROW_TOKENS, ROWS_PER_STEP = 30, 48, 32, 16
MOST_BITS = np.log2(ALTERNATIVES + 1)


@pytest.fixture(scope="module")
def recipe(shards):
    dry = {"attention_window": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values = {
        "shards": shards.uri,
        "model": {"size": "tiny", "hf_overrides": dry},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 10},
        "canaries": {"count": 4, "repeats": 8},
    }
    return PretrainRecipe.parse(values, source="test")


@pytest.fixture(scope="module")
def special(shards):
    return shards.manifest.special


@pytest.fixture(scope="module")
def trained(recipe, shards, special, tmp_path_factory):
    """The folder of a model that has read few rows often, canaries in many of them."""
    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    rows = shards.rows("train", ROW_TOKENS)
    few = corpus.Rows(
        [np.concatenate([rows[index][1:-1] for index in range(ROWS)])], row_tokens=ROW_TOKENS, special=special
    )
    few = corpus.plant_canaries(few, recipe.canaries, seed=recipe.seed, rows_read=STEPS * ROWS_PER_STEP)
    model = models.prepare_for_mlm(models.build(recipe.model, tokenizer, seed=0))
    engine = TorchEngine(model, recipe.optimizer, total_steps=STEPS)
    model.train()
    for step in range(STEPS):
        batch = corpus.masked_batch(
            few,
            step=step,
            rank=0,
            world_size=1,
            rows_per_step=ROWS_PER_STEP,
            seed=recipe.seed,
            masking=recipe.masking,
            special=special,
        )
        engine.backward(engine.forward({name: torch.from_numpy(array) for name, array in batch.items()}).loss)
        engine.step()
    return models.save_hf(model, tokenizer, tmp_path_factory.mktemp("trained") / "hf")


def test_canaries_read_again_and_again_are_found(trained, recipe, special):
    exposures = measure_exposures(trained, recipe, special)
    assert np.mean(exposures) > MOST_BITS - 2, "nearly as exposed as can be told"
    assert memorised(exposures)
    assert p_value(exposures) < 1e-9


def test_canaries_of_another_seed_which_the_model_never_read_are_not(trained, recipe, special):
    assert not memorised(measure_exposures(trained, recipe.model_copy(update={"seed": 1}), special))


@pytest.mark.parametrize("is_trained", [False, True])
def test_secrets_that_were_never_read_have_uniform_ranks(is_trained, base_models, trained, recipe, special):
    several = recipe.model_copy(update={"seed": 2, "canaries": corpus.CanaryConfig(count=80)})
    exposures = np.array(measure_exposures(trained if is_trained else base_models["bigbird"], several, special))
    assert kstest(2**-exposures, "uniform").pvalue > 0.001
    assert np.mean(exposures) == pytest.approx(1 / np.log(2), abs=0.6)


def uniform_exposures(random, count):
    """Of a model without any memory, by definition."""
    return MOST_BITS - np.log2(random.integers(1, ALTERNATIVES + 2, count))


@pytest.mark.parametrize("count", [1, 8, 64])
def test_false_alarms_come_as_seldom_as_stated(count):
    random = np.random.default_rng(count)
    draws = 3000
    p_values = np.array([p_value(uniform_exposures(random, count)) for _ in range(draws)])
    for stated in (0.05, 0.01):
        assert np.mean(p_values <= stated) < stated + 3 * np.sqrt(stated * (1 - stated) / draws)
    assert np.mean(p_values <= 0.05) > 0.02, "a test that never speaks is none"


def test_one_canary_known_by_heart_is_enough_and_so_is_a_weak_memory_of_all():
    ordinary = [1.4] * 7
    assert not memorised([*ordinary, 5.0]), "among eight, one of five bits is no wonder"
    assert memorised([*ordinary, 9.0])
    assert memorised([4.0] * 8), "none stands out, together they do"
    assert p_value([MOST_BITS]) == pytest.approx(2 / (ALTERNATIVES + 1))
    assert p_value([0.0, 0.0]) == 1.0
