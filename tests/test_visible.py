"""What programs write, as a terminal may show it."""

import subprocess
import sys

import pytest

from clinscale.visible import STEERING, run_visibly, visible_log


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[36m(worker)\x1b[0m ok\n", "(worker) ok\n"),
        ("10%\r20%\r\n", "10%\n20%\n"),
        ("\x1b]0;title\x07\u202ex", "\\x1b]0;title\\x07\\u202ex"),
        ("\x1b[2J\x1b[1;31mred", "\\x1b[2Jred"),
        ("Größe\t1\n", "Größe\t1\n"),
    ],
)
def test_what_a_program_wrote_for_a_terminal_is_read_and_steers_nothing(written, shown):
    assert visible_log(written) == shown


def test_a_programs_output_steers_no_terminal_and_its_exit_code_is_told(capsys):
    write = r"import sys; print('a\x1b]0;x\x07'); print('b\xff\u202e', file=sys.stderr); sys.exit(3)"
    command = [sys.executable, "-X", "utf8", "-S", "-c", write]
    assert run_visibly(command, stdin=subprocess.DEVNULL) == 3
    shown = capsys.readouterr().err
    assert sorted(shown.splitlines()) == ["a\\x1b]0;x\\x07", "bÿ\\u202e"]
    assert not STEERING.search(shown)


def test_what_a_program_leaves_running_is_not_waited_for(capsys):
    assert run_visibly(["sh", "-c", "echo begun; sleep 30 & echo $!"]) == 0
    begun, left = capsys.readouterr().err.split()
    subprocess.run(["kill", left], check=True)
    assert begun == "begun"
