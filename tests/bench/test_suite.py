"""A record of all benches grows as they end, goes on where it stopped, and says what became worse beyond noise."""

import json
from pathlib import Path

import pytest

from clinscale import bench
from clinscale.bench import compare_records, load_record, run_suite
from clinscale.errors import ConfigError, DataError

MACHINE = {"processor": "x", "cpus": 2, "threads": 1, "device": "cpu", "system": "Linux"}


def answer(*, at_most=(), versions=(), **ratios):
    """What a bench prints; each ratio is (median, min, max)."""
    return {
        "what": "x",
        "machine": MACHINE,
        "versions": dict(versions),
        "ratios": {key: dict(zip(("median", "min", "max"), found, strict=True)) for key, found in ratios.items()},
        "at_most": list(at_most),
    }


def record(**answers):
    head = {"command": ["bench"], "began": "", "seconds": 1, "clinscale": "1", "busy_cpus": 0}
    return bench.SuiteRecord.parse(
        {"benches": {name: {**head, "answer": one} for name, one in answers.items()}}, source="test"
    )


def suite(path, ran, *, fails=(), **options):
    def run(command):
        ran.append(command[1])
        return (1, "") if command[1] in fails else (0, json.dumps(answer(x=(float("inf"), 1, 3))))

    return run_suite(path, run=run, on_event=lambda _: None, **options)


def test_each_bench_is_on_disk_when_it_ends_and_is_not_run_again(tmp_path):
    path, ran = tmp_path / "all.json", []

    def dies(command):
        ran.append(command[1])
        if command[1] == "zero":
            raise KeyboardInterrupt
        return 0, json.dumps(answer(x=(2, 1, 3)))

    with pytest.raises(KeyboardInterrupt):
        run_suite(path, only=("checkpoint", "zero"), on_event=lambda _: None, run=dies)
    assert list(load_record(path).benches) == ["checkpoint"]
    found, _ = suite(path, ran, only=("checkpoint", "zero"))
    assert ran == ["checkpoint", "zero", "zero"]
    assert found == load_record(path)
    assert found.benches["zero"].ratios["x"].median is None  # infinite


def test_what_failed_is_recorded_and_tried_again_and_other_options_are_another_measurement(tmp_path):
    path, ran = tmp_path / "all.json", []
    found, _ = suite(path, ran, fails=("loading",), only=("loading", "zero"))
    assert (found.benches["loading"].answer, found.benches["loading"].exit_code) == (None, 1)
    suite(path, ran, only=("loading", "zero"))
    suite(path, ran, only=("loading", "zero"), data="/data")
    assert ran == ["loading", "zero", "loading", "loading"]
    found, _ = suite(path, ran, only=("loading",), data="/elsewhere/data")  # the same sets on another machine
    assert (len(ran), found.benches["loading"].command[-2]) == (4, "data")


def test_a_bench_without_the_data_that_it_needs_is_left_out(tmp_path):
    ran = []
    _, left_out = suite(tmp_path / "a.json", ran, only=("search", "zero"))
    suite(tmp_path / "a.json", ran, only=("search",), data="/data")
    assert (left_out, ran) == ({"search": "no --data"}, ["zero", "search"])


def test_the_suite_calls_verbs_that_there_are():
    from typer.main import get_command

    from clinscale.cli.bench import app

    verbs = get_command(app).commands
    for name, one in bench.SUITE.items():
        _, verb, *words = one.command(Path("x"))
        verbs[verb].make_context(name, words)


@pytest.mark.parametrize(
    ("before", "after", "less", "verdict"),
    [
        ((4.0, 3.8, 4.2), (3.0, 2.9, 3.1), (), "slower"),
        ((4.0, 3.8, 4.2), (5.0, 4.9, 5.1), (), "faster"),
        ((4.0, 2.0, 6.0), (3.0, 2.9, 3.1), (), "alike"),  # the first one's runs scatter over it
        ((4.0, 4.0, 4.0), (3.9, 3.9, 3.9), (), "alike"),  # within the tolerance
        ((1.0, 0.9, 1.1), (1.5, 1.4, 1.6), ("r",), "slower"),
        ((1.0, 0.9, 1.1), (0.5, 0.4, 0.6), ("r",), "faster"),
        ((3.0, 2.9, 3.1), (2.5, 2.4, 2.95), (), "alike"),  # one of its runs is as good as one of the others
        ((None, None, None), (3.0, 2.9, 3.1), (), "slower"),  # it was infinitely better
        ((3.0, 2.9, 3.1), (None, None, None), ("r",), "slower"),
    ],
)
def test_worse_is_beyond_both_scatter_and_tolerance(before, after, less, verdict):
    a, b = (record(step=answer(r=one, at_most=less)) for one in (before, after))
    assert [one.verdict for one in compare_records(a, b, tolerance=0.05)] == [verdict]


def test_a_figure_that_is_gone_is_lost_and_one_that_nobody_asked_for_is_absent():
    whole = record(step=answer(r=(2, 1, 3), s=(2, 1, 3)), zero=answer(z=(1, 1, 1)))
    found = compare_records(whole, record(step=answer(r=(2, 1, 3))), tolerance=0.05)
    assert {one.ratio: one.verdict for one in found} == {"s": "lost", "r": "alike", "z": "absent"}
    failed = compare_records(record(step=answer(r=(2, 1, 3))), record(step=None), tolerance=0.05)
    assert [one.verdict for one in failed] == ["lost"]


def test_a_bench_with_other_options_is_another_measurement():
    a, b = (record(step=answer(r=(2, 1, 3))) for _ in range(2))
    other = b.plain()
    other["benches"]["step"]["command"] = ["bench", "--size", "base"]
    found = compare_records(a, bench.SuiteRecord.parse(other, source="test"), tolerance=0.05)
    assert [(one.before, one.after, one.verdict) for one in found] == [(2, None, "absent"), (None, 2, "absent")]
    assert [one.verdict for one in compare_records(a, b, tolerance=0.05)] == ["alike"]


def test_what_weakens_a_comparison_is_said():
    a = record(step=answer(r=(2, 1, 3), versions={"torch": "1"}))
    values = record(step=answer(r=(2, 1, 3), versions={"torch": "2"})).plain()
    values["benches"]["step"] |= {"busy_cpus": 1.5}
    values["benches"]["step"]["answer"]["machine"] = {**MACHINE, "processor": "y"}
    [found] = compare_records(a, bench.SuiteRecord.parse(values, source="test"), tolerance=0.05)
    assert found.remarks == ("B was measured on a busy machine", "other machine", "torch 1 -> 2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "column 1"),
        ("[]", "is no record of benches"),
        ('{"benches": {"x": 1}}', "benches.x"),
        ('{"what": "x", "ratios": {"r": 2}}', "ratio r must have median, min and max"),
        ('{"what": "x", "ratios": {"r": {"median": "2", "min": 1, "max": 1}}}', "median must be a number"),
        ('{"what": "x", "machine": 3, "ratios": {}}', "answer.machine must be a dict"),
    ],
)
def test_files_that_are_no_record_are_refused_by_name(tmp_path, text, said):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        load_record(path)


def test_a_second_suite_does_not_measure_beside_the_first(tmp_path):
    def second(command):
        with pytest.raises(ConfigError, match="another process uses"):
            suite(tmp_path / "b.json", [], only=("zero",))
        return 0, json.dumps(answer())

    run_suite(tmp_path / "a.json", only=("zero",), on_event=lambda _: None, run=second)
    with pytest.raises(ConfigError, match="did you mean zero"):
        suite(tmp_path / "a.json", [], only=("zeros",))


def test_tables_are_made_between_their_marks_and_nowhere_else():
    found = record(
        zero=answer(zero_0_workers_1=(1.02, 1.02, 1.02), zero_3_workers_1=(1.26, 1.2, 1.3)),
        attention=answer(mlm_head_fp32=(8.49, 8, 9)),
        step=answer(longformer_step_2_layers_fp32=(4.2, 4, 5), bigbird_step_12_layers_fp32=(12.3, 12, 13)),
    )
    page = "before\n<!-- table zero -->\nold\n<!-- end of table -->\nafter\n"
    made = bench.with_tables(page, found)
    assert made == (
        "before\n<!-- table zero -->\n| | ZeRO 0 | 1 | 2 | 3 |\n| --- | --- | --- | --- | --- |\n"
        "| 1 worker, fp32 | 1.02 | - | - | 1.26 |\n<!-- end of table -->\nafter\n"
    )
    assert bench.with_tables(made, found) == made
    assert bench.render("attention", found).splitlines()[2:] == [
        "| MLM head and loss, fp32 | 8.5 | - |",
        "| whole MLM step of 2 layers / 12 layers, fp32 | 4.2 / - | - / 12 |",
    ]
    replayed = answer(stock_5=(1.5, 1, 2))
    replayed["ratios"]["stock_5"] |= {"pooled": 1.62, "low": 0.9, "high": 3.71}
    replayed["details"] = {"regret": {"ours": {"2": [0.6, 0.5, 0.7], "20": [0.24, 0.2, 0.3]}}}
    curves = record(search=replayed)
    assert bench.render("search", curves).splitlines()[2:] == [
        "| Ray's ASHA / ours, to its regret after 5 trainings | 1.62 (0.90 to 3.7) |"
    ]
    assert bench.render("search_regret", curves).splitlines()[2:] == ["| ours | 0.60 | - | - | 0.24 |"]
    older = "<!-- table pretraining -->\nof another time\n<!-- end of table -->\n"
    assert bench.with_tables(older, found) == older
    with pytest.raises(ConfigError, match="table must be one of"):
        bench.with_tables(page.replace("zero", "one"), found)
