"""Memory is what ranks were seen to hold, and moves as the settings say."""

from dataclasses import replace

import pytest

from clinscale import models
from clinscale.plan import ModelFacts, RankSetup, rank_memory

BASE = RankSetup(stage=2, workers=4, precision="bf16", micro_rows=2, row_tokens=4096, on_gpu=True)


def facts(**overrides):
    return ModelFacts.of(models.shape_of(models.ModelConfig(hf_overrides=overrides)))


def measured_model(dropout):
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    config = models.ModelConfig(max_tokens=1024, hf_overrides=shape | {"hidden_dropout_prob": dropout})
    return ModelFacts.of(models.shape_of(config))


@pytest.mark.parametrize(
    ("stage", "workers", "precision", "rows", "dropout", "megabytes"),
    [
        (0, 1, "fp32", 1, 0.0, 389.2),
        (1, 1, "fp32", 1, 0.0, 505.4),
        (2, 1, "fp32", 1, 0.0, 495.1),
        (3, 1, "fp32", 1, 0.0, 560.8),
        (2, 2, "fp32", 2, 0.1, 520.5),
        (0, 2, "fp32", 1, 0.0, 389.2),
        (1, 2, "fp32", 1, 0.0, 406.9),
        (3, 2, "fp32", 1, 0.0, 463.9),
        (2, 1, "bf16", 2, 0.1, 506.2),
    ],
)
def test_a_rank_holds_what_was_measured(stage, workers, precision, rows, dropout, megabytes):
    """On 2026-11-29 with torch 2.13 and deepspeed 0.19.8, by `bench plan`'s own measure; within ten per cent."""
    setup = RankSetup(stage=stage, workers=workers, precision=precision, micro_rows=rows, row_tokens=1024)
    planned = rank_memory(measured_model(dropout), setup)
    assert (planned.total - planned.slack) / 1e6 == pytest.approx(megabytes, rel=0.1)


def test_sharding_and_offload_take_memory_from_the_device():
    model = facts()
    by_stage = [rank_memory(model, replace(BASE, stage=stage)) for stage in (0, 1, 2, 3)]
    assert by_stage[0].optimizer > 3.9 * by_stage[1].optimizer
    assert by_stage[2].weights > 3 * by_stage[3].weights
    offloaded = rank_memory(model, replace(BASE, offload_optimizer=True))
    assert offloaded.optimizer == 0
    assert offloaded.host >= by_stage[2].optimizer
    assert offloaded.total < by_stage[2].total


def test_activations_follow_rows_precision_and_checkpointing():
    model = facts()
    one, two = (rank_memory(model, replace(BASE, micro_rows=rows)) for rows in (1, 2))
    assert two.activations == pytest.approx(2 * one.activations)
    assert rank_memory(model, replace(BASE, precision="fp32")).activations > 1.8 * two.activations
    assert rank_memory(model, replace(BASE, activation_checkpointing=True)).activations < two.activations / 5


def test_hugging_face_s_attention_keeps_several_times_more():
    config = models.shape_of(models.ModelConfig())
    exact, hf = (ModelFacts.of(config, attention=name, attention_dropout=0.1) for name in ("exact", "hf"))
    kept = [rank_memory(model, replace(BASE, precision="fp32", on_gpu=False)).activations for model in (exact, hf)]
    assert 2 < kept[1] / kept[0] < 6


@pytest.mark.parametrize("name", models.FAMILIES)
def test_every_family_is_counted(name):
    model = ModelFacts.of(models.shape_of(models.ModelConfig(family=name)))
    memory = rank_memory(model, BASE)
    assert 1e9 < memory.total < 20e9
    assert min(memory.weights, memory.optimizer, memory.activations, memory.temporary) > 0
