"""Pretraining on real Ray Train workers with real DeepSpeed; a group costs seconds, so each test asks a lot."""

import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
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


@pytest.fixture(scope="module")
def finished(shards, mlflow_database, tmp_path_factory, ray_cluster):
    """An undisturbed run: home, tracking, what `pretrain` returned, and the steps it told of."""
    home, told = tmp_path_factory.mktemp("home"), []
    shutil.copy(mlflow_database, home / "mlflow.db")
    tracking = registry.connect(f"sqlite:///{home / 'mlflow.db'}", home=home)
    result = pretrain(config(shards), tracking=tracking, home=home, on_progress=lambda *at: told.append(at[0]))
    return home, tracking, result, told


@pytest.fixture(scope="module")
def undisturbed(finished):
    """Losses by step and consolidated weights of that run."""
    home, tracking, _, _ = finished
    [record] = registry.read_runs(tracking, kind="pretrain")
    newest = max((home / "pretrain" / "base").glob("checkpoint_*/"), key=lambda folder: folder.stat().st_mtime)
    return dict(registry.metric_history(tracking, record.id, "train/loss")), consolidated_state(newest)


def logged_steps(tracking, record, key):
    """As MLflow stores them, repetitions included."""
    return sorted(point.step for point in tracking.client.get_metric_history(record.id, key))


@pytest.mark.ray
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


@pytest.mark.ray
def test_a_finished_name_returns_its_version_and_is_refused_to_other_recipes(finished, shards):
    home, tracking, result, told = finished
    other_runtime = config(shards, runtime={"num_workers": 1, "zero": {"stage": 0}})
    for settings in (config(shards), other_runtime):
        again = pretrain(settings, tracking=tracking, home=home, on_progress=lambda *at: told.append(at[0]))
        assert again.version == result.version
        assert len(told) == STEPS + 1, "a finished run trained again"
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
    with pytest.raises(ConfigError, match=r"differing: .*seed: 0 -> 1"):
        pretrain(config(shards, seed=1), tracking=tracking, home=home)


@pytest.mark.ray
def test_what_the_folder_holds_is_what_was_trained(finished, undisturbed):
    _, _, result, _ = finished
    plain = transformers.AutoModelForMaskedLM.from_pretrained(result.folder).state_dict()
    assert all(torch.equal(plain[name], weight) for name, weight in undisturbed[1].items())


@pytest.mark.ray
def test_a_checkpoint_without_the_shard_of_one_worker_is_refused(finished, tmp_path):
    home, *_ = finished
    whole = next((home / "pretrain" / "base").glob("checkpoint_*/"))
    damaged = shutil.copytree(whole, tmp_path / "damaged")
    next((damaged / "engine").glob("*rank_1*optim_states.pt")).unlink()
    with pytest.raises(DataError, match="damaged is no complete checkpoint"):
        consolidated_state(damaged)
    shutil.rmtree(damaged / "engine")
    with pytest.raises(DataError, match="no model states"):
        consolidated_state(damaged)


def run_group(function, tasks, folder, *, max_failures=0):
    """What the group logged, and the weights of its checkpoints in their order."""
    logged = []
    settings = (tasks[0] if isinstance(tasks, list) else tasks).config.runtime
    runtime.run_workers(
        function,
        tasks,
        num_workers=settings.num_workers,
        cpus_per_worker=1,
        gpus_per_worker=0,
        storage_path=str(folder),
        name="run",
        num_to_keep=9,
        max_failures=max_failures,
        on_log=logged.append,
    )
    return logged, [consolidated_state(found) for found in sorted((folder / "run").glob("checkpoint_*/"))]


def task(shards, **changes):
    settings = config(shards, **changes)
    return WorkerTask(config=settings, shards_uri=shards.uri, row_tokens=128, total_steps=STEPS)


def losses_of(logged):
    return {int(at["step"]): at["train/loss"] for at in logged if "train/loss" in at}


class Variant:
    """A context for one of several trainings in one group: starts from nothing, marks what it logs."""

    def __init__(self, context, number):
        self.rank, self.world_size, self.checkpoint = context.rank, context.world_size, context.checkpoint
        self.context, self.number = context, number

    @contextlib.contextmanager
    def latest_checkpoint(self):
        yield None

    def log(self, metrics):
        self.context.log({**metrics, "variant": self.number})


def train_several(context, tasks):
    for number, one in enumerate(tasks):
        train_worker(Variant(context, number), one)


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STAGES = (0, 1, 3)


@pytest.fixture(scope="module")
def variants(shards, tmp_path_factory, ray_cluster):
    """Losses and weights of two workers: at the ZeRO stages of `STAGES`, in bf16, and without dropout."""
    once = {"checkpoint_every_steps": STEPS}
    tasks = [task(shards, runtime={"zero": {"stage": stage}, **once}) for stage in STAGES]
    tasks.append(task(shards, precision="bf16", runtime=once))
    tasks.append(task(shards, model={"size": "tiny", "hf_overrides": NO_DROPOUT}, runtime=once))
    logged, weights = run_group(train_several, tasks, tmp_path_factory.mktemp("variants"))
    losses = [losses_of(at for at in logged if at["variant"] == number) for number in range(len(tasks))]
    return list(zip(losses, weights, strict=True))


@pytest.mark.ray
@pytest.mark.parametrize("stage", STAGES)
def test_every_zero_stage_trains_the_same_model(stage, variants, undisturbed):
    losses, weights = variants[STAGES.index(stage)]
    assert losses == pytest.approx(undisturbed[0], abs=1e-4)
    expected = undisturbed[1]
    assert set(expected) <= set(weights)
    assert all(torch.allclose(weights[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.ray
def test_bf16_follows_fp32_and_keeps_its_master_weights(variants, undisturbed):
    losses, weights = variants[len(STAGES)]
    assert losses == pytest.approx(undisturbed[0], rel=0.01)
    assert losses != undisturbed[0]
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}
    matrix = weights["longformer.encoder.layer.0.output.dense.weight"]
    assert not torch.equal(matrix, matrix.bfloat16().float()), "the checkpoint holds rounded weights"


@pytest.mark.ray
def test_the_number_of_workers_and_micro_batches_changes_no_number(variants, shards, tmp_path):
    """Without dropout, which is drawn per rank."""
    alone = task(
        shards,
        model={"size": "tiny", "hf_overrides": NO_DROPOUT},
        runtime={"num_workers": 1, "micro_rows_per_gpu": 2},
    )
    logged, _ = run_group(train_worker, alone, tmp_path)
    assert losses_of(logged) == pytest.approx(variants[-1][0], abs=1e-5)


def killed_once(context, task):
    """`train_worker`, whose rank 1 dies without a word in the middle, once."""
    marker = Path(task.config.recipe.shards).parent / f"killed-{task.config.name}"
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
    logged, checkpoints = run_group(killed_once, task(shards, name="chaos"), tmp_path, max_failures=1)
    weights = checkpoints[-1]
    assert (Path(shards.uri).parent / "killed-chaos").exists(), "nobody was killed"
    steps = [at["step"] for at in logged]
    assert steps.count(3) == 2, "the group did not go back to its last checkpoint"
    assert steps.count(4) == 1
    assert losses_of(logged) == undisturbed[0]
    assert weights.keys() == undisturbed[1].keys()
    assert all(torch.equal(weights[name], undisturbed[1][name]) for name in weights)


def fail_with_note_text(context, task):
    raise ValueError("canary: the patient's name")


def fail_with_an_answer(context, task):
    """Every start leaves a trace; rank 0 then waits for a partner that never comes, as in a collective."""
    (Path(task.config.recipe.shards).parent / f"{task.config.name}-{context.rank}-{time.time_ns()}").touch()
    if context.rank == 1:
        raise ConfigError("the rule that was broken")
    time.sleep(600)


@pytest.mark.ray
def test_a_failing_worker_is_named_without_its_text(shards, tmp_path, ray_cluster):
    with pytest.raises(ClusterError, match=r"worker \d: ValueError") as caught:
        run_group(fail_with_note_text, task(shards), tmp_path)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.ray
def test_an_error_of_our_own_arrives_as_it_is_and_is_not_tried_again(shards, tmp_path, ray_cluster):
    with pytest.raises(ConfigError, match="the rule that was broken"):
        run_group(fail_with_an_answer, task(shards, name="final"), tmp_path, max_failures=3)
    assert len(list(Path(shards.uri).parent.glob("final-1-*"))) == 1, "the group was started again"


def training_workers():
    """Processes of Ray that hold a worker of ours."""
    names = (process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"]))
    return [name[0] for name in names if "RayTrainWorker" in name[0]]


@pytest.mark.ray
def test_an_interrupted_run_is_killed_frees_its_workers_and_continues(shards, tracking, tmp_path, ray_cluster):
    import _thread

    def press_ctrl_c(step, total, metrics):
        if step == 3:
            _thread.interrupt_main()
            raise KeyboardInterrupt  # nothing is told of the steps that workers do until they are stopped

    def break_off(step, total, metrics):
        if step == 5:
            raise RuntimeError("the terminal is gone")

    def start(on_progress=None, **changes):
        settings = config(shards, family="bigbird", **changes)
        return pretrain(settings, tracking=tracking, home=tmp_path, on_progress=on_progress)

    with pytest.raises(KeyboardInterrupt):
        start(press_ctrl_c)
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "KILLED"
    with pytest.raises(ConfigError, match=r"2 workers at ZeRO stage 2, which 1 workers .* runtime\.num_workers=2"):
        start(runtime={"num_workers": 1})
    assert PretrainConfig.load(run_config(tmp_path, "base")) == config(shards, family="bigbird")

    # the next group needs the CPUs of the first; then the driver fails while its workers train to the end
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        start(break_off)
    assert registry.read_runs(tracking, kind="pretrain")[0].status == "FAILED"

    result = start()
    [record] = registry.read_runs(tracking, kind="pretrain")
    assert record.status == "FINISHED"
    steps = logged_steps(tracking, record, "train/loss")
    assert steps == list(range(1, STEPS + 1)), "a step is missing or logged twice"
    assert logged_steps(tracking, record, "eval/perplexity") == [0, STEPS]
    assert result.perplexity_after < result.perplexity_before
    assert json.loads((result.folder / "config.json").read_text())["model_type"] == "big_bird"
    deadline = time.monotonic() + 30
    while training_workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not training_workers()
