"""What people see: tables, and nothing that steers their terminals."""

import io
import json
import logging
import re
import sys

import pytest
from rich.console import Console

from clinscale.cli import output
from clinscale.cli.output import VisibleFormatter, emit, table
from clinscale.visible import STEERING, visible

ODD = {
    "colour": "\x1b[31m",
    "window title": "\x1b]0;title\x07",
    "eight-bit escape": "\x9b2J",
    "overwriting": "a\rb",
    "order of writing": "\u202egpj.exe",
    "isolate": "\u2066x\u2069",
    "line separator": "\u2028",
    "half a character": "\ud83d",
    "tag": "\U000e0041",
}


def test_small_numbers_are_not_rounded_away():
    written = io.StringIO()
    Console(file=written, width=100).print(
        table("Settings", [{"learning_rate": 2e-5, "dropout": 0.0, "f1": 0.8617}])
    )
    assert "2e-05" in written.getvalue()
    assert "0.0000" in written.getvalue()
    assert "0.8617" in written.getvalue()
    assert "learning rate" in written.getvalue()


def test_a_table_fits_the_terminal_and_breaks_no_number():
    rows = [{f"activations_{number}": "13.2 GiB" for number in range(5)}] * 2
    shown = {}
    for width in (160, 60, 40):
        written = io.StringIO()
        Console(file=written, width=width).print(table("Memory", rows))
        shown[width] = written.getvalue().splitlines()
    assert [sum(line.count("13.2 GiB") for line in lines) for lines in shown.values()] == [10, 10, 10]
    assert all(len(line) <= width for width, lines in shown.items() for line in lines)
    assert len(shown[60]) < 6
    assert sum("activations 3" in line for line in shown[40]) == 2


def test_words_of_a_table_are_broken_only_where_they_are_long():
    written = io.StringIO()
    rows = [{"name": "word " * 40, "efficiency": "0.98", "collectives": "1 ms", "path": "/data/" + "x" * 60}]
    Console(file=written, width=80).print(table("Run", rows))
    assert "efficiency" in written.getvalue()
    assert "collectives" in written.getvalue()


@pytest.fixture
def stdout(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(output, "_stdout", written)
    return written


@pytest.mark.parametrize("name", ODD)
def test_nothing_from_the_data_steers_the_terminal(stdout, name):
    text = f"before {ODD[name]} after"
    emit({}, as_json=False, people=[text, table(text, [{text: text}])])
    emit({text: [text]}, as_json=True)
    assert not any(STEERING.search(line) for line in stdout.getvalue().split("\n"))
    assert stdout.getvalue().count("before") >= 5
    stdout.getvalue().encode()


@pytest.mark.parametrize("name", ODD)
def test_json_keeps_what_is_escaped(stdout, name):
    emit({"text": ODD[name]}, as_json=True)
    assert json.loads(stdout.getvalue()) == {"text": ODD[name]}


def test_what_is_no_number_is_null(stdout):
    emit({"f1": float("nan"), "by": [{"high": float("-inf"), "n": 3}], "of": ("a", 0.5)}, as_json=True)

    def refuse(word):
        raise AssertionError(word)

    found = json.loads(stdout.getvalue(), parse_constant=refuse)
    assert found == {"f1": None, "by": [{"high": None, "n": 3}], "of": ["a", 0.5]}


def test_lines_for_a_file_are_as_long_as_they_are(stdout):
    lines = [output.json_text({"answer": text, "more": "two  blanks " * 30}) for text in ODD.values()]
    emit({}, as_json=False, people=[*lines, f"/{'long path/' * 30}"])
    *written, path = stdout.getvalue().splitlines()
    assert [json.loads(line)["answer"] for line in written] == [*ODD.values()]
    assert written == lines
    assert len(path) == 301


def test_messages_logs_and_progress_do_not_steer_either(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(output.console, "file", written)
    text = "".join(ODD.values())
    output.console.print(text, style="red")
    with output.Steps(text, text) as steps:
        steps.update(1, 1, text)
        steps.say(text)
    record = logging.LogRecord("n", logging.WARNING, "p", 1, "%s", (text,), None)
    written.write(VisibleFormatter("%(message)s").format(record))
    assert not STEERING.search(written.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_how_much_is_done(monkeypatch, terminal):
    written = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=written, force_terminal=terminal, width=200))
    with output.Steps("Building") as steps:
        steps.update(2_083_180, None, "notes")  # a bar has no share to show
    with output.Steps("Building", every_s=0) as steps:
        steps.update(1, 3)
        steps.update(2, 3)
    assert "2,083,180 notes" in written.getvalue()
    assert "2 of 3" in written.getvalue()
    assert terminal or re.search(r"2 of 3, \S+ left", written.getvalue())


def test_the_time_left_fits_into_a_narrow_terminal_and_is_there_where_steps_are_slow(monkeypatch):
    written, now_s = io.StringIO(), 0.0
    monkeypatch.setattr(output, "console", Console(file=written, force_terminal=True, width=80))
    with output.Steps("Pretraining clinical-longformer") as steps:
        monkeypatch.setattr(steps._bar, "get_time", lambda: now_s)
        for step in range(5):
            steps.update(step, 10, "loss 6.2013, perplexity 512.3, tok/s 12,345, MFU 24.1%")
            now_s += 60
    assert "0:06:00" in written.getvalue()
    assert "MFU 24.1%" in written.getvalue()


def test_brackets_are_no_markup(stdout):
    emit(
        {},
        as_json=False,
        people=["[red]x[/red] :smile:", table("[b]t[/b]", [{"[i]c": "[/bad] [link=x]y[/link]"}])],
    )
    for part in ("[red]x[/red] :smile:", "[b]t[/b]", "[i]c", "[/bad] [link=x]y[/link]"):
        assert part in stdout.getvalue()


def test_what_people_write_stays_as_it_is():
    for text in ("Größe 1,80 m\tµg ≥ ² ½", "שלום", "می‌خواهم", "👩‍👩‍👧\n"):
        assert visible(text) == text


def test_an_error_does_not_steer_the_terminal(as_a_process, monkeypatch, capsys):
    from clinscale.cli.main import main

    monkeypatch.setattr(sys, "argv", ["clinscale", "tasks", "check", "no\x1b]0;x\x07\u202e.yaml"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert not STEERING.search(capsys.readouterr().err)
