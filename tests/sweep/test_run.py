"""Sweeps with real Optuna and MLflow: one on Ray Tune, the others on forks. Each costs seconds, so each asks a lot."""

import contextlib
import json
import math
import random
import shutil
import sys
from statistics import fmean

import forked_ray
import psutil
import pytest
import transformers
import yaml
from ray import cloudpickle

from clinscale import registry, runtime
from clinscale.config import merge
from clinscale.errors import ChangedDataError, ClusterError, ConfigError, DataError, RegistryError
from clinscale.promotion import GateRules
from clinscale.registry import Tag
from clinscale.runtime import Cluster
from clinscale.sweep import SweepConfig, SweepRuntime, load_sweep, read_inputs, sweep
from clinscale.sweep.ledger import Ledger

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file

TRIALS = 4


def write_space(folder, name="space", **changes):
    values = {
        "fixed": {"epochs": 3, "dropout": 0.0, "batch_size": 8, "max_tokens": 64},
        "parameters": {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 2e-3, "log": True}},
        "first_trials": [{"optimizer.learning_rate": 1e-3}],
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


def study(demo_data, models, space, **changes):
    name = changes.get("task", "demo_pairs")
    return {"name": name, "task": name, "data": str(demo_data), "models": list(models), "space": space} | changes


def config(*studies, name="pairs", trials=TRIALS, **recipe):
    values = {"studies": list(studies), "budget": {"trials": trials}, **recipe}
    return SweepConfig.parse({"name": name, "recipe": values}, source="test")


def runs_of(tracking, parent=None):
    parent = parent or registry.read_runs(tracking, kind="sweep")[0]
    return parent, registry.read_runs(tracking, parent=parent.id)


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked_cpus", "asked_gpus", "slots"),
    [(8, 0, 1, 0, 8), (8, 0, 3, 0, 2), (8, 2, 1, 0.5, 4), (2, 4, 1, 1, 2), (1, 0, 2, 0, 1)],
)
def test_concurrency_is_what_the_cluster_has_room_for(cpus, gpus, asked_cpus, asked_gpus, slots):
    assert Cluster("x", cpus, gpus, 1).slots(cpus=asked_cpus, gpus=asked_gpus) == slots


def test_what_is_missing_is_said_before_a_trial_starts(demo_data, base_models, tracking, tmp_path):
    cluster = Cluster("x", 2, 0, 1)
    space, bases = write_space(tmp_path), base_models.values()
    cases = [
        (study(demo_data / "nowhere", bases, space), DataError, "does not exist"),
        (study(demo_data, ["no-such-model"], space), RegistryError, "no model 'no-such-model'"),
        (study(demo_data, bases, str(tmp_path / "no.yaml")), ConfigError, "does not exist"),
        (study(demo_data, bases, space, task="demo_pears"), ConfigError, "did you mean demo_pairs"),
        (
            study(demo_data, bases, space, task_changes={"metric": "bleu"}),
            ConfigError,
            "metric",
        ),
    ]
    for wrong, error, message in cases:
        with pytest.raises(error, match=message):
            sweep(config(wrong), tracking=tracking, home=tmp_path, cluster=cluster)
    late = config(study(demo_data, bases, space), grace="3epochs")
    with pytest.raises(ConfigError, match="grace must be below the 3 epochs of a trial, got 3epochs; lower it"):
        sweep(late, tracking=tracking, home=tmp_path, cluster=cluster)
    assert registry.read_runs(tracking) == []


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"trials": 0}, "budget.trials must be at least 1"),
        ({"budget": {"usd": 5.0}}, "usd_per_device_hour"),
        ({"budget": {"device_hours": -1}}, "device_hours must be above 0"),
        ({"objectives": ["cost"]}, "must begin with score"),
        ({"objectives": ["score", "cost"]}, "recipe.scheduler=none"),
        ({"reduction_factor": 1}, "reduction_factor >= 2"),
        ({"sampler": "tpee"}, "did you mean tpe"),
        ({"stop_when_gain_below": 0}, "stop_when_gain_below must be above 0, got 0"),
        (
            {"stop_when_gain_below": 1, "objectives": ["score", "cost"], "scheduler": "none"},
            "knows the gain of one objective",
        ),
        ({"grace": 0}, "a positive number and one of steps"),
        ({"grace": "-1epochs"}, "a positive number"),
        ({"grace": "0.5steps"}, "a share of an epoch or at least one step, got 0.5steps"),
        ({"grace": "5tokens"}, "a share of an epoch or at least one step"),
        ({"grace": "0.1epochs", "grace_epochs": 1}, "must stand alone, got grace_epochs=1"),
        ({"grace": "0.1epochs", "scheduler": "none"}, "which recipe.scheduler=none never does"),
        ({"grace": "9steps", "scheduler": "hyperband"}, "needs in epochs; write 0.1epochs"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(demo_data, base_models, recipe, message):
    with pytest.raises(ConfigError, match=message):
        config(study(demo_data, base_models.values(), None), **recipe)


def test_two_studies_are_two_cells_of_the_league_table(demo_data, base_models):
    one = study(demo_data, base_models.values(), None, arm="long")
    with pytest.raises(
        ConfigError, match="studies demo_pairs and again are one cell of the league table: long on demo_pairs"
    ):
        config(one, one | {"name": "again"})
    assert config(one, one | {"name": "again", "arm": "short"}, one | {"name": "other", "task": "demo_documents"})


def test_each_study_has_a_trial_and_each_base_once(demo_data, base_models):
    one = study(demo_data, base_models.values(), None)
    with pytest.raises(ConfigError, match="at least one for each of 2 studies, got 1"):
        config(one, one | {"name": "again"}, trials=1)
    with pytest.raises(ConfigError, match="models must name each base once, got 2 different of 4"):
        config(study(demo_data, [*base_models.values()] * 2, None))
    with pytest.raises(ConfigError, match="max_tokens is given twice, as 512 and, in fixed, as 64"):
        config(one | {"max_tokens": 512, "fixed": {"max_tokens": 64}})
    with pytest.raises(ConfigError, match="space must name a YAML file, got ''; leave it out"):
        config(one | {"space": ""})


def test_a_trial_has_a_share_of_one_gpu_or_whole_ones():
    for gpus in (0.25, 1, 2):
        assert SweepRuntime(gpus_per_trial=gpus).gpus_per_trial == gpus
    with pytest.raises(ConfigError, match=r"gpus_per_trial must be a share of one GPU .* got 2\.5; write 2 or 3"):
        SweepRuntime(gpus_per_trial=2.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": {"max_latency_ration": 2}}, "gate.max_latency_ration .* did you mean max_latency_ratio"),
        ({"gate": {"min_seeds": 0}}, "min_seeds must be at least 1"),
        ({"recipe": {"gate": {"min_seeds": 1}}}, "recipe.gate is not a known key; did you mean gate"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(demo_data, base_models, changes, message):
    values = config(study(demo_data, base_models.values(), None)).plain()
    with pytest.raises(ConfigError, match=message):
        SweepConfig.parse(merge(values, changes), source="test")


def test_two_studies_of_one_name_are_refused(demo_data, base_models):
    one = study(demo_data, base_models.values(), None)
    with pytest.raises(ConfigError, match="two studies are called demo_pairs"):
        config(one, one)


@pytest.mark.ray
def test_a_sweep_that_loses_a_trial_ends_with_a_winner_and_its_name_is_kept(
    demo_data, base_models, tracking, tmp_path, ray_cluster
):
    space = write_space(tmp_path)
    settings = config(study(demo_data, base_models.values(), space), confirm_seeds=2)
    seen, ledger = [], tmp_path / "sweep" / "pairs" / "ledger.jsonl"

    def look(progress):
        seen.append(progress)
        # a process that is hit may just have ended its work: the ledger says when a trial was lost
        if not losses(ledger) and progress.studies[0].epochs:
            kill(tuning())

    found = sweep(settings, tracking=tracking, home=tmp_path, cluster=ray_cluster, on_progress=look)
    assert losses(ledger)
    [result] = found.studies
    parent, runs = runs_of(tracking)
    trials = [run for run in runs if Tag.CONFIRMS not in run.tags]
    assert seen[-1].trials == len(trials) == TRIALS
    assert not found.failures
    assert {run.status for run in [parent, *runs]} == {"FINISHED"}
    states = {run.tags[Tag.TRIAL_STATE] for run in trials}
    assert states <= {"complete", "pruned"}
    assert {run.params["model"].split("#")[0].rsplit("/", 1)[1] for run in trials} == {"longformer", "bigbird"}
    confirmed = {run.tags[Tag.CONFIRMS] for run in runs if Tag.CONFIRMS in run.tags}
    assert confirmed == {one.trial for one in result.finalists}
    assert all(len(one.dev) == 2 for one in result.finalists)
    values = [max(v for _, v in history(tracking, run, "eval/demo_pairs/accuracy")) for run in trials]
    assert parent.metrics["best/objective"] == max(values)
    # chosen by the mean of its seeds, which is what the winner is said to reach; its best seed is what is shipped
    chosen = max(result.finalists, key=lambda one: fmean(one.dev.values()))
    assert parent.metrics["dev/demo_pairs/accuracy"] == pytest.approx(fmean(chosen.dev.values()))
    [shipped] = [run for run in runs if run.name.endswith(f"-{result.folder.parent.name}")]
    assert shipped.metrics["objective"] == max(chosen.dev.values())

    # the gate decides by what it has learned, and says so
    [alias] = result.version.aliases
    assert alias == ("champion" if result.decision.promoted else "challenger")
    tags = result.version.tags
    assert float(tags[Tag.VALUE]) == result.value == parent.metrics["test/demo_pairs/accuracy"]
    assert tags[Tag.DATA] == parent.tags[Tag.DATA]
    transformers.AutoModelForSequenceClassification.from_pretrained(result.folder)
    assert {path.stem for path in result.plots} >= {
        "optimization_history",
        "learning_curves",
        "parallel_coordinate",
    }
    assert not list((tmp_path / "sweep").rglob("state.pt")), "no state of ended trials is left"
    kept = {path.parent.name for path in (tmp_path / "sweep" / "pairs" / "demo_pairs").glob("*/hf")}
    assert kept == {one.trial for one in result.finalists} | {
        run.name.rsplit("-", 1)[1] for run in runs if Tag.CONFIRMS in run.tags
    }
    assert found.freed.trials == len(runs) - len(kept)

    tidier = settings.model_copy(update={"runtime": SweepRuntime(keep_trials="winner")})
    repeated = sweep(tidier, tracking=tracking, home=tmp_path, cluster=ray_cluster)
    [again] = repeated.studies
    assert repeated.freed.trials == len(kept) - 1
    assert [path.parent for path in result.folder.parent.parent.glob("*/hf")] == [result.folder.parent]
    assert again.version == result.version
    assert not again.decision.promoted
    assert len(runs_of(tracking)[1]) == len(runs)
    assert load_sweep("pairs", home=tmp_path) == tidier
    weights = result.folder / "model.safetensors"
    weights.rename(tmp_path / "judged")
    shutil.copy(f"{base_models['longformer']}/model.safetensors", weights)
    with pytest.raises(
        ChangedDataError, match=r"no longer holds the model whose scores winner\.json beside it has"
    ):
        sweep(tidier, tracking=tracking, home=tmp_path, cluster=ray_cluster)
    (tmp_path / "judged").replace(weights)
    [finished] = registry.read_runs(tracking, kind="sweep")
    assert finished.status == "FINISHED"  # what is refused takes nothing from what is there
    changed = config(study(demo_data, base_models.values(), space), trials=5, confirm_seeds=2)
    with pytest.raises(ConfigError, match=r"budget\.trials: 4 -> 5"):
        sweep(changed, tracking=tracking, home=tmp_path, cluster=ray_cluster)
    wider = {"optimizer.learning_rate": {"type": "float", "low": 5e-4, "high": 3e-3, "log": True}}
    space = write_space(tmp_path, parameters=wider)
    with pytest.raises(ConfigError, match=r"learning_rate\.high: 0.002 -> 0.003"):
        sweep(settings, tracking=tracking, home=tmp_path, cluster=ray_cluster)

    # a later sweep begins with what this one found
    warm = config(study(demo_data, base_models.values(), space, name="later"), warm_start=["auto"], warm_points=2)
    [inputs] = read_inputs(warm, tracking=tracking, home=tmp_path).studies
    ranked = sorted(trials, key=lambda run: -run.metrics["objective"])
    rates = list(dict.fromkeys(float(run.params["optimizer.learning_rate"]) for run in ranked))
    assert [point["optimizer.learning_rate"] for point in inputs.warm[::2]] == rates[:2]
    assert {point["model"] for point in inputs.warm} == {0, 1}
    other = write_space(
        tmp_path, parameters={"stride_tokens": {"type": "int", "low": 32, "high": 64}}, first_trials=[]
    )
    with pytest.raises(
        ConfigError, match=r"study demo_pairs cannot warm-start this one: optimizer\.learning_rate"
    ):
        read_inputs(
            config(study(demo_data, base_models.values(), other, name="later"), warm_start=["demo_pairs"]),
            tracking=tracking,
            home=tmp_path,
        )
    with pytest.raises(ConfigError, match="no earlier study is called 'demo_pears'; did you mean demo_pairs"):
        read_inputs(
            config(study(demo_data, base_models.values(), space, name="later"), warm_start=["demo_pears"]),
            tracking=tracking,
            home=tmp_path,
        )


def test_a_trial_that_diverges_fails_alone_and_all_failing_is_told_without_text(
    demo_data, base_models, tracking, tmp_path, forks, monkeypatch
):
    dimension = {"type": "categorical", "choices": [1e-3, 0.99]}
    points = [{"optimizer.learning_rate": 1e-3}, {"optimizer.learning_rate": 0.99}]
    fixed = {"epochs": 3, "dropout": 0.0, "batch_size": 8, "max_tokens": 32, "optimizer.max_grad_norm": 1e9}
    space = write_space(
        tmp_path, fixed=fixed, parameters={"optimizer.learning_rate": dimension}, first_trials=points
    )
    one_model = [base_models["longformer"]]
    poisoned = [str(broken_copy(base_models["longformer"], tmp_path / "broken"))]
    # one command: a task whose data is missing and a model that trains to no number do not stop the others
    several = config(
        study(demo_data, one_model, space),
        study(demo_data, poisoned, space, name="broken"),
        study(demo_data / "nowhere", one_model, space, name="missing"),
        name="several",
        trials=4,
        grace="0.25 epochs",
        soup="take",
    )
    # whichever is better on so few pairs
    monkeypatch.setattr("clinscale.sweep.winner.best_offer", lambda offers: offers[-1])
    strict = several.model_copy(update={"gate": GateRules(max_size_bytes=1)})
    found = sweep(strict, tracking=tracking, home=tmp_path, cluster=forks)
    [result] = found.studies
    assert result.name == "demo_pairs"
    assert math.isfinite(result.value)
    # an average of weights is shipped where it is asked for, never without a word, and judged once
    [offer] = result.offers
    assert result.folder.parent.name == offer.id == "average"
    assert offer.what.startswith("epochs 2 to 3 of trial")
    assert f"{offer.sentence('accuracy')}: what is shipped is the average" in result.remarks
    [searched] = [run for run in registry.read_runs(tracking, kind="sweep") if run.name == "demo_pairs"]
    assert [value for _, value in history(tracking, searched, "test/demo_pairs/accuracy")] == [result.value]
    assert searched.metrics["dev/demo_pairs/accuracy"] == offer.dev
    # a few epochs on sixty pairs are not beyond noise above the baselines, which is said wherever the score is seen
    assert result.version.aliases == ("challenger",)
    assert result.linear == pytest.approx(float(result.version.tags[Tag.LINEAR]))
    for baseline in ("trivial", "linear"):
        assert any(f"does not beat the {baseline} baseline" in remark for remark in result.remarks)
    assert result.remarks[0] in result.version.tags[Tag.REMARK]
    card = (result.folder / "README.md").read_text()
    assert result.remarks[0] in card
    assert "linear baseline" in card
    assert set(found.failures) == {"broken", "missing"}
    assert "the loss of epoch 1 is nan" in str(found.failures["broken"])
    assert "does not exist" in str(found.failures["missing"])
    ledger = Ledger(tmp_path / "sweep" / "several" / "ledger.jsonl")
    ledger.close()
    trained = [trial for trial in ledger.of_study(0) if trial.state != "failed"]
    assert all(trial.looks for trial in trained), "each is judged inside its epoch"
    assert max(len(trial.epochs) for trial in trained) == 3, "who leads is trained to its end"
    diverged = ledger.of_study(1)
    assert {(trial.state, trial.reason, trial.losses, len(trial.reports)) for trial in diverged} == {
        ("failed", "not_a_number", 0, 0)
    }
    [note] = [note for note in found.notes if note.startswith("demo_pairs")]
    assert "looks cost more than 5%" in note
    assert not result.decision.promoted
    refused = [check.rule for check in result.decision.checks if not check.passed]
    assert refused == ["size", "accuracy above the trivial baseline's"]
    assert result.decision.rules == strict.gate
    # another start may judge by other limits: nothing is trained again
    lenient = several.model_copy(update={"gate": GateRules(min_over_trivial=None)})
    [again] = sweep(lenient, tracking=tracking, home=tmp_path, cluster=forks).studies
    assert again.decision.promoted
    runs = registry.read_runs(tracking)
    assert "RUNNING" not in {run.status for run in runs}
    assert {run.name: run.status for run in runs if run.kind == "sweep"}["broken"] == "FAILED"
    failed = [run for run in runs if run.kind == "trial" and run.status == "FAILED"]
    assert failed
    assert all(run.tags[Tag.TRIAL_REASON].startswith("not_a_number") for run in failed)
    alone = config(study(demo_data, poisoned, space, name="alone"), name="alone", trials=1)
    with pytest.raises((ConfigError, ClusterError), match="no trial ended with a score") as caught:
        sweep(alone, tracking=tracking, home=tmp_path, cluster=forks)
    assert "Traceback" not in str(caught.value)


def broken_copy(folder, out):
    """A base model whose weights are numbers, and no sum of them is."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    model.base_model.embeddings.word_embeddings.weight.data.fill_(3e38)
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def history(tracking, record, key):
    return registry.metric_history(tracking, record.id, key)


def test_a_budget_below_one_trial_is_refused(demo_data, base_models, tracking, tmp_path, forks):
    one = study(demo_data, [base_models["longformer"]], write_space(tmp_path))
    small = config(one, name="small", trials=None, budget={"device_hours": 1e-6})
    with pytest.raises(ConfigError, match="is below one trial of demo_pairs, which needs about"):
        sweep(small, tracking=tracking, home=tmp_path, cluster=forks)
    assert Ledger(tmp_path / "sweep" / "small" / "ledger.jsonl").trials == []


def test_a_sweep_can_be_cut_to_a_short_window(demo_data, base_models, tracking, tmp_path):
    short = config(study(demo_data, base_models.values(), write_space(tmp_path), max_tokens=128))
    [inputs] = read_inputs(short, tracking=tracking, home=tmp_path).studies
    assert inputs.space.recipe("m", {}).max_tokens == 128
    searched = {"max_tokens": {"type": "categorical", "choices": [128, 256]}}
    space = write_space(tmp_path, parameters=searched, fixed={}, first_trials=[])
    wrong = config(study(demo_data, base_models.values(), space, max_tokens=128))
    with pytest.raises(ConfigError, match="max_tokens is both fixed and searched"):
        read_inputs(wrong, tracking=tracking, home=tmp_path)


def tuning():
    """Processes of Ray Tune that train for this one."""
    found = []
    for process in [*psutil.Process().children(recursive=True), *forked_ray.forks()]:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            found += [process] if process.cmdline()[:1] and "ImplicitFunc" in process.cmdline()[0] else []
    return found


def trials_of(driver):
    """Forks of the server of forks that a driver has started."""
    return [fork for server in psutil.Process(driver.pid).children() for fork in server.children()]


def kill(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def losses(ledger):
    """How many trials a running sweep has lost with their process."""
    return ledger.read_text().count('"state":"lost","reason":"lost"') if ledger.exists() else 0


def drive(connection, settings, home):
    """A sweep in a process that may be killed."""
    imports = ("transformers.models.longformer.modeling_longformer", "clinscale.finetune", "sklearn.metrics")
    with runtime.fork_session(*imports, num_cpus=2) as cluster:
        found = sweep(settings, tracking=registry.connect(home=home), home=home, cluster=cluster)
    connection.send((found.studies[0].value,))


def drive_to_the_end(settings, home, *, kills, rng):
    """Drive a sweep again and again, killing its trials and its driver; the value of its winner.

    Args:
        settings: of the sweep.
        home: where it is.
        kills: `trial` or `driver`, in order; one of a trial counts when the ledger says that a trial was lost, because
            the process that was hit may just have ended its work.
        rng: chooses the moments after the ledger has grown.
    """
    ledger = home / "sweep" / settings.name / "ledger.jsonl"
    kills, lost = list(kills), 0
    while True:
        driver = runtime.Fork(drive, settings, home)
        try:
            size = ledger.stat().st_size if ledger.exists() else 0
            while kills and not driver.connection.poll(0.01):
                if not ledger.exists() or ledger.stat().st_size == size:
                    continue
                size = ledger.stat().st_size
                if losses(ledger) > lost:
                    lost = losses(ledger)
                    kills = kills[kills[0] == "trial" :]
                    continue
                if driver.connection.poll(rng.uniform(0, 0.3)):
                    break
                if kills[0] == "driver":
                    break
                kill(trials_of(driver))
            if kills and kills[0] == "driver" and not driver.connection.poll():
                kills.pop(0)
                continue
            assert not kills, "the sweep ended before all kills; give it more epochs"
            message = driver.receive()
            assert isinstance(message, tuple), message
            return message[0]
        finally:
            driver.end()


@pytest.mark.chaos
def test_a_sweep_that_is_killed_again_and_again_ends_as_the_undisturbed_one(
    demo_data, base_models, tmp_path, mlflow_database, chaos_kills, forks
):
    fixed = {"epochs": 1 + len(chaos_kills), "dropout": 0.1, "batch_size": 8, "max_tokens": 64}
    one = study(demo_data, [base_models["longformer"]], write_space(tmp_path, fixed=fixed), name="chaos")
    settings = config(one, name="chaos", trials=3, grace="0.25epochs")
    settings = settings.model_copy(update={"runtime": SweepRuntime(max_concurrent_trials=1)})
    trials = {}
    for name, kills in (("quiet", ()), ("killed", chaos_kills)):
        home = tmp_path / name
        home.mkdir()
        shutil.copy(mlflow_database, home / "mlflow.db")
        if kills:
            value = drive_to_the_end(settings, home, kills=kills, rng=random.Random(0))
        else:
            tracking = registry.connect(home=home)
            value = sweep(settings, tracking=tracking, home=home, cluster=forks).studies[0].value
        ledger = Ledger(home / "sweep" / "chaos" / "ledger.jsonl")
        ledger.close()
        assert sum(one.losses for one in ledger.trials) >= sum(kill == "trial" for kill in kills)
        trials[name] = (
            value,
            [
                (one.number, dict(one.params), one.state, [(each.epoch, each.objective) for each in one.reports])
                for one in ledger.trials
            ],
        )
        tracking = registry.connect(home=home)
        parent, runs = runs_of(tracking)
        assert sorted(run.name for run in runs) == [f"chaos-{one.id}" for one in ledger.trials]
        assert {run.status for run in [parent, *runs]} == {"FINISHED"}
        for run, one in zip(sorted(runs, key=lambda run: run.name), ledger.trials, strict=True):
            assert [value for _, value in history(tracking, run, "epoch")] == [each.epoch for each in one.reports]
    assert trials["killed"] == trials["quiet"]
    [again] = sweep(load_sweep("chaos", home=home), tracking=tracking, home=home, cluster=forks).studies
    assert again.value == value


def finish_another(tracking, point):
    """A study of the same task that ends in the meantime."""
    tags = {Tag.KIND: "sweep", Tag.NAME: "another", Tag.TASK: "demo_pairs", Tag.TASK_KIND: "pair"}
    tags |= {Tag.SPACE: json.dumps([*point])}
    with registry.start_run(tracking, experiment="clinscale-sweep", name="another", tags=tags, params={}) as run:
        with registry.start_run(
            tracking,
            experiment="clinscale-sweep",
            name="another-0",
            tags={Tag.KIND: "trial", Tag.NAME: "another-0"},
            params=point,
            parent=run.id,
        ) as trial:
            trial.log({"objective": 0.9}, step=1)


def test_studies_in_another_order_go_on_with_their_own_trials(demo_data, base_models, tracking, tmp_path, forks):
    """The ledger knows a study by its number, and a file in another order means the same sweep."""
    space = write_space(tmp_path, fixed={"epochs": 1, "dropout": 0.0, "batch_size": 8, "max_tokens": 64})
    studies = [
        study(demo_data, [path], space, name=f"demo_pairs-{family}") for family, path in base_models.items()
    ]

    class KilledError(Exception):
        pass

    def kill(progress):
        if any(one.epochs for one in progress.studies):
            raise KilledError

    begun = config(*studies, trials=2, scheduler="none", warm_start=["auto"])
    with pytest.raises(KilledError):
        sweep(begun, tracking=tracking, home=tmp_path, cluster=forks, on_progress=kill)
    finish_another(tracking, {"optimizer.learning_rate": 9e-4})  # which it was not begun with
    turned = config(*reversed(studies), trials=2, scheduler="none", warm_start=["auto"])
    done = sweep(turned, tracking=tracking, home=tmp_path, cluster=forks)
    assert [one.name for one in done.studies] == [one["name"] for one in studies]
    assert len([run for run in registry.read_runs(tracking, kind="sweep") if run.name != "another"]) == 2
    assert {trial.origin for trial in Ledger(tmp_path / "sweep" / "pairs" / "ledger.jsonl").trials} == {"first"}
    losses = {
        trial.metrics["train/loss"]
        for trial in registry.read_runs(tracking, kind="trial")
        if "train/loss" in trial.metrics
    }
    assert len(losses) == 2, "of two models, none has the numbers of the other"


def test_a_space_in_another_order_goes_on_with_the_points_that_are_left(
    demo_data, base_models, tracking, tmp_path, forks
):
    parameters = {
        "patience_epochs": {"type": "categorical", "choices": [3, 4, 5]},
        "optimizer.learning_rate": {"type": "categorical", "choices": [1e-3, 2e-3]},
    }
    fixed = {"epochs": 1, "dropout": 0.0, "batch_size": 8, "max_tokens": 64}
    space = write_space(tmp_path, fixed=fixed, parameters=parameters, first_trials=[])
    settings = config(
        study(demo_data, [base_models["longformer"]], space), trials=6, scheduler="none", sampler="grid"
    )

    class KilledError(Exception):
        pass

    def kill(progress):
        if any(one.epochs for one in progress.studies):
            raise KilledError

    with pytest.raises(KilledError):
        sweep(settings, tracking=tracking, home=tmp_path, cluster=forks, on_progress=kill)
    turned = yaml.safe_load((tmp_path / "space.yaml").read_text())
    turned["parameters"] = dict(reversed(turned["parameters"].items()))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(turned, sort_keys=False))
    sweep(settings, tracking=tracking, home=tmp_path, cluster=forks)
    points = [
        tuple(sorted(one.params.items())) for one in Ledger(tmp_path / "sweep" / "pairs" / "ledger.jsonl").trials
    ]
    assert len(points) == len(set(points)) == 6
