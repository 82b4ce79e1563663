"""Text from data, files and servers as it may reach a terminal or a page: nothing in it steers them.

Names, tags, labels and answers are other people's. Escape sequences in them could rewrite what a terminal shows or
type for its user; marks of writing direction make a name look like another.
"""

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # escape sequences begin with one of these; a carriage return overwrites
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"  # the order of writing, and line breaks of another kind
    "\ufff9-\ufffb"  # notes above the line
    "\ud800-\udfff\U000e0000-\U000e007f]"  # half characters, which cannot be written; tags, which nobody sees
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_REST_S = 2.0
"""The wait for the rest of the output after the end: what a program left running, as ssh does, may hold it open."""
_OVERWRITE = re.compile(r"\r+\n?")


def visible(text: str) -> str:
    r"""`text` with the characters that steer a terminal or the order of writing as escapes: `\x1b`, `\u202e`."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def visible_log(text: str) -> str:
    """`visible` of what a program wrote: its colours are left out, what would overwrite a line is below it."""
    return visible(_OVERWRITE.sub("\n", _COLOUR.sub("", text)))


def run_visibly(command: Sequence[str], **options: Any) -> int:
    """The exit code of a program, whose output goes to stderr as `visible_log` has it; `options` are of `Popen`."""
    child, rest = start_visibly(command, **options)
    try:
        child.wait()
        rest.join(_REST_S)
    except BaseException:
        child.kill()
        raise
    return child.returncode


def start_visibly(command: Sequence[str], **options: Any) -> "tuple[subprocess.Popen[str], threading.Thread]":
    """A program that was started, and the thread that hands its output to stderr as `visible_log` has it."""
    text: dict[str, Any] = {"text": True, "encoding": "utf-8", "errors": "replace"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **text, **options)
    thread = threading.Thread(target=_pass_on, args=(child.stdout,), daemon=True)
    thread.start()
    return child, thread


def _pass_on(lines: IO[str]) -> None:
    with lines:
        for line in lines:
            with contextlib.suppress(OSError, ValueError):  # without a terminal the program still runs
                sys.stderr.write(visible_log(line))
                sys.stderr.flush()
