"""Patience with what is away: pauses that grow, and an end."""

import math
from types import SimpleNamespace

import pytest

from clinscale import patience
from clinscale.patience import Patience, ask_again


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `clock.sleep` moves."""

    def sleep(pause_s):
        clock.pauses.append(pause_s)
        clock.now += pause_s

    clock = SimpleNamespace(now=0.0, pauses=[], sleep=sleep)
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_pauses_double_up_to_the_longest(clock):
    endless = Patience(math.inf, longest_pause_s=10)
    assert all(endless.pause(clock.sleep) for _ in range(6))
    assert clock.pauses == [1, 2, 4, 8, 10, 10]
    assert endless.left_s == math.inf


def test_the_last_try_is_at_the_end_of_the_time_and_then_none(clock):
    short = Patience(5)
    while short.pause(clock.sleep):
        pass
    assert clock.pauses == [1, 2, 2]
    assert (clock.now, short.left_s) == (5, 0)


def test_no_time_is_no_second_try(clock):
    assert not Patience(0).pause(clock.sleep)
    assert clock.pauses == []


def test_what_is_away_is_asked_again_and_both_are_said(monkeypatch, caplog):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    answers = [ConnectionError("gone"), ConnectionError("gone"), 7]

    def ask():
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    assert ask_again(ask, lambda error: "gone", what="store s", total_s=60) == 7
    assert caplog.messages == ["store s does not answer (gone); trying again for 60 s", "store s answers again"]


def test_the_error_of_the_last_try_and_one_that_is_an_answer_go_through(caplog):
    for why, total_s in ((None, 60), ("gone", 0)):
        with pytest.raises(ZeroDivisionError):
            ask_again(lambda: 1 / 0, lambda error, why=why: why, what="store s", total_s=total_s)
    assert not caplog.messages
