"""Pretraining with real DeepSpeed on groups of forks; what only Ray Train does, on Ray Train."""

import contextlib
import functools
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import forked_ray
import psutil
import pytest
import torch
import transformers
from ray import cloudpickle

from clinscale import corpus, models, registry, runtime
from clinscale.engine import consolidated_state, newest_checkpoint
from clinscale.errors import (
    CapacityError,
    ChangedDataError,
    ClinscaleError,
    ClusterError,
    ConfigError,
    DataError,
    OutOfMemoryError,
)
from clinscale.pretrain import (
    MEMORISATION_FILE,
    PretrainConfig,
    memorised,
    p_value,
    pretrain,
    run_config,
    verify_resume,
)
from clinscale.pretrain.run import CHECKPOINTS, train, worker_task
from clinscale.pretrain.worker import build_model, train_worker

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
        "canaries": {"count": 2, "repeats": 2},
    }
    settings = {"log_every_steps": 1, "checkpoint_every_steps": 2, "evaluate_every_steps": 100}
    settings |= {"evaluation_rows": 16, **changes.pop("runtime", {})}
    return PretrainConfig.parse({"name": name, "recipe": recipe | changes, "runtime": settings}, source="test")


def test_missing_shards_and_rows_longer_than_the_model_stop_before_any_worker(shards, tracking, tmp_path):
    gone = config(shards).model_copy(update={"recipe": config(shards).recipe.model_copy(update={"shards": "/no"})})
    with pytest.raises(DataError, match="/no"):
        pretrain(gone, tracking=tracking, home=tmp_path)
    with pytest.raises(ConfigError, match="row_tokens must be at most the model's 1024 positions, got 9999"):
        pretrain(config(shards, row_tokens=9999), tracking=tracking, home=tmp_path)
    with pytest.raises(ConfigError, match=r"short_rows.row_tokens must divide rows of 128 tokens, got 100"):
        pretrain(config(shards, name="short", short_rows={"row_tokens": 100}), tracking=tracking, home=tmp_path)
    for duration in ("0.4steps", "2.5steps", "1tokens", "0.001epochs"):
        with pytest.raises(
            ConfigError, match=rf"duration={duration} must be whole steps, and no less than half of"
        ):
            worker_task(config(shards, duration=duration), shards, tmp_path / "short")
    with pytest.raises(ConfigError, match=r"duration=1epochs .* a step reads 99999 rows of 128 tokens"):
        worker_task(config(shards, duration="1epochs", rows_per_step=99999), shards, tmp_path / "short")
    with pytest.raises(ConfigError, match=r"warmup_steps must be at most 0 in a training of 1 steps, got 1"):
        worker_task(config(shards, duration="1steps", optimizer={"warmup_steps": 1}), shards, tmp_path / "short")
    with pytest.raises(ConfigError, match=r"no pretraining run 'bas' in .*; known: none|did you mean base"):
        run_config(tmp_path / "nothing", "bas")
    with pytest.raises(
        ConfigError, match=r"needs 50 training rows .*and the run reads 48; lower recipe\.canaries"
    ):
        pretrain(
            config(shards, name="planted", canaries={"count": 5, "repeats": 10}), tracking=tracking, home=tmp_path
        )


def test_shards_of_another_tokenizer_than_the_models_are_refused(shards, tokenizer, tracking, tmp_path):
    published = models.build(models.ModelConfig(size="tiny"), tokenizer, seed=0)
    models.save_hf(published, tokenizer, tmp_path / "published")
    with pytest.raises(DataError, match=r"another vocabulary than that of model .*build it with --tokenizer"):
        pretrain(
            config(shards, model={"pretrained": str(tmp_path / "published")}), tracking=tracking, home=tmp_path
        )


def test_shards_whose_texts_were_split_otherwise_are_refused(shards, tracking, tmp_path):
    """The vocabulary is the model's, and every word is another token."""
    own = corpus.load_tokenizer(str(shards.tokenizer_dir))
    models.save_hf(models.build(models.ModelConfig(size="tiny"), own, seed=0), own, tmp_path / "published")
    stored = json.loads((tmp_path / "published" / "tokenizer_config.json").read_text())
    stored["add_prefix_space"] = True
    (tmp_path / "published" / "tokenizer_config.json").write_text(json.dumps(stored))
    with pytest.raises(
        DataError, match=r"was tokenised otherwise than model .* reads texts, though with the same"
    ):
        worker_task(config(shards, model={"pretrained": str(tmp_path / "published")}), shards, tmp_path)


def test_workers_find_the_weights_of_a_folder_that_is_named_from_here(shards, tmp_path, monkeypatch):
    """Ray starts them in another folder."""
    own = corpus.load_tokenizer(str(shards.tokenizer_dir))
    models.save_hf(models.build(models.ModelConfig(size="tiny"), own, seed=0), own, tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    task = worker_task(config(shards, model={"pretrained": "published"}), shards, tmp_path / "run")
    assert task.config.recipe.model.pretrained == str(tmp_path / "published")


@pytest.fixture(scope="module")
def finished(shards, mlflow_database, tmp_path_factory, fork_workers):
    """An undisturbed run: home, tracking, what `pretrain` returned, and the steps it told of."""
    home, told = tmp_path_factory.mktemp("home"), []
    shutil.copy(mlflow_database, home / "mlflow.db")
    tracking = registry.connect(f"sqlite:///{home / 'mlflow.db'}", home=home)
    with fork_workers():
        result = pretrain(config(shards), tracking=tracking, home=home, on_progress=lambda *at: told.append(at[0]))
    return home, tracking, result, told


@pytest.fixture(scope="module")
def undisturbed(finished):
    """Losses by step and consolidated weights of that run."""
    home, tracking, _, _ = finished
    [record] = registry.read_runs(tracking, kind="pretrain")
    newest = newest_checkpoint(home / "pretrain" / "base" / CHECKPOINTS)
    return dict(registry.metric_history(tracking, record.id, "train/loss")), consolidated_state(newest)


def logged_steps(tracking, record, key):
    """As MLflow stores them, repetitions included."""
    return sorted(point.step for point in tracking.client.get_metric_history(record.id, key))


def test_a_run_ends_as_a_registered_plain_hf_model(finished, shards):
    _, tracking, result, told = finished
    assert told == list(range(STEPS + 1))
    assert result.perplexity_after < result.perplexity_before
    plain = transformers.AutoModelForMaskedLM.from_pretrained(result.folder)
    assert plain.lm_head.decoder.weight is plain.longformer.embeddings.word_embeddings.weight
    assert transformers.AutoTokenizer.from_pretrained(result.folder).model_max_length == 1024
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
    assert logged_steps(tracking, record, "train/loss") == list(range(1, STEPS + 1))
    assert logged_steps(tracking, record, "eval/perplexity") == [0, STEPS]
    assert result.version.aliases == ("champion",)
    assert result.version.tags[registry.Tag.SHARDS] == shards.fingerprint


def test_what_the_model_remembers_of_its_canaries_is_measured_logged_and_tagged(finished):
    _, tracking, result, _ = finished
    assert len(result.exposures) == 2
    stored = registry.read_json_artifact(tracking, result.version.run_id, MEMORISATION_FILE)
    assert stored == {"count": 2, "repeats": 2, "exposures": list(result.exposures)}
    assert registry.metric_history(tracking, result.version.run_id, "memorisation/exposure_max") == [
        (STEPS, max(result.exposures))
    ]
    assert result.version.tags[registry.Tag.CANARIES] == "2 x 2"
    assert float(result.version.tags[registry.Tag.EXPOSURE]) == pytest.approx(max(result.exposures), abs=0.01)
    assert float(result.version.tags[registry.Tag.EXPOSURE_P_VALUE]) == p_value(result.exposures)
    assert "| memorisation/p_value" in (result.folder / "README.md").read_text()
    assert not memorised(result.exposures), "six steps are not enough to learn anything by heart"


def test_a_finished_name_returns_its_version_and_is_refused_to_other_recipes(finished, shards, forks):
    home, tracking, result, told = finished
    other_runtime = config(shards, runtime={"num_workers": 1, "zero": {"stage": 0}})
    for settings in (config(shards), other_runtime):
        again = pretrain(settings, tracking=tracking, home=home, on_progress=lambda *at: told.append(at[0]))
        assert again.version == result.version
        assert len(told) == STEPS + 1, "a finished run trained again"
    with pytest.raises(ConfigError, match=r"differing: .*seed: 0 -> 1"):
        pretrain(config(shards, seed=1), tracking=tracking, home=home)
    exported = result.folder / "config.json"
    whole = exported.read_text()
    exported.write_text(whole.replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(ChangedDataError, match=r"the exported model"):
        pretrain(config(shards), tracking=tracking, home=home)
    exported.write_text(whole)
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED", "what is refused takes nothing from what is there"


def test_what_the_folder_holds_is_what_was_trained(finished, undisturbed):
    _, _, result, _ = finished
    plain = transformers.AutoModelForMaskedLM.from_pretrained(result.folder).state_dict()
    assert all(torch.equal(plain[name], weight) for name, weight in undisturbed[1].items())


class Member:
    """A context for one of several trainings in one group, which marks what it logs and may meet with a fault."""

    def __init__(self, context, number, fault=None):
        self.rank, self.world_size = context.rank, context.world_size
        self._context, self._number, self._fault = context, number, fault

    def log(self, metrics):
        self._context.log({**metrics, "number": self._number})
        self._step = int(metrics["step"])

    def preempted(self):
        return bool(self._fault and self._fault(self.rank, self._step))


def train_several(context, tasks):
    for number, one in enumerate(tasks):
        train_worker(Member(context, number), one)


def train_several_killed(context, tasks):
    """A worker of each training dies without a word, once."""
    for number, one in enumerate(tasks):
        train_worker(Member(context, number, Kill(Path(one.checkpoint_dir).parent, step=2 + number)), one)


class Kill:
    """SIGKILL to rank 1 after a step, once: a file remembers it."""

    def __init__(self, folder, step):
        self.struck, self.step = folder / f"killed-{step}", step

    def __call__(self, rank, step):
        if rank == 1 and step == self.step and not self.struck.exists():
            self.struck.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Enough(ClinscaleError):
    """Ends a training before its last step."""


def train_three_steps_more(context, task):
    """As far as a checkpoint, which is whole when the group ends."""
    begun = []

    def fault(rank, step):
        begun.append(step)
        if len(begun) == 4:
            raise Enough

    train_worker(Member(context, 0, fault), task)


def task(shards, folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    return worker_task(config(shards, **changes), shards, folder)


def run_group(function, tasks, *, max_failures=0):
    """What the group logged, by training, and the newest weights of each."""
    several = tasks if isinstance(tasks, list) else [tasks]
    logged = [[] for _ in several]
    settings = several[0].config.runtime
    runtime.run_workers(
        function,
        tasks,
        group=settings.model_copy(update={"max_failures": max_failures, "collective_timeout_s": 60.0}),
        scratch=Path(several[0].checkpoint_dir).parent / "ray",
        on_log=lambda metrics: logged[int(metrics.get("number", 0))].append(metrics),
    )
    return logged, [consolidated_state(newest_checkpoint(Path(one.checkpoint_dir))) for one in several]


def losses_of(logged):
    return {int(at["step"]): at["train/loss"] for at in logged if "train/loss" in at}


DRY = {
    "model": {
        "size": "tiny",
        "hf_overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    },
    "masking": {"mask_fraction": 0.4, "schedule": "linear", "final_mask_fraction": 0.1, "all_mask": True},
    "short_rows": {"row_tokens": 32, "share": 0.67},
    "small_batches": {"rows_per_step": 4, "share": 0.34},
    "causal": {"share": 0.5},
    "optimizer": {"learning_rate": 1e-3, "schedule_unit": "tokens"},
}
"""Without dropout, which is drawn per rank; with masks, rows, batches and an objective that depend on the step."""
FREE = {"optimizer": {"name": "schedule_free", "learning_rate": 1e-2}, "runtime": {"zero": {"stage": 0}}}
STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def ran(shards, tmp_path_factory, fork_workers):
    """What two workers logged, and their weights: at `STAGES`, in bf16, apart, Schedule-Free, without dropout."""
    folder = tmp_path_factory.mktemp("variants")
    tasks = [task(shards, folder / f"{stage}", runtime={"zero": {"stage": stage}}) for stage in STAGES]
    tasks.append(task(shards, folder / "bf16", precision="bf16"))
    apart = {
        "short_rows": {"row_tokens": 64},
        "documents_apart": True,
        "causal": {"share": 0.2},
        "masking": {"whole_words": True, "span_length": 3.8},
    }
    tasks.append(task(shards, folder / "apart", **apart))
    tasks.append(task(shards, folder / "free", **FREE))
    tasks.append(task(shards, folder / "dry", **DRY))
    with fork_workers():
        logged, weights = run_group(train_several, tasks)
    return list(zip(logged, weights, strict=True))


@pytest.fixture(scope="module")
def variants(ran):
    """Losses and weights of each."""
    return [(losses_of(logged), weights) for logged, weights in ran]


@pytest.mark.parametrize("stage", STAGES)
def test_every_zero_stage_trains_the_same_model(stage, variants, undisturbed):
    losses, weights = variants[STAGES.index(stage)]
    assert losses == pytest.approx(undisturbed[0], abs=1e-4)
    expected = undisturbed[1]
    assert set(expected) <= set(weights)
    assert all(torch.allclose(weights[name], expected[name], atol=1e-4) for name in expected)


def test_bf16_follows_fp32_and_keeps_its_master_weights(variants, undisturbed):
    losses, weights = variants[len(STAGES)]
    assert losses == pytest.approx(undisturbed[0], rel=0.01)
    assert losses != undisturbed[0]
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}
    matrix = weights["longformer.encoder.layer.0.output.dense.weight"]
    assert not torch.equal(matrix, matrix.bfloat16().float()), "the checkpoint holds rounded weights"


def test_notes_kept_apart_with_whole_words_masked_train_too(variants, undisturbed):
    losses, weights = variants[len(STAGES) + 1]
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1]
    assert losses[1] != undisturbed[0][1], "nothing was told of notes or words"
    assert all(weight.isfinite().all() for weight in weights.values())


def test_held_out_loss_and_weights_of_schedule_free_are_the_averages(ran, shards, tmp_path):
    logged, weights = ran[len(STAGES) + 2]
    free = task(shards, tmp_path, **FREE)
    tokenizer = corpus.load_tokenizer(str(shards.tokenizer_dir))
    rows = corpus.evaluation_batches(
        shards.rows("validation", free.row_tokens),
        rank=0,
        world_size=1,
        rows_per_batch=free.config.runtime.evaluation_rows,
        max_rows=free.config.runtime.evaluation_rows,
        seed=free.config.recipe.seed,
        masking=corpus.HELD_OUT_MASKING,
        special=corpus.SpecialIds.from_tokenizer(tokenizer),
    )
    [batch] = [{name: torch.from_numpy(array) for name, array in one.items()} for one in rows]
    first = torch.zeros_like(batch["input_ids"])
    first[:, 0] = 1
    model = build_model(free.config, tokenizer).eval()
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        loss = float(model(**batch, global_attention_mask=first).loss)
    assert logged[-1]["eval/loss"] == pytest.approx(loss, abs=1e-4)
    assert abs(loss - logged[0]["eval/loss"]) > 0.01, "nothing was trained"


def test_a_run_whose_worker_is_killed_ends_bit_identical(variants, shards, tmp_path, forks):
    """Kills just after a checkpoint was taken and in the middle of an interval; stage 2 is verify-resume's."""
    stages = (0, 3)
    tasks = [task(shards, tmp_path / f"{stage}", runtime={"zero": {"stage": stage}}) for stage in stages]
    logged, weights = run_group(train_several_killed, tasks, max_failures=len(stages))
    for number, stage in enumerate(stages):
        assert (tmp_path / f"{stage}" / f"killed-{2 + number}").exists(), "nobody was killed"
        losses, expected = variants[STAGES.index(stage)]
        assert losses_of(logged[number]) == losses
        assert {at["train/loss"] for at in logged[number] if "train/loss" in at} == set(losses.values())
        seconds = {at["step"]: at["perf/training_s"] for at in logged[number] if "perf/training_s" in at}
        assert len(seconds) == STEPS
        assert all(before < after for before, after in itertools.pairwise(seconds.values())), "counted anew"
        assert weights[number].keys() == expected.keys()
        assert all(torch.equal(weights[number][name], expected[name]) for name in expected)


def train_on_a_node_that_is_reclaimed(context, task):
    """Its notice is heard after the first step, and two steps later it is gone."""

    def fault(rank, step):
        if step == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step >= 1

    train_worker(Member(context, 0, fault), task)


def test_a_run_goes_on_with_other_workers_other_stages_and_other_micro_batches(variants, shards, tmp_path, forks):
    """Two workers at stage 2 save once, because of a notice; one goes on at stage 3, then two at stage 1."""
    logged = []

    def part(num_workers, stage, function, **changes):
        settings = {"num_workers": num_workers, "zero": {"stage": stage}, "micro_rows_per_gpu": 4 // num_workers}
        run = task(shards, tmp_path, **DRY, runtime=settings | changes)
        train(run, tmp_path, on_log=logged.append, function=function)

    with pytest.raises(ClusterError, match="it was killed"):
        part(2, 2, train_on_a_node_that_is_reclaimed, checkpoint_every_steps=1000, max_failures=0)
    assert [path.name for path in (tmp_path / CHECKPOINTS).glob("step-*")] == ["step-00000001"]
    with pytest.raises(Enough):
        part(1, 3, train_three_steps_more)
    part(2, 1, train_worker)
    losses, expected = variants[-1]
    assert losses_of(logged) == pytest.approx(losses, abs=1e-5)
    assert len({at["train/loss"] for at in logged if at["step"] == 1 and "train/loss" in at}) == 1, "begun anew"
    weights = consolidated_state(newest_checkpoint(tmp_path / CHECKPOINTS))
    assert all(torch.allclose(weights[name], expected[name], atol=1e-5) for name in expected)


def test_verify_resume_finds_no_difference_and_says_what_was_done_again(shards, tmp_path, forks):
    schedules = {name: DRY[name] for name in ("short_rows", "small_batches", "causal", "optimizer")}
    run = config(shards, **schedules, runtime={"micro_rows_per_gpu": 2})
    found = verify_resume(run, tmp_path, steps=5, checkpoint_every_steps=2, kills=1, seed=1)
    assert found.identical
    assert (found.loss_difference, found.weight_difference) == (0, 0)
    assert (found.num_workers, found.stage, found.steps, len(found.killed_at)) == (2, 2, 5, 1)
    assert 1 <= found.replayed_steps == found.most_lost_steps <= found.killed_at[0]


def poisoned_after_two_steps(context, task):
    """A weight that is no number, as a fault of the hardware would leave it."""
    from clinscale.pretrain.worker import _Loop

    before = _Loop.train

    def train_step(self, step):
        if step == 2:
            with torch.no_grad():
                next(self.engine.module.parameters()).fill_(float("nan"))
        return before(self, step)

    _Loop.train = train_step
    try:
        train_worker(context, task)
    finally:
        _Loop.train = before


def test_a_loss_that_is_no_number_stops_the_run_before_its_update_and_names_the_rows(shards, tmp_path, forks):
    with pytest.raises(DataError, match=r"loss of step 2 is nan, .* read rows \d+(, \d+){7} of the training"):
        run_group(poisoned_after_two_steps, task(shards, tmp_path, runtime={"zero": {"stage": 0}}), max_failures=3)
    weights = consolidated_state(newest_checkpoint(tmp_path / CHECKPOINTS))
    assert all(weight.isfinite().all() for weight in weights.values())


def memory_for_two_rows(context, task):
    """A worker in which more than two rows of 128 tokens do not fit: a real allocation fails in the forward pass."""
    from clinscale.pretrain.worker import _Loop

    before = _Loop._summed_loss

    def forward(self, batch, **options):
        if batch["input_ids"].size > 2 * 128:
            torch.empty(2**55, dtype=torch.uint8)
        return before(self, batch, **options)

    _Loop._summed_loss = forward
    try:
        train_worker(context, task)
    finally:
        _Loop._summed_loss = before


def test_rows_that_do_not_fit_are_halved_and_the_global_batch_stays(variants, finished, shards, tmp_path, forks):
    logged, told = [], []
    dry = task(shards, tmp_path, **DRY)
    train(dry, tmp_path, on_log=logged.append, on_event=told.append, function=memory_for_two_rows)
    assert losses_of(logged) == pytest.approx(variants[-1][0], abs=1e-5)
    fractions = [at["train/mask_fraction"] for at in logged if "train/mask_fraction" in at]
    assert fractions == pytest.approx([0.22, 0.16, 0.1]), "of the steps behind the causal phase"
    assert [at["train/row_tokens"] for at in logged if "train/row_tokens" in at] == [32] * 4 + [128] * 2
    # held-out rows are masked as ever, so that what was masked in training is no part of the comparison
    assert logged[0]["eval/perplexity"] == pytest.approx(finished[2].perplexity_before, rel=1e-4)
    assert "out of memory: going on with micro batches of 2 rows" in told
    assert task(shards, tmp_path).micro_rows_per_gpu == 2, "the next start tries the same again"


def no_memory_at_all(context, task):
    raise OutOfMemoryError("worker 1 of 2 ran out of GPU memory")


def test_one_row_that_does_not_fit_ends_the_halving(shards, tmp_path, forks):
    smallest = replace(task(shards, tmp_path), micro_rows_per_gpu=1)
    with pytest.raises(CapacityError, match=r"one row of 128 tokens does not fit .*activation_checkpointing=true"):
        train(smallest, tmp_path, on_log=print, function=no_memory_at_all)


def full_after_two_steps(context, task):
    """Storage that takes no large file any more; what the system then says to a write is real."""

    def fault(rank, step):
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    train_worker(Member(context, 0, fault), task)


def test_storage_that_is_full_stops_the_run_which_then_goes_on_where_it_was(variants, shards, tmp_path, forks):
    full = task(shards, tmp_path, runtime={"storage_patience_s": 0})
    with pytest.raises(
        CapacityError, match=r"checkpoint folder .* cannot be used: .*start the same command again"
    ):
        run_group(full_after_two_steps, full)
    assert [path.name for path in (tmp_path / CHECKPOINTS).glob("step-*")] == ["step-00000002"]
    [logged], [weights] = run_group(train_several, [full])
    losses, expected = variants[STAGES.index(2)]
    assert losses_of(logged) == losses
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.ray
def test_ray_train_ends_where_forks_do(finished, undisturbed, shards, tracking, tmp_path, ray_cluster):
    """Two workers with ZeRO 2, from shards to a registered model."""
    result = pretrain(config(shards), tracking=tracking, home=tmp_path)
    assert result.version.aliases == ("champion",)
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
    assert dict(registry.metric_history(tracking, record.id, "train/loss")) == undisturbed[0]
    weights = consolidated_state(newest_checkpoint(tmp_path / "pretrain" / "base" / CHECKPOINTS))
    assert all(torch.equal(weights[name], expected) for name, expected in undisturbed[1].items())
    assert (result.perplexity_before, result.perplexity_after) == (
        finished[2].perplexity_before,
        finished[2].perplexity_after,
    )


@pytest.mark.ray
def test_more_workers_than_there_are_is_told_before_any_starts(shards, tracking, tmp_path, ray_cluster):
    settings = config(shards, runtime={"num_workers": 64, "start_timeout_s": 1})
    with pytest.raises(CapacityError, match=r"64 workers of 1 CPU each do not fit into .* of \d+ CPU free"):
        pretrain(settings, tracking=tracking, home=tmp_path)
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FAILED"


def fail_with_note_text(context, task):
    raise ValueError("canary: the patient's name")


def fail_with_an_answer(context, task):
    """Every start leaves a trace; rank 0 then waits for a partner that never comes, as in a collective."""
    (Path(task.config.recipe.shards).parent / f"{task.config.name}-{context.rank}-{time.time_ns()}").touch()
    if context.rank == 1:
        raise ConfigError("the rule that was broken")
    time.sleep(600)


def test_a_failing_worker_is_named_without_its_text(shards, tmp_path, forks):
    with pytest.raises(ClusterError, match=r"worker \d: ValueError") as caught:
        run_group(fail_with_note_text, task(shards, tmp_path))
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_error_of_our_own_arrives_as_it_is_and_is_not_tried_again(shards, tmp_path, forks):
    with pytest.raises(ConfigError, match="the rule that was broken"):
        run_group(fail_with_an_answer, task(shards, tmp_path, name="final"), max_failures=3)
    assert len(list(Path(shards.uri).parent.glob("final-1-*"))) == 1, "the group was started again"


def training_workers():
    """Processes of this session's Ray that hold a worker of ours."""
    names = []
    for process in [*psutil.Process().children(recursive=True), *forked_ray.forks()]:
        with contextlib.suppress(psutil.Error):
            names.extend(process.cmdline()[:1])
    return [name for name in names if "RayTrainWorker" in name]


def train_killed_once(context, task):
    """A worker dies without a word in the middle of an interval between checkpoints."""
    train_worker(Member(context, 0, Kill(Path(task.checkpoint_dir).parent, step=3)), task)


@pytest.mark.ray
@pytest.mark.chaos
def test_a_run_that_loses_a_worker_and_its_driver_ends_bit_identical(
    fork_workers, shards, tracking, tmp_path, ray_cluster, monkeypatch
):
    """On Ray Train a worker is killed, then Ctrl-C; the next start's driver fails; the last one runs on forks."""
    import _thread

    def press_ctrl_c(step, total, metrics):
        if step == 4:
            _thread.interrupt_main()
            raise KeyboardInterrupt  # nothing is told of the steps that workers do until they are stopped

    def break_off(step, total, metrics):
        if step == 5:
            raise RuntimeError("the terminal is gone")

    def start(on_progress=None, **changes):
        settings = config(shards, family="bigbird", **changes)
        return pretrain(settings, tracking=tracking, home=tmp_path, on_progress=on_progress)

    monkeypatch.setattr("clinscale.pretrain.run.train", functools.partial(train, function=train_killed_once))
    with pytest.raises(KeyboardInterrupt):
        start(press_ctrl_c)
    monkeypatch.undo()
    assert (tmp_path / "pretrain" / "base" / "killed-3").exists(), "nobody was killed"
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "KILLED"
    assert PretrainConfig.load(run_config(tmp_path, "base")) == config(shards, family="bigbird")

    # the next group needs the CPUs of the first; then the driver fails while its workers train to the end
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        start(break_off)
    assert registry.read_runs(tracking, kind="pretrain")[0].status == "FAILED"

    newest = tmp_path / "pretrain" / "base" / CHECKPOINTS / f"step-{STEPS:08d}"
    with next((newest / "engine").rglob("*.pt")).open("r+b") as shard:
        shard.truncate(1000)  # as a disk that lost power leaves it
    with fork_workers():
        result = start()
        [undisturbed], [expected] = run_group(
            train_several, [task(shards, tmp_path / "undisturbed", family="bigbird")]
        )
    assert newest.with_name(f"{newest.name}.damaged").is_dir()
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
    steps = logged_steps(tracking, record, "train/loss")
    assert steps == list(range(1, STEPS + 1)), "a step is missing or logged twice"
    assert logged_steps(tracking, record, "eval/perplexity") == [0, STEPS]
    assert dict(registry.metric_history(tracking, record.id, "train/loss")) == losses_of(undisturbed)
    weights = consolidated_state(newest)
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert result.perplexity_after < result.perplexity_before
    assert json.loads((result.folder / "config.json").read_text())["model_type"] == "big_bird"
    deadline = time.monotonic() + 90
    while training_workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not training_workers()
