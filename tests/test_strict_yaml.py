"""YAML of a user's own: no word becomes something else, and no file takes all time or memory."""

import os

import pytest

from clinscale.errors import ConfigError
from clinscale.strict_yaml import MAX_BYTES, parse_scalar, parse_yaml, read_yaml, write_yaml


def value(text, **options):
    [found] = parse_yaml(text, "here", **options)
    return found


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "y", "007", "010", "0x1F", "1_000", "12:30", "2020-01-01", "038.9", "="]
)
def test_a_plain_word_stays_a_text(text):
    assert value(f"[{text}]") == [text]


def test_numbers_truths_and_nothing_are_those_of_json():
    text = "[1, -3, 0, 1e-4, 2E5, 1.5, .5, 5., true, False, ~, null, 1e5]"
    assert value(text) == [1, -3, 0, 1e-4, 2e5, 1.5, 0.5, 5.0, True, False, None, None, 1e5]


def test_files_of_other_tools_are_read_as_those_tools_do():
    assert value("[no, 010]", dialect="1.1") == [False, 8]


def test_merge_keys_are_read():
    assert value("x: &x {a: 1}\ny: {<<: *x, b: 2}")["y"] == {"a": 1, "b": 2}


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
DEEP = "".join(f"a{n}: &a{n} {'[' * 40}{f'*a{n - 1}' if n else 'x'}{']' * 40}\n" for n in range(50))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "aliases or values make more than"),
        (DEEP, "levels deep"),
        ("[" * 900, "levels deep"),
        ("[" * 100_000, "nesting depth"),
        ("&a [*a]", "contain itself"),
        ("a: 1\nb: *c", "line 2"),
        (f"a: {'9' * 5000}", "line 1: a value cannot be read as int"),
        ("a: !!int ''", "line 1: a value cannot be read as int"),
        ("a: !!timestamp 2020-13-45", "line 1"),
        ("a: !!binary 'x'", "line 1"),
        ("a: !!python/object:os.system x", "line 1"),
        ("a: b\nb: [", "line 2"),
        ("\ud800", "not YAML"),
        ("a: \0", "not YAML"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_ours_at_once(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "here")


@pytest.mark.parametrize(
    "text",
    [
        "Patient fell: a\nPatient fell: b",
        "a: *Patient",
        "!Patient a",
        "a: 'Patient fell",
        "Patient: [fell",
        "!Patient,",
    ],
)
def test_text_of_a_file_that_is_no_config_is_not_told(text):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "here")
    assert "Patient" not in str(error.value)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "big.yaml").write_text("#" * (MAX_BYTES + 1))
    for name, message in (
        ("pipe", "no regular file"),
        ("zero", "no regular file"),
        ("big", "more than 1,048,576"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_yaml(tmp_path / f"{name}.yaml")
    with pytest.raises(ConfigError, match="check the path"):
        read_yaml("a\0b")


def test_two_documents_are_no_config(tmp_path):
    (tmp_path / "two.yaml").write_text("a: 1\n---\na: 2\n")
    with pytest.raises(ConfigError, match="one YAML document, got 2"):
        read_yaml(tmp_path / "two.yaml")


def test_a_value_of_the_command_line_is_read_whole_or_not_at_all():
    assert parse_scalar("year=2020/run[1]", "x") == "year=2020/run[1]"
    assert parse_scalar("{a: '#'}", "x") == {"a": "#"}
    assert parse_scalar("", "x") is None
    for text in ("#2", " # none", "/data/run #2", "3 # three", "'a' b", "a\n b", "--- a\n--- b"):
        with pytest.raises(ConfigError, match="quote it"):
            parse_scalar(text, "x")


def test_what_is_written_is_read_back():
    values = {text: text for text in ("1e5", "no", "010", "1.0", "12:30", "null", "~", "a: b", "# a", "é", "")}
    assert value(write_yaml(values)) == values
    assert value(write_yaml(values), dialect="1.1") == values
