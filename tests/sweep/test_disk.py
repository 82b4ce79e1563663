"""What goes: over the quota never a finalist and paused trials last, after the end what the policy does not keep."""

from dataclasses import replace

import pytest

from clinscale.sweep.disk import FreedSpace, clean_up, remove_trials, size_bytes
from clinscale.sweep.ledger import Epoch, Trial
from clinscale.sweep.trial import state_file, trial_folder


def trials_on_disk(folder):
    made = []
    for number, (value, state) in enumerate(
        [
            (0.1, "complete"),
            (0.9, "complete"),
            (0.8, "complete"),
            (0.2, "pruned"),
            (0.3, "paused"),
            (0.5, "paused"),
        ]
    ):
        trial = Trial(0, number, {}, "sampler", 0, epochs=(Epoch(1, value, 1.0),), state=state)
        hf = trial_folder(folder, trial.id)
        hf.mkdir(parents=True)
        (hf / "model.safetensors").write_bytes(b"0" * 1000)
        state_file(folder, trial.id).write_bytes(b"0" * 2000)
        made.append(trial)
    return made


def left(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_the_state_of_ended_trials_goes_and_that_of_paused_ones_stays(tmp_path):
    trials = trials_on_disk(tmp_path)
    clean_up({0: tmp_path}, trials, None)
    assert [trial.number for trial in trials if state_file(tmp_path, trial.id).exists()] == [4, 5]
    assert left(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_over_the_quota_the_least_missed_go_first(tmp_path):
    trials = trials_on_disk(tmp_path)
    clean_up({0: tmp_path}, trials, 9_000)
    assert left(tmp_path) == [0, 1, 2, 4, 5], "0, 1 and 2 are the finalists"
    clean_up({0: tmp_path}, trials, 6_000)
    assert left(tmp_path) == [0, 1, 2, 5], "4 is the weaker of the paused"
    assert size_bytes(tmp_path) <= 6_000
    clean_up({0: tmp_path}, trials, 1.0)
    assert left(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("all", [0, 1, 2, 3, 4, 5, 6, 7]), ("finalists", [0, 1, 2, 6]), ("winner", [6])],
)
def test_after_the_end_the_policy_says_whose_weights_stay(tmp_path, keep, kept):
    trials = trials_on_disk(tmp_path)
    for number, of in ((6, 1), (7, 3)):  # further seeds of a finalist and of one that was overtaken
        trials.append(replace(trials[of], number=number, origin="confirm", of=of, seed=1))
        trial_folder(tmp_path, trials[-1].id).mkdir(parents=True)
    winner, before = trial_folder(tmp_path, trials[6].id), size_bytes(tmp_path)
    freed = remove_trials(tmp_path, trials, keep, winner=winner)
    assert left(tmp_path) == kept
    assert freed == FreedSpace(8 - len(kept), before - size_bytes(tmp_path))
    assert remove_trials(tmp_path, trials, keep, winner=winner) == FreedSpace()
