"""Points are a function of the ledger: samplers are restored by asking again, and Optuna is told the truth."""

from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from clinscale.errors import ConfigError
from clinscale.sweep import SearchSpace
from clinscale.sweep.ledger import Epoch, Trial
from clinscale.sweep.sampler import Proposer, study_of

SPACE = SearchSpace.parse(
    {
        "parameters": {
            "optimizer.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "dropout": {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1},
            "batch_size": {"type": "categorical", "choices": [4, 8]},
        },
        "first_trials": [{"optimizer.learning_rate": 1e-3, "dropout": 0.1, "batch_size": 8}],
    },
    source="test",
)


def searched(proposer, count, score=lambda params: -abs(params["optimizer.learning_rate"] - 3e-3)):
    """A search of `count` trials, each told its score."""
    trials = []
    for number in range(count):
        proposal = proposer.propose(trials)
        epochs = (Epoch(1, score(proposal.params), 1.0, {"perf/latency_s": 0.1}),)
        trials.append(
            Trial(0, number, proposal.params, proposal.origin, 0, None, proposal.system_attrs, epochs, "complete")
        )
    return trials


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "gp", "cmaes"])
def test_a_sampler_that_learns_begins_with_points_that_leave_no_corner_out(sampler):
    first = ({"optimizer.learning_rate": 3e-3, "dropout": 0.1, "batch_size": 8},)
    trials = searched(Proposer(SPACE, sampler=sampler, seed=1, first=first), 8)
    assert [trial.params for trial in trials] == [*first, *SPACE.quasi_random(7, 1)]


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "gp", "cmaes", "qmc", "random", "nsga2"])
def test_the_next_point_is_a_function_of_the_trials_so_far(sampler):
    proposer = Proposer(SPACE, sampler=sampler, seed=3, first=SPACE.first_trials)
    trials = searched(proposer, 12)
    assert trials[0].params == SPACE.first_trials[0]
    assert len({tuple(trial.params.items()) for trial in trials}) > 8
    again = Proposer(SPACE, sampler=sampler, seed=3, first=SPACE.first_trials)
    for number in (4, 10, 11):  # as after a crash: nothing but the ledger is left
        assert again.propose(trials[:number]).params == trials[number].params
    other = Proposer(SPACE, sampler=sampler, seed=4, first=SPACE.first_trials)
    assert [other.propose(trials[:n]).params for n in (4, 5, 6)] != [trial.params for trial in trials[4:7]]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "nsga2"])
def test_optunas_points_are_on_the_step_so_that_conditions_hold(sampler):
    tenths = {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1}
    sizes = {"type": "categorical", "choices": [4, 8], "when": {"dropout": [0.1, 0.3]}}
    space = SearchSpace.parse({"parameters": {"dropout": tenths, "batch_size": sizes}}, source="test")
    points = [
        trial.params for trial in searched(Proposer(space, sampler=sampler), 30, lambda params: params["dropout"])
    ]
    assert {point["dropout"] for point in points} <= {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}
    assert all(("batch_size" in point) == (point["dropout"] in (0.1, 0.3)) for point in points)


def test_a_model_of_the_scores_searches_where_they_are_high():
    trials = searched(Proposer(SPACE, seed=0), 40)
    late = sorted(abs(trial.params["optimizer.learning_rate"] - 3e-3) for trial in trials[20:])
    early = sorted(abs(trial.params["optimizer.learning_rate"] - 3e-3) for trial in trials[:8])
    assert late[10] < early[4]


def test_a_grid_holds_every_point_once_and_refuses_a_range_without_steps():
    space = SearchSpace.parse(
        {"parameters": {key: value.plain() for key, value in list(SPACE.parameters.items())[1:]}}, source="test"
    )
    proposer = Proposer(space, sampler="grid")
    assert proposer.num_points() == 8
    points = {tuple(trial.params.values()) for trial in searched(proposer, 8, lambda params: 0.0)}
    assert len(points) == 8
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate has no end of values"):
        Proposer(SPACE, sampler="grid").num_points()
    large = SearchSpace.parse(
        {"parameters": {"stride_tokens": {"type": "int", "low": 0, "high": 10**9}}}, source="test"
    )
    with pytest.raises(ConfigError, match="at most 100,000 points, got 1,000,000,001"):
        Proposer(large, sampler="grid").num_points()


def test_a_grid_that_is_gone_on_with_in_the_order_it_was_begun_leaves_no_point_out():
    rates = {"type": "categorical", "choices": [1e-4, 1e-3, 1e-2]}
    sizes = {"type": "categorical", "choices": [4, 8]}
    begun = SearchSpace.parse(
        {"parameters": {"optimizer.learning_rate": rates, "batch_size": sizes}}, source="test"
    )
    turned = SearchSpace.parse(
        {"parameters": {"batch_size": sizes, "optimizer.learning_rate": rates}}, source="test"
    )
    assert turned.plain() == begun.plain(), "one recipe, which a start of the same name goes on with"
    points = [
        trial.params for trial in searched(Proposer(turned.in_order(list(begun.parameters)), sampler="grid"), 6)
    ]
    assert points == [trial.params for trial in searched(Proposer(begun, sampler="grid"), 6)]


def test_warm_points_come_first_and_none_twice():
    warm = ({"optimizer.learning_rate": 5e-3, "dropout": 0.0, "batch_size": 4}, SPACE.first_trials[0])
    proposer = Proposer(SPACE, first=SPACE.first_trials, warm=warm)
    trials = searched(proposer, 3)
    assert [trial.origin for trial in trials] == ["warm", "warm", "sampler"]
    assert [trial.params for trial in trials[:2]] == list(warm)


def frozen(**changes):
    epochs = (Epoch(1, 0.4, 1.0), Epoch(2, 0.5, 1.0))
    trial = Trial(0, 0, SPACE.first_trials[0], "first", 0, epochs=epochs, state="complete")
    [found] = study_of([replace(trial, **changes)], SPACE).trials
    return found


def test_optuna_is_told_the_truth():
    assert (frozen().state, frozen().value) == (TrialState.COMPLETE, 0.5)
    paused = frozen(state="paused")
    assert (paused.state, paused.intermediate_values) == (TrialState.PRUNED, {1: 0.4, 2: 0.5})
    assert frozen(state="running").state == TrialState.RUNNING
    failed = frozen(state="failed", reason="error")
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, "error")
    large = frozen(state="failed", reason="out_of_memory", epochs=())
    assert large.constraints == {"out_of_memory": 1.0}
    assert large.state == TrialState.PRUNED  # so that samplers look at it at all


def test_a_setting_that_does_not_fit_repels_the_search():
    def trials(infeasible):
        found = []
        for number in range(24):
            point = {"optimizer.learning_rate": 3e-3, "dropout": 0.1, "batch_size": 4 if number % 2 else 8}
            score = 0.5 if number % 2 else 0.7
            epochs = () if infeasible and number % 2 == 0 else (Epoch(1, score, 1.0),)
            state, reason = ("complete", None) if epochs else ("failed", "out_of_memory")
            found.append(Trial(0, number, point, "sampler", 0, epochs=epochs, state=state, reason=reason))
        return found

    def share_of_8(infeasible):
        points = [Proposer(SPACE, seed=seed).propose(trials(infeasible)).params for seed in range(30)]
        return sum(point["batch_size"] == 8 for point in points) / len(points)

    assert share_of_8(infeasible=True) < share_of_8(infeasible=False)


def test_where_nothing_could_be_trained_so_far_points_are_quasi_random():
    proposer = Proposer(SPACE, seed=1)
    trials = [
        Trial(0, number, point, "sampler", 0, epochs=(Epoch(1, 0.5, 1.0),), state="failed", reason="not_a_number")
        for number, point in enumerate(SPACE.quasi_random(12, 1))
    ]
    assert proposer.propose(trials).params == SPACE.quasi_random(13, 1)[12]


def test_several_objectives_make_a_front():
    objectives = ("score", "cost")
    trials = searched(Proposer(SPACE, seed=1, objectives=objectives), 12)
    study = study_of(trials, SPACE, objectives)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.best_trials
    assert optuna.logging.get_verbosity() != optuna.logging.ERROR, "others still hear Optuna"


def test_half_of_the_first_points_follow_a_prior_which_other_samplers_refuse():
    told = SPACE.plain()
    told["parameters"]["dropout"]["prior"] = {"center": told["parameters"]["dropout"]["low"], "spread": 0.05}
    space = SearchSpace.parse(told, source="test")
    shares = [space.parameters["dropout"].share(t.params["dropout"]) for t in searched(Proposer(space), 8)]
    assert sum(share < 0.2 for share in shares[::2]) >= 3
    assert max(shares[1::2]) > 0.5
    with pytest.raises(ConfigError, match="surrogate"):
        Proposer(space, sampler="tpe")
    assert "prior" not in SPACE.plain()["parameters"]["dropout"], "recorded spaces keep their fingerprint"
    told["parameters"]["dropout"]["prior"]["center"] = 7.0
    with pytest.raises(ConfigError, match="center of a prior"):
        SearchSpace.parse(told, source="test")
