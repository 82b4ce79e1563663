"""Does length pay: models on one test set, short windows against long ones."""

import pytest

from clinscale.registry import Tag
from clinscale.report import write_report
from clinscale.report.gather import gather


def test_the_best_long_model_is_compared_with_the_best_short_one(past, tracking):
    past.judged("bert", 512, [True] * 20 + [False] * 20, dev=0.6, others=[[True] * 21 + [False] * 19])
    past.judged("worse-bert", 512, [True] * 40, dev=0.5)  # best on the test, but not by development score
    past.judged("longformer", 4096, [True] * 36 + [False] * 4, dev=0.9, others=[[True] * 35 + [False] * 5])
    [answer] = gather(tracking).lengths
    assert (answer.task, answer.metric) == ("demo", "accuracy")
    assert [model.name for model in answer.models] == ["bert", "worse-bert", "longformer"]
    assert (answer.short.name, answer.long.name) == ("bert", "longformer")
    assert answer.comparison.difference.value == pytest.approx(0.4)
    assert answer.comparison.p_value < 0.01
    assert answer.verdict == "length pays"
    assert [band.name for band in answer.bands] == [
        "1-512_tokens",
        "513-1024_tokens",
        "1025-2048_tokens",
        "2049-4096_tokens",
    ]
    assert sum(band.examples for band in answer.long.bands.values()) == 40


@pytest.mark.parametrize(
    ("long", "verdict"),
    [(20, "no difference that these seeds and this test set can show"), (3, "length does not pay")],
)
def test_the_verdict_is_no_better_than_the_test(past, tracking, long, verdict):
    short, long = ([True] * hits + [False] * (40 - hits) for hits in (20, long))
    past.judged("short", 512, short, others=[short])
    past.judged("long", 4096, long, others=[long])
    [answer] = gather(tracking).lengths
    assert answer.verdict == verdict


def test_one_seed_each_cannot_tell(past, tracking):
    past.judged("short", 512, [True] * 3 + [False] * 37)
    past.judged("long", 4096, [True] * 38 + [False] * 2)
    [answer] = gather(tracking).lengths
    assert answer.verdict == "one seed each cannot decide"


def test_a_lucky_seed_does_not_make_length_pay(past, tracking):
    def seeds(*hits):
        return [[True] * n + [False] * (40 - n) for n in hits]

    kept, *others = seeds(34, 20, 25)
    past.judged("long", 4096, kept, others=others)
    kept, *others = seeds(24, 28, 25)
    past.judged("short", 512, kept, others=others)
    [answer] = gather(tracking).lengths
    assert answer.comparison.p_value < 0.05  # what the kept seeds alone would claim
    assert answer.verdict == "no difference that these seeds and this test set can show"


def test_one_window_and_other_tasks_ask_nothing(past, tracking):
    past.judged("a", 4096, [True] * 4, task="one")
    past.judged("b", 1024, [True] * 4, task="one")
    past.judged("c", 512, [True] * 4, task="two")
    assert gather(tracking).lengths == ()


def test_runs_judged_on_other_examples_are_not_compared(past, tracking):
    past.judged("short", 512, [True] * 20)
    past.judged("long", 4096, [True] * 30)
    assert gather(tracking).lengths == ()


def test_each_version_of_the_data_has_its_own_answer(past, tracking):
    for data, of in (("new", 40), ("old", 30)):
        past.judged(f"short-{data}", 512, [True] * 10 + [False] * (of - 10), tags={Tag.DATA: data})
        past.judged(f"long-{data}", 4096, [True] * (of - 2) + [False] * 2, tags={Tag.DATA: data})
    found = [{model.name for model in answer.models} for answer in gather(tracking).lengths]
    assert found == [{"short-new", "long-new"}, {"short-old", "long-old"}]


def test_the_page_answers_the_question(past, tracking, tmp_path):
    short, long = ([True] * hits + [False] * (40 - hits) for hits in (20, 38))
    past.judged("short-512", 512, short, others=[short])
    past.judged("long-4096", 4096, long, others=[long])
    page = write_report(tracking, tmp_path / "r.html").read_text()
    assert "Does length pay?" in page
    assert "demo: length pays" in page
    assert "+0.450" in page
    assert "513–1,024" in page


def test_of_several_tasks_one_that_is_just_beyond_noise_alone_is_none(past, tracking):
    def judged(task, name, window, hits):
        past.judged(
            name,
            window,
            [True] * hits + [False] * (40 - hits),
            task=task,
            others=[[True] * hits + [False] * (40 - hits)],
        )

    judged("just", "short", 512, 30)
    judged("just", "long", 4096, 37)
    [alone] = gather(tracking).lengths
    assert alone.verdict == "length pays"
    for task in ("b", "c", "d", "e", "f", "g", "h"):
        judged(task, f"short-{task}", 512, 20)
        judged(task, f"long-{task}", 4096, 20)
    [just] = [answer for answer in gather(tracking).lengths if answer.task == "just"]
    assert just.over_seeds.p_value < 0.05 < just.p_value
    assert just.verdict == "no difference that these seeds and this test set can show"
