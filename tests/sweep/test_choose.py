"""Decisions are pure functions, so they are a table."""

import pytest

from clinscale.errors import ClusterError
from clinscale.sweep.choose import Keep, Promote, Trial, choose_winner, decide


def test_the_highest_score_wins_and_the_earlier_of_equals():
    trials = [Trial("a", 0.5, {}), Trial("b", 0.7, {}), Trial("c", 0.7, {})]
    assert choose_winner("s", trials).id == "b"


def test_a_sweep_without_scores_has_no_winner():
    with pytest.raises(ClusterError, match="sweep s: no trial finished"):
        choose_winner("s", [])


@pytest.mark.parametrize(
    ("champion", "kind"),
    [
        (None, Promote),
        ({"metric": "f1", "value": "0.4", "data": "d"}, Promote),
        ({"metric": "f1", "value": "0.5", "data": "d"}, Keep),
        ({"metric": "f1", "value": "0.6", "data": "d"}, Keep),
        ({"metric": "f1", "value": "0.9", "data": "other"}, Promote),
        ({"metric": "accuracy", "value": "0.9", "data": "d"}, Promote),
    ],
)
def test_the_champion_moves_only_for_a_better_score_on_the_same_data(champion, kind):
    assert isinstance(decide("f1", 0.5, "d", champion), kind)
