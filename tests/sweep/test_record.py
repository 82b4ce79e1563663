"""MLflow is a copy of the ledger: brought up to it by whichever process comes, each epoch once."""

import sqlite3

from clinscale import registry
from clinscale.registry import Tag
from clinscale.sweep.ledger import Epoch, Ledger, Trial
from clinscale.sweep.record import TrialLogger


class Study:
    """What is logged of a study, without data and a model."""

    index, name = 0, "s"

    def describe(self, params):
        return {**params, "model": "base"}

    def log_to(self, run, params):
        run.log_inputs([registry.UsedData("task", "abc", "fine-tuning", {})])


def logger(tracking, ledger, parent):
    return TrialLogger(tracking, parent, ledger, Study())


def epochs_of(tracking, run):
    return registry.metric_history(tracking, run.id, "epoch")


def test_a_later_process_adds_only_what_is_missing(tracking):
    parent = registry.start_run(tracking, experiment="e", name="s", tags={Tag.KIND: "sweep"}, params={})
    ledger = Ledger()
    trial = ledger.start(Trial(0, 0, {"batch_size": 8}, "first", 0))
    ledger.report(trial, Epoch(1, 0.5, 2.0, {"eval/x": 0.5, "step": 10}))
    first = logger(tracking, ledger, parent)
    first.follow()
    first.follow()
    ledger.end(trial, "paused")
    first.close()
    [run] = registry.read_runs(tracking, parent=parent.id)
    assert (run.name, run.status, run.tags[Tag.TRIAL_STATE]) == ("s-00000", "KILLED", "paused")
    assert run.params["model"] == "base"

    ledger.resume(trial)
    ledger.report(trial, Epoch(2, 0.6, 2.0, {"eval/x": 0.6, "step": 20}))
    ledger.end(trial, "complete")
    failed = ledger.start(Trial(0, 1, {"batch_size": 4}, "sampler", 0))
    ledger.end(failed, "failed", "not_a_number", "the loss of epoch 1 is nan")
    second = logger(tracking, ledger, parent)  # as another process would
    second.close()
    done, broken = registry.read_runs(tracking, parent=parent.id)
    assert (done.id, done.status, done.metrics["objective"]) == (run.id, "FINISHED", 0.6)
    assert epochs_of(tracking, done) == [(10, 1.0), (20, 2.0)]
    assert (broken.status, broken.tags[Tag.TRIAL_REASON]) == ("FAILED", "not_a_number: the loss of epoch 1 is nan")
    third = logger(tracking, ledger, parent)
    third.close()
    assert [one.status for one in registry.read_runs(tracking, parent=parent.id)] == ["FINISHED", "FAILED"]
    assert epochs_of(tracking, done) == [(10, 1.0), (20, 2.0)]


def test_a_database_that_cannot_be_written_is_delivered_to_later(tracking, tmp_path, caplog):
    parent = registry.start_run(tracking, experiment="e", name="s", tags={Tag.KIND: "sweep"}, params={})
    ledger = Ledger()
    record = logger(tracking, ledger, parent)
    trial = ledger.start(Trial(0, 0, {}, "first", 0))
    record.follow()
    ledger.report(trial, Epoch(1, 0.5, 2.0, {"step": 1}))
    with sqlite3.connect(tmp_path / "mlflow.db", timeout=0) as other:
        other.execute("DROP TABLE metrics")  # as a server in the middle of an outage answers: with an error
        record.follow()
        other.rollback()
    assert "the sweep goes on and delivers later" in caplog.text
