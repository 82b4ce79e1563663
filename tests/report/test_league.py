"""The league table: what is bold, what length gains, and what the sentence above it dares to say."""

import pytest
import scipy.stats

from clinscale import registry
from clinscale.registry import Tag
from clinscale.report import league_markdown, leagues, write_report


def seeds(*hits, of=40):
    return [[True] * n + [False] * (of - n) for n in hits]


@pytest.fixture
def cell(past):
    """`cell(model, window, task, hits of each seed)`: one search of the study `trial`."""

    def cell(model, window, task, *hits, **changes):
        kept, *others = seeds(*hits, of=changes.pop("of", 40))
        tags = {Tag.LEAGUE: "trial", Tag.ARM: model, Tag.TRIALS: "4", Tag.DEVICE_SECONDS: "1800"}
        tags |= changes.pop("tags", {})
        past.judged(f"{task}-{model}", window, kept, task=task, others=others, tags=tags, **changes)

    return cell


def table(tracking):
    [league] = leagues(tracking, registry.read_runs(tracking))
    return league


def test_the_best_is_bold_only_where_it_is_better_beyond_noise(cell, tracking):
    cell("short", 512, "clear", 10, 11, 12)
    cell("long", 4096, "clear", 38, 37, 38)
    cell("short", 512, "close", 30, 31, 29)
    cell("long", 4096, "close", 31, 30, 31)
    league = table(tracking)
    assert league.models == ("short", "long")
    clear, close = league.rows
    assert (clear.best, clear.is_clear, clear.length_pays) == ("long", True, True)
    assert (close.best, close.is_clear, close.length_pays) == ("long", False, None)
    assert clear.entries["long"].score.value == pytest.approx((38 + 37 + 38) / 120)
    assert "better beyond noise on 1 of 2 tasks (clear)" in league.verdict
    page = league_markdown(league)
    assert "**0.942**" in page
    assert page.count("**") == 2
    assert (league.trials, league.device_hours) == (16, 2.0)


def test_a_table_without_any_difference_says_so(cell, tracking):
    for task in ("one", "two"):
        cell("short", 512, task, 30, 31, linear=0.9)
        cell("long", 4096, task, 31, 30, linear=0.9)
    verdict = table(tracking).verdict
    assert "0 of 2 tasks: these tests show no difference" in verdict
    assert "On no task is one model better than all others beyond noise" in verdict
    assert "No model scores above the linear baseline on one, two" in verdict


def test_one_seed_each_is_never_bold(cell, tracking):
    cell("short", 512, "demo", 2)
    cell("long", 4096, "demo", 39)
    league = table(tracking)
    assert not league.rows[0].is_clear
    assert "one seed, of which the noise between seeds is not known" in league.verdict
    assert "**" not in league_markdown(league)


def test_many_tests_ask_for_more_than_one_does(cell, tracking):
    """Each task asks two questions, for the best model and for length: of two tasks there are four, of one two."""
    cell("short", 512, "alone", 26, 27, 26)
    cell("long", 4096, "alone", 34, 32, 33)
    [row] = table(tracking).rows
    alone = row.p_best
    cell("short", 512, "other", 30, 30, 31)
    cell("long", 4096, "other", 30, 31, 30)
    row = table(tracking).rows[0]
    assert (row.p_best, row.p_gain) == (pytest.approx(2 * alone), pytest.approx(2 * alone))


def test_ranks_come_with_their_critical_difference(cell, tracking):
    for task in ("a", "b", "c"):
        for place, model in enumerate(("first", "second", "third")):
            cell(model, 512, task, 36 - 4 * place, 35 - 4 * place)
    cell("first", 512, "d", 10, 10)  # not all were asked: no rank
    league = table(tracking)
    assert league.mean_ranks == {"first": 1.0, "second": 2.0, "third": 3.0}
    assert league.ranked_tasks == 3
    q = scipy.stats.studentized_range.ppf(0.95, 3, float("inf")) / 2**0.5
    assert league.critical_difference == pytest.approx(q * (3 * 4 / 18) ** 0.5)
    assert league.critical_difference == pytest.approx(2.343 * (3 * 4 / 18) ** 0.5, abs=1e-3)  # Demsar's table 5


def test_a_test_set_that_a_base_may_have_seen_is_named(cell, tracking):
    cell("short", 512, "demo", 30, 30, tags={Tag.SEEN_TESTS: "true"})
    cell("long", 4096, "demo", 31, 31)
    assert "may have seen the test documents of demo" in table(tracking).verdict


def test_the_report_shows_the_table(cell, tracking, tmp_path):
    cell("short <512>", 512, "demo", 10, 11)
    cell("long", 4096, "demo", 38, 39)
    html = write_report(tracking, tmp_path / "report.html").read_text()
    assert "League table: trial" in html
    assert "short &lt;512&gt;" in html
    assert "better beyond noise on 1 of 1 task (demo)" in html


def test_a_sweep_with_one_model_of_each_task_has_no_table(cell, tracking):
    cell("entities", 512, "demo_entities", 30, 31)
    cell("pairs", 512, "demo_pairs", 30, 31)
    assert leagues(tracking, registry.read_runs(tracking)) == ()


def test_the_models_whose_length_is_compared_are_chosen_on_the_development_split(cell, tracking):
    cell("short", 512, "demo", 20, 21, dev=0.5)
    cell("lucky", 4096, "demo", 38, 38, dev=0.7)
    cell("chosen", 4096, "demo", 30, 31, dev=0.8)
    [row] = table(tracking).rows
    assert (row.best, row.gain.long, row.gain.short) == ("lucky", "chosen", "short")
    assert row.gain.long_notes == 36 / 40, "of 520 words and more"


def test_of_two_searches_of_one_cell_the_latest_is_shown_and_that_is_said(cell, tracking):
    for hits in (10, 30):
        cell("short", 512, "demo", hits, hits)
    cell("long", 4096, "demo", 38, 39)
    league = table(tracking)
    assert league.rows[0].entries["short"].score.value == 30 / 40
    assert league.repeated == ("short on demo",)
    assert "Several searches were judged of short on demo: the latest of each is shown." in league.verdict


def test_models_that_were_judged_on_different_test_examples_have_no_rank(cell, tracking):
    for task in ("a", "b"):
        cell("short", 512, task, 30, 31)
        cell("long", 4096, task, 33, 34)
    assert table(tracking).mean_ranks
    cell("long", 4096, "b", 33, 34, of=39)
    league = table(tracking)
    assert (league.apart, league.mean_ranks, league.ranked_tasks) == (("b",), {}, 1)
    assert "The models of b were judged by different metrics or on other test examples" in league.verdict


def test_a_metric_that_is_not_defined_on_the_test_examples_is_named_and_spoils_no_rank(cell, tracking, tmp_path):
    for task in ("a", "b"):
        cell("short", 512, task, 30, 31)
        cell("long", 4096, task, 33, 34)
    for model, window in (("short", 512), ("long", 4096)):
        cell(model, window, "one label", 30, 31, metric="roc_auc")
    league = table(tracking)
    assert [row.task for row in league.rows] == ["a", "b"]
    assert league.mean_ranks == {"short": 2.0, "long": 1.0}
    assert "The metric of one label is not defined on its test examples" in league.verdict
    assert "nan" not in write_report(tracking, tmp_path / "report.html").read_text()


def test_the_share_of_long_notes_is_of_all_though_the_metric_is_not_defined_on_some(cell, tracking):
    """The longest notes, of more than 2,048 words, all have one label."""
    for model, window in (("short", 512), ("long", 4096)):
        cell(model, window, "demo", 20, 21, metric="roc_auc", no=(0, 2, 4, 12, 14))
    [row] = table(tracking).rows
    assert set(row.gain.bands) == {"1-512_tokens", "513-1024_tokens", "1025-2048_tokens"}
    assert row.gain.long_notes == 36 / 40


def test_names_stand_in_the_table_as_they_are(cell, tracking):
    cell("short|512", 512, "demo", 10, 11)
    cell("<long> *best*", 4096, "demo", 12, 13)
    page = league_markdown(table(tracking))
    assert "| short\\|512 | \\<long> \\*best\\* |" in page
