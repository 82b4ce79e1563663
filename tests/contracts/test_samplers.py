"""What every sampler must keep; a sampler that is added to `Sampler` inherits it."""

from dataclasses import replace
from typing import get_args

import pytest

from clinscale.sweep import SearchSpace
from clinscale.sweep.ledger import Epoch, Trial
from clinscale.sweep.sampler import Proposer, Sampler

SPACE = SearchSpace.parse(
    {
        "parameters": {
            "optimizer.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True, "step": None},
            "batch_size": {"type": "categorical", "choices": [4, 8]},
            "long_documents": {"type": "categorical", "choices": ["truncate", "pool"]},
            "stride_tokens": {"type": "categorical", "choices": [16, 32], "when": {"long_documents": ["pool"]}},
        }
    },
    source="test",
)
FINITE = SPACE.with_fixed({"optimizer.learning_rate": 1e-3}, source="test")
STATES = ["complete", "pruned", "failed", "running", "paused", "lost"]


def ended(number, proposal, state="complete"):
    epochs = () if state == "failed" else (Epoch(1, 0.1 * (number % 5), 1.0, {}),)
    reason = "out_of_memory" if state == "failed" else None
    known = Trial(0, number, proposal.params, proposal.origin, 0, None, proposal.system_attrs, epochs, state)
    return replace(known, reason=reason)


@pytest.fixture(params=get_args(Sampler))
def proposer(request):
    space = FINITE if request.param == "grid" else SPACE
    return Proposer(space, sampler=request.param, seed=5)


def test_points_are_of_the_space_and_a_function_of_the_ledger(proposer, capfd):
    count = min(14, proposer.num_points() or 14)
    trials = []
    for number in range(count):  # trials of every state, as a ledger has them in the middle of a search
        proposal = proposer.propose(trials)
        assert dict(proposal.params) == proposer.space.active(proposal.params)
        assert all(proposer.space.parameters[key].holds(value) for key, value in proposal.params.items())
        assert set(proposal.params) == set(proposer.space._searched_at(proposal.params))
        proposer.space.recipe("model", proposal.params)
        assert proposer.propose(trials).params == proposal.params  # nothing is remembered but the ledger
        trials.append(ended(number, proposal, STATES[number % len(STATES)]))
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) > count // 3
    assert capfd.readouterr() == ("", "")
