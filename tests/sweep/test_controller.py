"""What workers ask and report becomes ledger entries, without Ray."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError

from clinscale.errors import CapacityError, ChangedDataError, ClusterError, DataError
from clinscale.sweep import Ledger, Proposer, SearchSpace, SweepConfig, SweepController, fork_runner
from clinscale.sweep import trial as trials
from clinscale.sweep.config import SweepRuntime
from clinscale.sweep.trial import CHANGED, FAILED, MESSAGE, NO_ROOM, run_segment
from clinscale.sweep.tune_runner import how_it_died
from clinscale.tasks import load_task

PARAMETERS = {"dropout": {"type": "float", "low": 0.0, "high": 0.5}}


def config(**recipe):
    study = {"name": "one", "task": "one", "data": ".", "models": ["one"]}
    values = {"name": "test", "recipe": {"studies": [study], "budget": {"trials": 4}, **recipe}}
    return SweepConfig.parse(values, source="test")


def controller(ledger, *, limit_minutes=None, slots=4, epochs=4, **recipe):
    values = {"parameters": PARAMETERS, "fixed": {"epochs": epochs}}
    space = SearchSpace.parse({**values, "constraints": {"minutes_per_trial": limit_minutes}}, source="test")
    proposer = Proposer(space, sampler="random")
    return SweepController(config(**recipe), ledger, [proposer], slots=lambda: slots, on_change=lambda: None)


def epoch(number, objective=0.5, seconds=10.0, work_s=10.0):
    return {
        "epoch": number,
        "step": number,
        "objective": objective,
        "device_seconds": seconds,
        "perf/train_s": work_s - 1,
        "perf/eval_s": 1.0,
        "time_this_iter_s": 99.0,
    }


def test_no_more_segments_than_slots():
    asked = controller(Ledger(), slots=2)
    assert asked.next_segment("a")
    assert asked.next_segment("b")
    assert asked.next_segment("c") is None
    assert not asked.finished, "a slot will be free again"


def test_forks_that_cannot_run_what_is_left_say_so_and_end_quietly_when_nothing_is(tmp_path):
    def run(asked):
        fork_runner.run(asked, print, folder=tmp_path, resources={}, reuse_processes=False)

    with pytest.raises(ClusterError, match=r"sweep test must have room for a trial while work is left"):
        run(controller(Ledger(), slots=0))
    done = controller(Ledger(), epochs=1, scheduler="none", budget={"trials": 1})
    done.next_segment("a")
    done.report("a", epoch(1))
    done.ended("a")
    run(done)
    assert done.finished


def test_what_tune_adds_to_a_report_is_not_kept():
    ledger = Ledger()
    asked = controller(ledger, scheduler="none")
    asked.next_segment("a")
    assert asked.report("a", epoch(1))
    [trial] = ledger.trials
    assert trial.epochs[0].metrics == {"step": 1.0, "perf/train_s": 9.0, "perf/eval_s": 1.0}


@pytest.mark.parametrize(("work_s", "state"), [(10.0, "running"), (20.0, "failed")])
def test_the_start_of_a_process_is_not_counted_for_every_epoch_of_a_trial(work_s, state):
    """40 seconds of the first epoch, 30 of them the start: 40 + 3 x 10 keep to the limit, 40 + 3 x 20 do not."""
    ledger = Ledger()
    asked = controller(ledger, limit_minutes=80 / 60, scheduler="none")
    asked.next_segment("a")
    assert asked.report("a", epoch(1, seconds=40.0, work_s=work_s)) is (state == "running")
    [trial] = ledger.trials
    assert trial.state == state
    if state == "failed":
        assert trial.reason == "over_time"
        assert "needs about 1.7 device-minutes" in trial.message


def test_a_full_disk_ends_the_sweep_and_no_trial(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    asked = controller(ledger)
    asked.next_segment("a")
    asked.report("a", epoch(1))
    with pytest.raises(CapacityError, match=r"sweep test: trial 00000 .*make room .* run the same command again"):
        asked.report("a", {FAILED: NO_ROOM, MESSAGE: "trial 00000 cannot write to x (No space left on device)"})
    asked.close()
    [trial] = ledger.trials
    assert (trial.state, trial.losses, trial.epoch) == ("lost", 0, 1)
    ledger.close()
    again = controller(Ledger(tmp_path / "ledger.jsonl"))
    assert again.next_segment("b").known_epochs == 1


def test_data_that_changed_end_the_sweep_and_no_trial():
    ledger = Ledger()
    asked = controller(ledger)
    asked.next_segment("a")
    with pytest.raises(ChangedDataError, match="sweep test: data of task x changed"):
        asked.report("a", {FAILED: CHANGED, MESSAGE: "data of task x changed"})
    [trial] = ledger.trials
    assert (trial.state, trial.losses) == ("lost", 0)


def test_a_ledger_that_cannot_be_written_leaves_its_trials_to_the_next_start(monkeypatch):
    ledger = Ledger()
    asked = controller(ledger)
    asked.next_segment("a")

    def refuse(*_):
        raise CapacityError("the disk is full")

    monkeypatch.setattr(ledger, "end", refuse)
    asked.close()
    assert ledger.trials[0].state == "running"


def test_the_beginning_of_an_epoch_that_its_looks_have_is_counted_with_it():
    """An epoch of 10 seconds, 4 of them before the look: 10 + 3 x 10 are above 36, 10 + 3 x 6 are not."""
    ledger = Ledger()
    asked = controller(ledger, limit_minutes=36 / 60, grace="0.4epochs", scheduler="median")
    asked.next_segment("a")
    assert asked.report("a", look(0, share=0.4, device_seconds=4.0, **{"perf/train_s": 4.0}))
    assert not asked.report("a", epoch(1, seconds=6.0, work_s=6.0))
    assert ledger.trials[0].reason == "over_time"


def test_a_trial_is_lost_a_finite_number_of_times():
    ledger = Ledger()
    asked = controller(ledger)
    for _ in range(1 + config().runtime.max_failures):
        assert asked.next_segment("a").trial == ledger.trials[0].id
        asked.died("a", "lost", "its process was killed")
    assert ledger.trials[0].state == "failed"
    assert asked.next_segment("b").trial != ledger.trials[0].id


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (None, "lost", "NoneType"),
        (ActorDiedError(), "lost", "ActorDiedError"),
        (OutOfMemoryError("the node's memory"), "out_of_memory", "OutOfMemoryError"),
        (ValueError("Mr Doe, aged 61, was admitted"), "error", "ValueError"),
        (DataError("row 3 has no text"), "error", "row 3 has no text"),
    ],
)
def test_a_foreign_error_on_ray_is_told_by_its_kind_only(error, reason, message):
    assert how_it_died(error) == (reason, message)


def test_a_segment_whose_host_had_too_little_memory_begins_again_with_half_the_micro_batch():
    asked = controller(Ledger())
    asked.next_segment("a")
    asked.died("a", "out_of_memory", "OutOfMemoryError")
    assert asked.next_segment("b").halvings == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")],
)
def test_memory_that_gives_out_between_steps_is_no_error_of_the_setting(error, monkeypatch, tmp_path):
    """As in an evaluation, or while the model is loaded."""

    def fail(*_):
        raise error

    monkeypatch.setattr(trials, "_train", fail)
    settings = SweepRuntime(cpus_per_trial=torch.get_num_threads())
    space = SearchSpace.parse({"parameters": PARAMETERS}, source="test")
    spec = SimpleNamespace(task=load_task("demo_pairs"), runtime=settings, space=space, folder=tmp_path / "sweep")
    ledger = Ledger()
    asked = controller(ledger)
    for _ in range(1 + settings.max_failures):
        segment = asked.next_segment("a")
        run_segment(lambda result: asked.report("a", result), segment, specs=(spec,))
    assert (ledger.trials[0].state, ledger.trials[0].reason) == ("failed", "out_of_memory")
    assert segment.halvings == settings.max_failures


def test_a_budget_of_time_ends_the_search():
    """25 device-seconds are spent within the third epoch of ten: what runs pauses, and nothing begins."""
    ledger = Ledger()
    asked = controller(ledger, budget={"usd": 2.0, "usd_per_device_hour": 2.0 * 3600 / 25}, scheduler="none")
    asked.next_segment("a")
    asked.next_segment("b")
    assert asked.report("a", epoch(1))
    assert asked.report("b", epoch(1))
    assert not asked.report("a", epoch(2))
    assert asked.next_segment("c") is None
    assert not asked.finished, "the other one is still at work"
    assert not asked.report("b", epoch(2))
    assert asked.next_segment("d") is None
    assert asked.finished
    asked.close()
    assert {trial.state for trial in ledger.trials} == {"pruned"}


def test_a_search_that_no_longer_pays_is_written_down_and_a_start_after_it_decides_the_same(tmp_path):
    options = {"budget": {"trials": 20}, "scheduler": "none", "epochs": 1, "stop_when_gain_below": 1.0, "slots": 2}
    ledger = Ledger(tmp_path / "ledger.jsonl")
    asked, begun = controller(ledger, **options), []
    while segment := asked.next_segment(str(len(begun))):
        begun.append(segment)
        asked.report(str(len(begun) - 1), epoch(1, 0.5, seconds=3600.0))
        asked.ended(str(len(begun) - 1))
    assert len(begun) == 8, "equal scores promise nothing, once there are enough of them"
    assert asked.finished == "another trial no longer pays"
    assert ledger.closed[0].trials == 8
    asked.close()
    ledger.close()
    again = Ledger(tmp_path / "ledger.jsonl")
    later = controller(again, **options)
    assert not later.work_left()
    assert later.next_segment("z") is None
    assert again.closed == ledger.closed


def test_what_was_not_promoted_is_pruned_at_the_end():
    ledger = Ledger()
    asked = controller(ledger, budget={"trials": 2}, grace_epochs=1, reduction_factor=2)
    asked.next_segment("a")
    assert not asked.report("a", epoch(1, 0.4)), "alone at the rung"
    asked.next_segment("b")
    assert asked.report("b", epoch(1, 0.6)), "the better half"
    assert not asked.report("b", epoch(2, 0.6)), "alone at the next rung"
    segment = asked.next_segment("c")
    assert (segment.trial, segment.known_epochs) == (ledger.trials[1].id, 2), "the leader is trained to its end"
    assert asked.report("c", epoch(3, 0.7))
    asked.report("c", epoch(4, 0.7))
    asked.ended("c")
    assert asked.next_segment("d") is None
    assert asked.finished
    asked.close()
    assert [trial.state for trial in ledger.trials] == ["pruned", "complete"]


def look(place, objective=0.5, share=0.1, **changes):
    report = {"look": place, "epoch": share, "step": 2, "look/one/accuracy": 0.5, "device_seconds": 3.0}
    return report | ({} if objective is None else {"objective": objective}) | changes


def test_a_look_pauses_its_trial_and_a_start_after_it_knows_where_it_is():
    ledger = Ledger()
    asked = controller(ledger, grace="0.1epochs", limit_minutes=1e-6)
    asked.next_segment("a")
    assert not asked.report("a", look(0)), "alone at the first rung"
    [trial] = ledger.trials
    assert (trial.state, str(trial.rung), trial.objective) == ("paused", "0.1epochs", None)
    assert trial.looks[0].metrics == {"step": 2.0, "look/one/accuracy": 0.5}
    asked.next_segment("b")
    assert asked.report("b", look(0, None, message="accuracy is not defined")), "judges nobody"
    assert ledger.trials[1].looks[0].message == "accuracy is not defined"
    asked.close()
    again = controller(ledger, grace="0.1epochs")
    segment = again.next_segment("c")
    assert (segment.trial, segment.known_epochs, segment.known_looks) == ("00001", 0.1, 1)


def test_what_diverges_at_a_look_fails_once():
    ledger = Ledger()
    asked = controller(ledger, grace="0.1epochs", budget={"trials": 1})
    asked.next_segment("a")
    assert not asked.report("a", {"failed": "not_a_number", "message": "the loss of epoch 1 is nan"})
    assert asked.next_segment("b") is None
    assert (ledger.trials[0].state, ledger.trials[0].reason) == ("failed", "not_a_number")


def test_an_interrupted_sweep_leaves_its_trials_to_the_next_start():
    ledger = Ledger()
    asked = controller(ledger)
    asked.next_segment("a")
    asked.close()
    [trial] = ledger.trials
    assert trial.state == "lost"
    again = controller(ledger)
    assert again.next_segment("b").trial == trial.id


def test_a_pickle_stands_for_the_live_conductor():
    """Tune pickles its searcher; a second writer of the ledger must not come of it."""
    asked = controller(Ledger())
    assert pickle.loads(pickle.dumps(asked)) is asked
    left = pickle.dumps(asked)
    asked.close()
    with pytest.raises(KeyError):
        pickle.loads(left)
