"""What may be offered in place of a winner is a function of its study's trials and the development split."""

from clinscale.sweep.ledger import Epoch, Trial
from clinscale.sweep.offers import Offer, best_offer, soup_candidates


def trial(number, value, **changes):
    epochs = () if value is None else (Epoch(1, value, 1.0),)
    values = {"study": 0, "number": number, "params": {"model": 0}, "origin": "sampler", "seed": 0}
    return Trial(**values | {"epochs": epochs, "state": "complete"} | changes)


def test_a_soup_is_made_of_trials_that_began_from_the_same_weights_the_best_first():
    kept = trial(3, 0.9)
    others = [
        trial(0, 0.7, state="pruned"),
        trial(1, 0.8),
        trial(2, 0.85, params={"model": 1}),
        trial(4, 0.88, origin="confirm", seed=1, of=3),
        trial(5, 0.95, state="failed"),
        trial(6, None, state="pruned"),
        trial(7, 0.8),
    ]
    assert [one.number for one in soup_candidates([*others, kept], kept)] == [3, 1, 7, 0]
    many = [trial(n, n / 100) for n in range(20)]
    assert [one.number for one in soup_candidates(many, many[4])] == [4, 19, 18, 17, 16, 15]


def test_an_offer_is_taken_only_where_it_is_better_than_the_winner():
    soup, average = Offer("soup", "trials 3, 1", 0.8, 0.8), Offer("average", "epochs 2 to 3 of trial 3", 0.7, 0.8)
    assert best_offer([soup, average]) is None
    better = Offer("average", "epochs 2 to 3 of trial 3", 0.82, 0.8)
    assert best_offer([soup, better]) == better
    assert best_offer([]) is None
    assert better.sentence("f1") == (
        "the average of epochs 2 to 3 of trial 3 has dev f1 0.8200, the winner alone 0.8000"
    )
