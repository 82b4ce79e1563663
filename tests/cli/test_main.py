"""The command line around the verbs."""

import importlib
import signal
import subprocess
import sys

import pytest

main = importlib.import_module("clinscale.cli.main")

SCRIPT = """
import importlib, os, signal, sys, time
main = importlib.import_module("clinscale.cli.main")
sys.unraisablehook = main._interrupt_again

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

try:
    held = Finalised()
    del held
    time.sleep(20)
    print("lost")
except KeyboardInterrupt:
    print("heard")
"""


def test_a_ctrl_c_that_hits_a_finaliser_is_heard():
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "heard", ran.stderr


LOADING = """
import os, signal, sys
from clinscale.__main__ import main

class CtrlC:
    def find_spec(name, *_):
        if name == "clinscale.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC)
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def test_a_ctrl_c_while_the_libraries_load_ends_the_process_without_a_traceback():
    ran = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, "")


def test_a_ctrl_c_that_a_library_turned_into_an_error_of_its_own_is_told_as_one(as_a_process, monkeypatch, capsys):
    def load(**_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError(CANARY) from None

    monkeypatch.setattr(main, "app", load)
    monkeypatch.setattr(sys, "argv", ["clinscale", "--version"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 130
    assert "Canary" not in capsys.readouterr().err


def fails(error):
    """`error` as it arrives at the last net: raised, with the place where."""
    try:
        raise error
    except Exception as raised:  # noqa: BLE001
        return main._foreign(raised)


def test_a_full_disk_is_told_as_such_whatever_library_noticed_it(capsys):
    for error in (OSError(28, CANARY), RuntimeError(f"{CANARY} (os error 28)")):
        assert fails(error) == 1
    out, err = capsys.readouterr()
    assert (
        err.count("cannot be written (No space left on device); make room or fix the disk, then run the same") == 2
    )
    assert CANARY not in out + err


CANARY = "Mrs Canary, born 1931"


@pytest.mark.parametrize(
    "error",
    [
        ValueError(CANARY),
        KeyError(CANARY),
        OSError(CANARY),
        OSError(5, CANARY),
        UnicodeDecodeError("utf-8", b"x", 0, 1, CANARY),
    ],
)
def test_an_error_that_is_a_fault_of_ours_is_told_by_kind_and_place_without_its_text(error, capsys, monkeypatch):
    monkeypatch.delenv(main.TRACEBACK, raising=False)
    assert fails(error) == 1
    out, err = capsys.readouterr()
    assert f"clinscale failed where it should not ({type(error).__name__}), at test_main.py:" in err
    assert f"please report it. {main.TRACEBACK}=1 shows all" in err
    assert (out, err.count("\n"), CANARY in err, "Traceback" in err) == ("", 1, False, False)


def test_an_error_of_a_file_is_told_in_the_systems_words_by_its_name(capsys):
    assert fails(PermissionError(13, "Permission denied", "/data/notes.csv")) == 2
    assert capsys.readouterr().err == (
        "error: /data/notes.csv: Permission denied; check the path, its permissions and the disk\n"
    )


def test_a_traceback_is_for_those_who_ask_for_it(capsys, monkeypatch):
    monkeypatch.setenv(main.TRACEBACK, "1")
    assert fails(ValueError(CANARY)) == 1
    assert f"ValueError: {CANARY}" in capsys.readouterr().err
