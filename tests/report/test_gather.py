import math

import pytest

from clinscale import registry
from clinscale.registry import Tag
from clinscale.report.gather import gather


def test_a_winner_is_read_with_its_way_back_to_the_notes(past, tracking):
    base = past.pretraining("notes-base", "longformer", steps=40)
    made = past.sweep("s1", "demo", "sequence", "accuracy", "longformer", base.label, trials=3, trivial=0.25)
    told = {Tag.LINEAR: "0.75", Tag.REMARK: "accuracy does not beat the linear baseline's"}
    registry.set_version_tags(tracking, made, told)
    with registry.reopen_run(tracking, made.run_id) as run:
        run.log({"test/demo/threshold": 0.125, "test/demo/sensitivity": 0.5, "test/demo/alerts_per_1000": 40.0})
    version = registry.set_alias(tracking, registry.resolve(tracking, made.label))

    [winner] = gather(tracking).winners
    assert (winner.version, winner.task, winner.kind, winner.family) == (version, "demo", "sequence", "longformer")
    assert winner.value == float(version.tags[Tag.VALUE])
    assert (winner.metric, winner.trivial, winner.trials) == ("accuracy", 0.25, "3")
    assert (winner.linear, winner.remark) == (0.75, told[Tag.REMARK])
    assert winner.threshold == (
        "threshold 0.125, fixed before the test: sensitivity 0.500, 40 alerts per 1,000 notes"
    )
    assert [(link.stage, link.name) for link in winner.lineage] == [
        ("Notes", "ShardSet 5f1c09ab77e2"),
        ("Base model", "notes-base/1"),
        ("Task data", "9a40d1c3be55"),
        ("Search", "s1"),
        ("Task model", "demo/1"),
    ]
    assert not any(link.missing for link in winner.lineage)


@pytest.mark.parametrize(
    ("tags", "missing"),
    [
        (
            {Tag.BASE: "allenai/longformer-base-4096", Tag.DATA: "d"},
            {"Notes": "outside this registry", "Base model": "allenai/longformer-base-4096"},
        ),
        (
            {},
            {"Notes": "not recorded", "Base model": "not recorded", "Task data": "not recorded"},
        ),
    ],
    ids=["hub model", "nothing recorded"],
)
def test_a_missing_link_is_said_and_never_invented(past, tracking, tags, missing):
    run = past.run("clinscale-sweep", "s", {Tag.KIND: "sweep"}, {})
    past.version(run, "demo", {Tag.KIND: "task", **tags})
    [winner] = gather(tracking).winners
    assert {link.stage: link.name for link in winner.lineage if link.missing} == missing


def test_a_base_taken_from_a_folder_is_known_by_its_content(past, tracking):
    base = past.pretraining("notes-base", "longformer", steps=40)
    run = past.run("clinscale-sweep", "s", {Tag.KIND: "sweep"}, {})
    past.version(run, "known", {Tag.KIND: "task", Tag.BASE: f"/home/me/pulled#{base.digest[:12]}"})
    moved = {Tag.BASE: "notes-base/7", Tag.BASE_DIGEST: base.digest}  # as where a released copy alone is left
    past.version(run, "moved", {Tag.KIND: "task", **moved})
    past.version(run, "strange", {Tag.KIND: "task", Tag.BASE: "/home/me/other#000000000000"})
    known, moved, strange = (winner.lineage for winner in gather(tracking).winners)
    assert [link.name for link in known[:2]] == ["ShardSet 5f1c09ab77e2", "notes-base/1"]
    assert moved[:2] == known[:2]
    assert strange[0].missing
    assert strange[1].missing


def test_a_deleted_search_is_a_missing_link(past, tracking):
    run = past.run("clinscale-sweep", "s", {Tag.KIND: "sweep"}, {})
    past.version(run, "demo", {Tag.KIND: "task"})
    tracking.client.delete_run(run.id)
    [winner] = gather(tracking).winners
    assert winner.lineage[3].missing


def test_the_page_knows_every_run_that_models_lineage_knows(past, tracking):
    run = past.run("clinscale-sweep", "by hand", {}, {})  # without the tags by which a sweep is found
    version = past.version(run, "demo", {Tag.KIND: "task", Tag.DATA: "d", Tag.TASK: "ward"})
    [winner] = gather(tracking).winners
    of_verb = {link.what: link for link in registry.lineage(tracking, version)}
    assert (
        (winner.lineage[3].name, winner.lineage[3].missing) == (of_verb["study"].name, False) == ("by hand", False)
    )
    assert (winner.lineage[2].name, winner.lineage[2].detail) == (
        of_verb["task data"].id,
        of_verb["task data"].name,
    )


@pytest.mark.parametrize("text", ["", "best ever", "nan", "inf"])
def test_a_score_that_is_no_number_counts_as_not_recorded(past, tracking, text):
    run = past.run("clinscale-sweep", "s", {Tag.KIND: "sweep"}, {})
    past.version(run, "demo", {Tag.KIND: "task", Tag.VALUE: text or " "})
    [winner] = gather(tracking).winners
    assert winner.value is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_counts_as_not_recorded(past, tracking, value):
    """MLflow gives infinity back as the largest number of a database, of 309 digits."""
    tags = {Tag.KIND: "finetune", Tag.TASK: "t", Tag.METRIC: "f1"}
    run = past.run("clinscale-finetune", "f", tags, {})
    run.log({f"{name}/t/{key}": value for name, key in (("test", "f1"), ("test", "f1_low"), ("trivial", "f1"))})
    run.log({"test/t/f1_high": 0.5})
    [single] = gather(tracking).singles
    assert (single.value, single.interval, single.trivial) == (None, None, None)


def test_perplexity_before_and_after(past, tracking):
    past.pretraining("notes-base", "bigbird", steps=40, start=2000.0, end=5.0)
    [base] = gather(tracking).bases
    assert base.before == pytest.approx(2000)
    assert base.after == pytest.approx(5)
    assert (base.steps, base.family, base.tokens_per_second) == (40, "bigbird", 18_250.0)
    assert base.seconds == 40 * 70, "the time between a start and an end may have been a pause"


@pytest.mark.parametrize(
    ("logged", "before", "after"),
    [({0: 900.0}, 900.0, None), ({50: 9.0}, None, 9.0), ({}, None, None)],
    ids=["just begun", "resumed without its start", "not evaluated"],
)
def test_a_perplexity_that_was_not_measured_is_absent(past, tracking, logged, before, after):
    run = past.run("clinscale-pretrain", "p", {Tag.KIND: "pretrain"}, {})
    for step, value in logged.items():
        run.log({"eval/perplexity": value}, step=step)
    [base] = gather(tracking).bases
    assert (base.before, base.after) == (before, after)


def test_trials_are_scored_by_their_best_epoch_and_the_winner_is_the_sweeps_own(past, tracking):
    tags = {Tag.KIND: "sweep", Tag.TASK: "demo", Tag.METRIC: "f1"}
    sweep = past.run("clinscale-sweep", "s", tags, {})
    trials = []
    for name, scores in [("a", [0.2, 0.6, 0.5]), ("b", [0.4, math.nan]), ("c", [])]:
        trial = past.run("clinscale-sweep", name, {Tag.KIND: "trial"}, {"lr": name, "epochs": 3}, sweep.id)
        for epoch, score in enumerate(scores):
            trial.log({"eval/demo/f1": score}, step=epoch)
        trials.append(trial)
    trials[2].end("FAILED")
    sweep.set_tags({Tag.WINNER_RUN: trials[0].id})

    [found] = gather(tracking).sweeps
    assert [(row.number, row.name, row.value, row.epochs) for row in found.trials] == [
        (1, "a", 0.6, 3),
        (2, "b", 0.4, 2),
        (3, "c", None, 0),
    ]
    assert found.winner.name == "a"
    assert (found.trials[2].status, found.varied, found.fixed) == ("FAILED", ["lr"], {"epochs": "3"})


def test_winners_of_a_task_stand_together_best_first(past, tracking):
    for task, value in [("b", 0.4), ("a", 0.5), ("b", 0.9)]:
        run = past.run("clinscale-sweep", "s", {Tag.KIND: "sweep"}, {})
        past.version(run, task, {Tag.KIND: "task", Tag.TASK: task, Tag.VALUE: str(value)})
    assert [(winner.task, winner.value) for winner in gather(tracking).winners] == [
        ("a", 0.5),
        ("b", 0.9),
        ("b", 0.4),
    ]
