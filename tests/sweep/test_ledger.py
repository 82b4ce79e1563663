"""The ledger is the truth: what was written is read back, a torn tail costs nothing, two writers are refused."""

import json
import os
import resource
import shutil

import pytest

from clinscale.errors import CapacityError, ClusterError, DataError
from clinscale.sweep.ledger import Closed, Epoch, Ledger, Look, Trial, best_of, leader_of
from clinscale.units import Duration


def new(number, study=0, **changes):
    return Trial(study, number, {"batch_size": 8}, "sampler", 0, **changes)


def written(path):
    ledger = Ledger(path)
    first = ledger.start(new(0))
    ledger.report(first, Epoch(1, 0.5, 2.0, {"eval/x": 0.5, "step": 3}))
    ledger.end(first, "paused")
    second = ledger.start(new(1))
    ledger.end(second, "lost", "lost", "RayActorError")
    ledger.resume(first)
    ledger.report(first, Epoch(2, 0.7, 3.0, {"eval/x": float("nan")}))
    ledger.close()
    return ledger.trials


def test_what_was_written_is_read_back(tmp_path):
    trials = written(tmp_path / "ledger.jsonl")
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.trials == trials
    first, second = again.trials
    assert (first.state, first.epoch, first.objective, first.seconds) == ("running", 2, 0.7, 5.0)
    assert first.objective_at(1) == 0.5
    assert "eval/x" not in first.epochs[1].metrics  # no number, so not there
    assert (second.state, second.losses, second.objective) == ("lost", 1, None)


def test_an_epoch_is_known_once(tmp_path):
    ledger = Ledger()
    trial = ledger.start(new(0))
    ledger.report(trial, Epoch(1, 0.5, 2.0))
    ledger.report(trial, Epoch(1, 0.9, 9.0))
    assert ledger.trial(0, 0).epochs == (Epoch(1, 0.5, 2.0),)


def look(share, value, **changes):
    return Look(Duration(share, "epochs"), share, value, 2.0, **changes)


def test_looks_come_before_epochs_and_are_no_scores_of_the_split(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    trial = ledger.start(new(0))
    ledger.look(trial, look(0.1, 0.9, metrics={"look/x": 0.9, "step": 2.0}))
    ledger.look(trial, look(0.1, 0.1))  # known
    trial = ledger.look(trial, look(0.3, None, message="x is not defined on the 8 examples of a look"))
    assert (trial.objective, trial.epoch, trial.reached, trial.rung) == (None, 0, 0.3, Duration(0.3, "epochs"))
    assert best_of(ledger.trials) is None
    assert leader_of(ledger.trials) == trial, "by its only look with a score"
    trial = ledger.report(trial, Epoch(1, 0.5, 2.0))
    assert (trial.objective, trial.rung, trial.seconds, len(trial.reports)) == (0.5, 1, 6.0, 3)
    assert trial.objective_at(Duration(0.1, "epochs")) == 0.9
    assert trial.objective_at(Duration(0.3, "epochs")) is None
    assert ledger.look(trial, look(0.5, 0.7)) == trial, "nothing comes before what is known"
    ledger.close()
    assert Ledger(tmp_path / "ledger.jsonl").trials == [trial]


def test_a_study_is_closed_once(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.start(new(0))
    ledger.close_study(0, Closed(1, 0.5, 1.0))
    ledger.close_study(0, Closed(9, 0.1, 1.0))
    ledger.close()
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.closed == ledger.closed == {0: Closed(1, 0.5, 1.0)}
    assert len(again.trials) == 1


def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "ledger.jsonl"
    trials = written(path)
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-cut])
        ledger = Ledger(path)
        assert ledger.trials[0].epoch == 1
        ledger.report(ledger.trials[0], trials[0].epochs[1])
        ledger.close()
        assert Ledger(path).trials == trials


def test_a_damaged_line_in_the_middle_is_refused_by_its_number(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:10]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="line 3 is damaged"):
        Ledger(path)


def test_a_line_is_on_the_disk_before_anything_is_done_on_its_strength(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "ledger.jsonl", [], os.fsync
    ledger = Ledger(path)

    def recorded(descriptor):
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, path.read_bytes(), len(ledger.trials)))

    monkeypatch.setattr(os, "fsync", recorded)
    for known in (0, 1):
        synced.clear()
        ledger.start(new(known))
        assert synced == [(path.stat().st_ino, path.read_bytes(), known)]


def test_a_disk_that_takes_half_a_line_leaves_a_ledger_that_goes_on(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    trials, whole = [ledger.start(new(0))], path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
    try:
        with pytest.raises(CapacityError, match=r"ledger\.jsonl cannot be written"):
            ledger.start(new(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (ledger.trials, path.read_bytes()) == (trials, whole)
    trials.append(ledger.start(new(1)))
    ledger.close()
    assert Ledger(path).trials == trials


def test_one_process_writes(tmp_path):
    first = Ledger(tmp_path / "s" / "ledger.jsonl")
    with pytest.raises(ClusterError, match="sweep s is being run by another process"):
        Ledger(tmp_path / "s" / "ledger.jsonl")
    first.close()
    Ledger(tmp_path / "s" / "ledger.jsonl")


def test_events_are_json_lines_without_text_of_notes(tmp_path):
    written(tmp_path / "ledger.jsonl")
    kinds = [json.loads(line)["event"] for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert kinds == ["start", "epoch", "end", "start", "end", "resume", "epoch"]


def test_the_best_is_a_searched_trial_that_did_not_fail():
    ledger = Ledger()
    for number, (value, state) in enumerate(
        [(0.5, "complete"), (0.9, "failed"), (0.7, "paused"), (0.7, "complete")]
    ):
        trial = ledger.start(new(number))
        ledger.report(trial, Epoch(1, value, 1.0))
        ledger.end(trial, state)
    confirm = ledger.start(Trial(0, 4, {}, "confirm", 1, of=0))
    ledger.report(confirm, Epoch(1, 0.95, 1.0))
    assert best_of(ledger.trials).number == 2
    assert best_of([]) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"event":"epoch","study":0,"number":9,"epoch":1,"objective":1,"seconds":1,"metrics":{}}',
        '{"event":"epoch","study":0,"number":0,"epoch":1,"objective":0.5,"seconds":2.0,"metrics":{}}',
        '{"event":"start","study":0,"number":0,"params":{},"origin":"sampler","seed":0,"system_attrs":{}}',
        '{"event":"start","study":[0],"number":0,"params":{},"origin":"sampler","seed":0,"system_attrs":{}}',
        '{"event":"resume","study":0,"number":' + "9" * 5000 + "}",
        '{"event":"end","study":0,"number":0,"state":"gone","reason":null,"message":""}',
        '{"event":"end","study":0,"number":0}',
        '{"event":"stop","study":0,"number":0}',
        '{"event":"close","study":7,"trials":1,"gain":0.5,"limit":1.0}',
        '{"event":"close","study":0,"trials":1,"gain":Infinity,"limit":1.0}',
        '{"event":"look","study":0,"number":0,"at":"0.1epochs","epoch":1.0,"objective":null,"seconds":1,"metrics":{},'
        '"message":""}',
        '{"event":"look","study":0,"number":0,"at":"soon","epoch":1.5,"objective":null,"seconds":1,"metrics":{},'
        '"message":""}',
        '{"event":"epoch","study":0,"number":0,"epoch":2,"objective":NaN,"seconds":1,"metrics":{}}',
        "[" * 100_000,
        "\0",
        "",
    ],
)
def test_a_line_that_cannot_follow_those_before_it_is_refused_by_its_number(line, tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path)
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole[:2], line, *whole[2:]]) + "\n")
    with pytest.raises(DataError, match="line 3 is damaged"):
        Ledger(path)


def test_a_pipe_is_no_ledger(tmp_path):
    os.mkfifo(tmp_path / "ledger.jsonl")
    with pytest.raises(DataError, match="no regular file"):
        Ledger(tmp_path / "ledger.jsonl")


@pytest.mark.parametrize("how", ["deleted", "put back from a backup"])
def test_a_ledger_that_is_no_longer_the_file_of_its_name_is_not_written(tmp_path, how):
    home, backup = tmp_path / "home", tmp_path / "backup"
    ledger = Ledger(home / "ledger.jsonl")
    ledger.start(new(0))
    shutil.copytree(home, backup)
    ledger.end(ledger.trial(0, 0), "paused")
    shutil.rmtree(home)
    if how != "deleted":
        backup.rename(home)
    with pytest.raises(ClusterError, match=r"ledger.jsonl was deleted or replaced while it ran; .* run the same"):
        ledger.start(new(1))
    assert [trial.number for trial in ledger.trials] == [0]
    ledger.close()
    if how != "deleted":
        assert [trial.state for trial in Ledger(home / "ledger.jsonl").trials] == ["running"]
