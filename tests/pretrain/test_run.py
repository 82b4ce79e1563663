"""Pretraining on real Ray Train workers with real DeepSpeed; a group costs seconds, so each test asks a lot."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import transformers
from ray import cloudpickle

from clinscale import registry, runtime
from clinscale.engine import consolidated_state
from clinscale.errors import ClusterError, ConfigError, DataError
from clinscale.pretrain import PretrainConfig, pretrain, run_config
from clinscale.pretrain import worker as worker_module
from clinscale.pretrain.worker import WorkerTask, train_worker

STEPS = 6
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file


def config(shards, *, name="base", **changes):
    recipe = {
        "shards": shards.uri,
        "model": {"size": "tiny", "family": changes.pop("family", "longformer")},
        "row_tokens": 128,
        "rows_per_step": 8,
        "duration": f"{STEPS}steps",
        "optimizer": {"learning_rate": 1e-3},
        "global_first_token": True,
    }
    settings = {"log_every_steps": 1, "checkpoint_every_steps": 2, "evaluate_every_steps": 100}
    settings |= {"evaluation_rows": 16, **changes.pop("runtime", {})}
    return PretrainConfig.parse({"name": name, "recipe": recipe | changes, "runtime": settings}, source="test")


def test_typos_and_batches_that_do_not_divide_are_refused(shards):
    with pytest.raises(ConfigError, match=r"did you mean rows_per_step\?"):
        config(shards, row_per_step=8)
    with pytest.raises(ConfigError, match=r"multiple of runtime\.num_workers=3, got 8"):
        config(shards, runtime={"num_workers": 3})
    with pytest.raises(ConfigError, match="must divide a worker's 4 rows, got 3"):
        config(shards, runtime={"micro_rows_per_gpu": 3})


def test_missing_shards_and_rows_longer_than_the_model_stop_before_any_worker(shards, tracking, tmp_path):
    gone = config(shards).model_copy(update={"recipe": config(shards).recipe.model_copy(update={"shards": "/no"})})
    with pytest.raises(DataError, match="/no"):
        pretrain(gone, tracking=tracking, home=tmp_path)
    with pytest.raises(ConfigError, match="row_tokens=9999 is longer than the model's 1024 positions"):
        pretrain(config(shards, row_tokens=9999), tracking=tracking, home=tmp_path)
    with pytest.raises(ConfigError, match=r"no pretraining run 'bas' in .*; known: none|did you mean base"):
        run_config(tmp_path / "nothing", "bas")


@pytest.mark.ray
def test_a_run_ends_as_a_registered_plain_hf_model_and_its_name_is_kept(shards, tracking, tmp_path, ray_cluster):
    seen = []
    result = pretrain(config(shards), tracking=tracking, home=tmp_path, on_progress=lambda *at: seen.append(at[0]))
    assert seen == list(range(STEPS + 1))
    assert result.perplexity_after < result.perplexity_before
    plain = transformers.AutoModelForMaskedLM.from_pretrained(result.folder)
    assert plain.lm_head.decoder.weight is plain.longformer.embeddings.word_embeddings.weight
    assert transformers.AutoTokenizer.from_pretrained(result.folder).model_max_length == 1024
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
    losses = registry.metric_history(tracking, record.id, "train/loss")
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert [step for step, _ in registry.metric_history(tracking, record.id, "eval/perplexity")] == [0, STEPS]
    assert result.version.aliases == ("champion",)
    assert result.version.tags[registry.Tag.SHARDS] == shards.fingerprint

    again = pretrain(config(shards), tracking=tracking, home=tmp_path, on_progress=lambda *at: seen.append(at[0]))
    assert again.version == result.version
    assert len(seen) == STEPS + 1, "a finished run trained again"
    assert len(registry.read_runs(tracking, kind="pretrain")) == 1
    assert PretrainConfig.load(run_config(tmp_path, "base")) == config(shards)
    with pytest.raises(ConfigError, match=r"differing: .*seed: 0 -> 1"):
        pretrain(config(shards, seed=1), tracking=tracking, home=tmp_path)


def trained(shards, folder, *, function=train_worker, **changes):
    """Losses by step and the consolidated weights of one group."""
    settings = config(shards, **changes)
    logged = []
    result = runtime.run_workers(
        function,
        WorkerTask(config=settings, shards_uri=shards.uri, row_tokens=128, total_steps=STEPS),
        num_workers=settings.runtime.num_workers,
        cpus_per_worker=1,
        gpus_per_worker=0,
        storage_path=str(folder),
        name="run",
        num_to_keep=2,
        max_failures=1,
        on_log=logged.append,
    )
    losses = {int(at["step"]): at["train/loss"] for at in logged if "train/loss" in at}
    return losses, consolidated_state(result.checkpoint_dir), logged


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory, ray_cluster):
    return trained(shards, tmp_path_factory.mktemp("zero2"))


@pytest.mark.ray
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_every_zero_stage_trains_the_same_model(stage, undisturbed, shards, tmp_path):
    losses, weights, _ = trained(shards, tmp_path, runtime={"zero": {"stage": stage}})
    assert losses == pytest.approx(undisturbed[0], abs=1e-4)
    expected = undisturbed[1]
    assert set(expected) <= set(weights)
    assert all(torch.allclose(weights[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.ray
def test_the_number_of_workers_and_micro_batches_changes_no_number(shards, tmp_path, ray_cluster):
    """Without dropout, which is drawn per rank."""
    model = {"size": "tiny", "hf_overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
    two, _, _ = trained(shards, tmp_path / "two", model=model)
    one, _, _ = trained(shards, tmp_path / "one", model=model, runtime={"num_workers": 1, "micro_rows_per_gpu": 2})
    assert one == pytest.approx(two, abs=1e-5)


def killed_once(context, task):
    """`train_worker`, whose rank 1 dies without a word in the middle, once."""
    marker = Path(os.environ.get("TMPDIR", "/tmp")) / f"killed-{task.config.name}"
    before = worker_module._Loop.step

    def step(self, number):
        if number == 3 and context.rank == 1 and not marker.exists():
            marker.touch()
            os._exit(1)
        return before(self, number)

    worker_module._Loop.step = step
    try:
        train_worker(context, task)
    finally:
        worker_module._Loop.step = before


@pytest.mark.ray
@pytest.mark.chaos
def test_a_run_whose_worker_is_killed_ends_bit_identical(undisturbed, shards, tmp_path):
    name = f"chaos-{os.getpid()}"
    losses, weights, logged = trained(shards, tmp_path, function=killed_once, name=name)
    assert (Path(os.environ.get("TMPDIR", "/tmp")) / f"killed-{name}").exists(), "nobody was killed"
    assert [at["step"] for at in logged].count(3) == 2, "the group did not go back to its last checkpoint"
    assert losses == undisturbed[0]
    assert all(torch.equal(weights[name], undisturbed[1][name]) for name in weights)


def raise_with_note_text(context, task):
    raise ValueError("canary: the patient's name")


@pytest.mark.ray
def test_a_failing_worker_is_named_without_its_text(shards, tmp_path, ray_cluster):
    with pytest.raises(ClusterError, match=r"worker \d: ValueError") as caught:
        trained(shards, tmp_path, function=raise_with_note_text)
    assert "canary" not in str(caught.value)


@pytest.mark.ray
def test_ctrl_c_ends_the_run_as_killed_and_the_next_start_continues(shards, tracking, tmp_path, ray_cluster):
    import _thread

    def press_ctrl_c(step, total, metrics):
        if step == 4:
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        pretrain(config(shards, family="bigbird"), tracking=tracking, home=tmp_path, on_progress=press_ctrl_c)
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "KILLED"
    result = pretrain(config(shards, family="bigbird"), tracking=tracking, home=tmp_path)
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
    steps = [step for step, _ in registry.metric_history(tracking, record.id, "train/loss")]
    assert steps == list(range(1, STEPS + 1)), "a step is missing or logged twice"
    assert json.loads((result.folder / "config.json").read_text())["model_type"] == "big_bird"
