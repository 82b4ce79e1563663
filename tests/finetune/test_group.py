"""Several workers compute what one process computes: on groups of forks; `tests/sweep/test_nodes.py` has one on Ray."""

import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from ray import cloudpickle

from clinscale import runtime
from clinscale.errors import ConfigError, OutOfMemoryError
from clinscale.finetune import (
    FinetuneConfig,
    FinetuneRecipe,
    FinetuneRuntime,
    Looks,
    finetune,
    finetune_on_workers,
    group,
    run_finetune,
)
from clinscale.permissions import make_folder
from clinscale.predict import load_predictor
from clinscale.storage import write_json
from clinscale.tasks import load_task, read_task
from clinscale.units import Duration

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file


def recipe(model, **changes):
    values = {
        "model": model,
        "max_tokens": 256,
        "epochs": 2,
        "batch_size": 8,
        "dropout": 0.0,
        "optimizer": {"learning_rate": 2e-3},
    }
    return FinetuneRecipe.parse(values | changes, source="test")


def two_workers(stage=2, **changes):
    values = {"num_workers": 2, "zero": {"stage": stage}, "max_failures": 0, "collective_timeout_s": 60}
    return FinetuneRuntime.parse(values | changes, source="test")


def numbers(epochs):
    """What epochs reported, without what depends on how it was computed."""
    return [{k: v for k, v in one.items() if not k.startswith("perf/") and k != "seed"} for one in epochs]


def is_close_to(found, alone):
    assert [one["step"] for one in found] == [one["step"] for one in alone]
    for ours, theirs in zip(numbers(found), numbers(alone), strict=True):
        assert ours.pop("train/loss") == pytest.approx(theirs.pop("train/loss"), rel=1e-4)
        assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.fixture(scope="module")
def alone(base_models, demo_data, tmp_path_factory):
    """One process: its result and what each epoch reported."""

    def run(task, **changes):
        epochs, folder = [], tmp_path_factory.mktemp("alone") / "hf"
        asked = recipe(base_models["longformer"], **changes)
        data = read_task(load_task(task), str(demo_data))
        return finetune(asked, data, folder, on_epoch=epochs.append), epochs

    return run


@pytest.fixture(scope="module")
def undisturbed(base_models, demo_data, mlflow_database, tmp_path_factory, fork_workers):
    """Two workers at ZeRO 2 through `run_finetune`: its summary and what each epoch reported."""
    from clinscale import registry

    home, epochs = tmp_path_factory.mktemp("home"), []
    values = {"name": "pairs", "task": "demo_pairs", "data": str(demo_data), "runtime": two_workers().plain()}
    config = FinetuneConfig.parse(values | {"recipe": recipe(base_models["longformer"]).plain()}, source="test")
    tracking = registry.connect(f"sqlite:///{home / 'mlflow.db'}", home=home)
    with fork_workers():
        return run_finetune(config, tracking=tracking, home=home, on_progress=epochs.append), epochs


def test_two_workers_learn_what_one_process_learns(undisturbed, alone, demo_data):
    summary, epochs = undisturbed
    result, expected = alone("demo_pairs")
    is_close_to(epochs, expected)
    assert summary.best.dev == pytest.approx(result.value, abs=1e-3)
    assert [path.name for path in summary.folder.parent.iterdir() if path.name.endswith(".group")] == []
    dev = read_task(load_task("demo_pairs"), str(demo_data)).splits["dev"]
    assert load_predictor(summary.folder).score(dev)["accuracy"] == summary.best.dev


WORKS = {
    "demo_pairs": (2, {"epochs": 2}),
    "demo_entities": (3, {"batch_size": 5}),
    "demo_questions": (1, {"batch_size": 6}),
}
"""Task -> ZeRO stage and recipe; the steps of two of them do not come out even."""


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def one_after_another(context, works):
    """Each to its first epoch; one of them looks inside it first, gives back what it holds, and goes on from there."""
    for work in works:
        if work.looks:
            group.finetune_worker(context, replace(work, until_epoch=0))
        group.finetune_worker(context, replace(work, looks=None))


@pytest.fixture(scope="module")
def first_epochs(base_models, demo_data, tmp_path_factory, fork_workers):
    """Three fine-tunings in one group, each to its first epoch: the work by task, and what was logged by task."""
    folder, logged = tmp_path_factory.mktemp("first"), []
    works = {
        task: group.GroupTask(
            recipe=recipe(base_models["longformer"], **{"epochs": 1} | changes),
            task=load_task(task),
            data=str(demo_data),
            fingerprint=None,
            folder=folder / task / "hf",
            state=make_folder(folder / task / "state.group"),
            runtime=two_workers(stage),
            micro_batch_size=4 if task == "demo_pairs" else 2,
            until_epoch=1,
            looks=Looks((Duration(0.5, "epochs"),), (0, 1, 2)) if task == "demo_pairs" else None,
        )
        for task, (stage, changes) in WORKS.items()
    }
    with fork_workers():
        runtime.run_workers(
            one_after_another,
            list(works.values()),
            group=two_workers(),
            scratch=folder / "ray",
            on_log=logged.append,
        )
    [look] = [one for one in logged if "look" in one]
    assert look["look/examples"] == 3
    assert "look/demo_pairs/accuracy" in look
    return works, {task: [one for one in logged if any(f"eval/{task}/" in key for key in one)] for task in works}


@pytest.mark.parametrize("task", ["demo_entities", "demo_questions"])
def test_stages_tasks_and_uneven_steps_change_nothing(task, first_epochs, alone):
    works, logged = first_epochs
    _, expected = alone(task, epochs=1, batch_size=works[task].recipe.batch_size)
    is_close_to(logged[task], expected)
    dev = read_task(works[task].task, works[task].data).splits["dev"]
    scores = load_predictor(works[task].folder).score(dev)
    assert {f"eval/{task}/{key}": value for key, value in scores.items()}.items() <= logged[task][0].items()


def test_one_that_was_interrupted_ends_as_the_undisturbed_one(undisturbed, first_epochs, forks):
    summary, expected = undisturbed
    work, [first] = first_epochs[0]["demo_pairs"], first_epochs[1]["demo_pairs"]
    told = []
    result = finetune_on_workers(
        work.recipe,
        work.task,
        work.data,
        work.folder,
        runtime=work.runtime,
        on_epoch=told.append,
        checkpoint=work.state.with_suffix(""),
    )
    assert told[0] == first  # told again, not done again
    for ours, theirs in zip(numbers(told), numbers(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert result.value == summary.best.dev
    ours, theirs = weights(result.folder), weights(summary.folder)
    # not bit by bit: with other fine-tunings in the process memory is aligned otherwise, which changes last bits
    assert all(torch.allclose(ours[name], weight, rtol=0, atol=1e-6) for name, weight in theirs.items())


def test_one_process_does_not_take_the_work_of_several(base_models, demo_data, tmp_path):
    data = read_task(load_task("demo_pairs"), str(demo_data))
    with pytest.raises(ConfigError, match=r"runtime\.num_workers must be 1 .* got 2; call finetune_on_workers"):
        finetune(recipe(base_models["longformer"]), data, tmp_path / "hf", runtime=two_workers())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_workers": 0}, "num_workers must be at least 1, got 0"),
        ({"cpus_per_worker": 0}, "cpus_per_worker must be above 0, got 0"),
        ({"gpus_per_worker": -1}, "gpus_per_worker must not be negative, got -1"),
        ({"gpus_per_worker": 1.5}, r"gpus_per_worker must be a share of one GPU .* got 1\.5; write 1 or 2"),
        ({"num_workers": 2, "device": "cuda"}, "device=cuda applies only when"),
        ({"zero": {"stage": 3}}, r"zero applies only to several workers, .* set runtime\.num_workers=2"),
    ],
)
def test_a_runtime_that_does_not_fit_together_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneRuntime.parse(values, source="test")


def test_muon_needs_whole_matrices_on_each_of_several_workers():
    values = {
        "name": "x",
        "task": "demo_pairs",
        "data": ".",
        "recipe": {"model": "m", "optimizer": {"name": "muon"}},
    }
    assert FinetuneConfig.parse(values, source="test").recipe.optimizer.name == "muon"
    FinetuneConfig.parse(values | {"runtime": two_workers(stage=0).plain()}, source="test")
    with pytest.raises(ConfigError, match=r"zero\.stage=2 divides them among the workers"):
        FinetuneConfig.parse(values | {"runtime": two_workers().plain()}, source="test")


def test_schedule_free_is_refused_in_fine_tuning():
    values = {"model": "m", "optimizer": {"name": "schedule_free"}}
    with pytest.raises(ConfigError, match=r"name must be adamw or muon in fine-tuning, got schedule_free"):
        FinetuneRecipe.parse(values, source="test")


def test_fp16_workers_need_gpus():
    values = {"name": "x", "task": "demo_pairs", "data": ".", "recipe": {"model": "m", "precision": "fp16"}}
    with pytest.raises(ConfigError, match="precision=fp16 needs GPUs"):
        FinetuneConfig.parse(values | {"runtime": {"num_workers": 2}}, source="test")


@pytest.fixture
def workers(monkeypatch):
    """In place of a group: calls a function with the work and with what takes the metrics."""

    def replace_by(function):
        monkeypatch.setattr(group, "run_workers", lambda _, work, **options: function(work, options["on_log"]))

    return replace_by


def pairs(tmp_path, **options):
    task = load_task("demo_pairs")
    options = {"runtime": two_workers()} | options
    return finetune_on_workers(recipe("m"), task, str(tmp_path), tmp_path / "hf", **options)


def epoch(number, score=0.5):
    return {"epoch": number, "eval/demo_pairs/accuracy": score}


def test_a_micro_batch_that_does_not_fit_into_a_worker_is_halved_down_to_one(workers, tmp_path):
    tried, said = [], []

    def of_little_memory(work, on_log):
        tried.append(work.micro_batch_size)
        if work.micro_batch_size > 1:
            raise OutOfMemoryError("worker 1 of 2 ran out of GPU memory")
        on_log(epoch(1))

    workers(of_little_memory)
    assert pairs(tmp_path, on_event=said.append).epoch == 1
    assert tried == [4, 2, 1]
    assert said[0] == "out of memory: going on with micro batches of 2 windows"

    def of_none(work, on_log):
        raise OutOfMemoryError("worker 1 of 2 ran out of GPU memory")

    workers(of_none)
    with pytest.raises(OutOfMemoryError, match=r"one window does not fit .*worker 1 of 2.*runtime\.zero\.stage"):
        pairs(tmp_path)


def test_each_epoch_is_told_once_and_in_order_however_often_the_group_starts(workers, tmp_path):
    def start_again(_, on_log):
        for number in (1, 2, 3, 1, 2, 3, 4):  # after a restart rank 0 tells all again
            on_log(epoch(number, score=0.1 * number))

    told = []
    workers(start_again)
    assert pairs(tmp_path, on_epoch=told.append).epoch == 4
    assert [one["epoch"] for one in told] == [1, 2, 3, 4]


def test_a_look_is_told_once_and_its_checkpoint_needs_no_best_weights(workers, tmp_path):
    step = tmp_path / "state.group" / "step-00000004"
    kept = []

    def run(work, on_log):
        kept.append(step.exists())
        for place in (0, 0, 1):  # after a restart rank 0 tells again what its caller did not know before
            on_log({"look": place, "epoch": 0.1 * (place + 1)})

    workers(run)
    for history in ([], [epoch(1)]):
        write_json(step / "state.json", {"history": history})
        told = []
        looks = Looks((Duration(0.1, "epochs"), Duration(0.3, "epochs")), (0,))
        found = pairs(tmp_path, on_epoch=told.append, checkpoint=tmp_path / "state", looks=looks, until_epoch=0)
        assert found.epoch == 0
        assert [one["look"] for one in told] == [0, 1]
    assert kept == [True, False], "later ones are worth nothing without"


def test_what_the_caller_answers_stops_the_group_and_is_raised(workers, tmp_path):
    class Enough(Exception):
        pass

    def enough(metrics):
        told.append(metrics["epoch"])
        raise Enough

    def run(work, on_log):
        on_log(epoch(1))
        stopped.append((work.state / "stop").exists())
        on_log(epoch(2))

    told, stopped = [], []
    workers(run)
    for _ in range(2):  # the second start forgets that the first was stopped
        with pytest.raises(Enough):
            pairs(tmp_path, on_epoch=enough, checkpoint=tmp_path / "state")
    assert (told, stopped) == ([1, 1], [True, True])


def test_a_checkpoint_without_its_best_weights_is_forgotten(workers, tmp_path):
    left = tmp_path / "state.group" / "step-00000008"
    seen = []

    def run(_, on_log):
        seen.append(left.exists())
        on_log(epoch(1))

    workers(run)
    for best_weights in (False, True):
        left.mkdir(parents=True, exist_ok=True)
        if best_weights:
            (tmp_path / "hf").mkdir()
            (tmp_path / "hf" / "config.json").touch()
        pairs(tmp_path, checkpoint=tmp_path / "state")
    assert seen == [False, True]
    assert left.exists()
