"""Output of verbs: one JSON document or tables on stdout, progress and messages on stderr.

Names, labels and answers come from files, so no character of theirs reaches a terminal that would steer it.
"""

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from clinscale.units import format_seconds
from clinscale.visible import STEERING, visible


class VisibleFormatter(logging.Formatter):
    """Log lines without characters that steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return visible(super().format(record))


class _Console(Console):
    """Prints text as it is: brackets in it are no markup, and nothing in it steers the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The one way by which Rich takes up strings, those in tables too."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})


console = _Console(stderr=True, highlight=False)
_stdout = sys.stdout


@contextlib.contextmanager
def keep_stdout_clean() -> Iterator[None]:
    """Send to stderr whatever libraries and child processes write to stdout while a verb runs."""
    global _stdout
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    _stdout = os.fdopen(saved, "w", encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):  # `| head` has read enough
            _stdout.flush()
        os.dup2(saved, 1)


def emit(values: Any, *, as_json: bool, people: Any = None) -> None:
    """The verb's result: `values` as JSON, or `people` (text or a table) for people."""
    if as_json:
        print(json_text(values, indent=2), file=_stdout, flush=True)
        return
    printer = _Console(file=_stdout, highlight=False, width=None if _stdout.isatty() else 160)
    for part in people if isinstance(people, list) else [people]:
        # a line that were broken to the width would be no path and no JSON any more, and blanks there would be lost
        printer.print(part, soft_wrap=isinstance(part, str))


def json_text(values: Any, *, indent: int | None = None) -> str:
    """`values` as JSON, in one line where `indent` is None; what would steer a terminal is escaped as JSON has it.

    What is no number, or infinite, is null: JSON has no word for it, and many readers refuse Python's.
    """
    text = json.dumps(_finite(values), ensure_ascii=False, indent=indent, default=str)
    return STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> "Rows":
    """Rows of equal keys as a table with those keys as its head."""
    return Rows(title, rows)


class Rows:
    """A table with a column for each key: with lines, without them, or turned, as the width of the terminal allows.

    Turned, each value has a line, as in the expanded display of psql.
    """

    def __init__(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.title = title
        self.heads = [key.replace("_", " ") for key in (rows[0] if rows else ["nothing yet"])]
        self.rows = [
            [_shown(cell) if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """See Rich."""
        made = Table(title=self.title, title_justify="left", header_style="bold")
        widths = self._widths(options.max_width - 1, between=3)
        if not widths and (widths := self._widths(options.max_width, between=1)):
            made.box, made.padding = None, (0, 1, 0, 0)
        if widths:
            for head, width in zip(self.heads, widths, strict=True):
                made.add_column(head, overflow="fold", width=width)
            for row in self.rows:
                made.add_row(*row)
        else:
            made.show_header = False
            made.add_column(style="bold")
            made.add_column(overflow="fold")
            for row in self.rows:
                for head, cell in zip(self.heads, row, strict=True):
                    made.add_row(head, cell)
                made.add_section()
        yield made

    def _widths(self, most: int, *, between: int) -> list[int]:
        """Widths of the columns of a table so wide at most; none where words or short values would be broken.

        Rich's own way takes from the widest columns first, whatever is in them.
        """
        columns = list(zip(self.heads, *self.rows, strict=True))
        whole = [max(map(cell_len, "\n".join(column).split("\n"))) for column in columns]
        least = [
            max((min(_UNBROKEN, cell_len(part)) for part in [*head.split(), *_parts(cells)]), default=0)
            for head, *cells in columns
        ]
        free = most - sum(least) - between * len(columns)
        if free < 0:
            return []
        share = min(1, free / max(1, sum(whole) - sum(least)))
        return [few + int(share * (many - few)) for few, many in zip(least, whole, strict=True)]


def _parts(cells: Iterable[str]) -> Iterator[str]:
    """Short cells, such as a number with its unit, and the words of others."""
    for cell in cells:
        yield from [cell] if cell_len(cell) <= _UNBROKEN else cell.split()


_UNBROKEN = 20
"""Most characters of what is not broken; longer ones are paths and fingerprints."""


def _shown(number: float) -> str:
    """Four places, which a learning rate of 2e-05 would not survive."""
    return f"{number:.4f}" if number == 0 or abs(number) >= 0.001 else f"{number:.3g}"


def _count(number: float) -> str:
    """All digits: a corpus of millions of notes is read by its last ones."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


_AVERAGED_S = 3600.0
"""Time over which a bar's speed is averaged: in Rich's 30 s there is none where an epoch takes a minute."""


class _Bar(Progress):
    """A bar with the note of each task on a line below: beside it, the time left would not fit into 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See Progress."""
        yield from super().get_renderables()
        yield from (Text(f"  {task.fields['note']}", no_wrap=True, overflow="ellipsis") for task in self.tasks)


class Steps:
    """Progress of long work: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, title: str, note: str = "", *, every_s: float = 10.0) -> None:
        self._title = title
        self._every_s = every_s
        self._last_s = 0.0
        self._ended = False
        self._began: tuple[float, float] | None = None
        self._bar = _Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_AVERAGED_S,
        )
        self._task = self._bar.add_task(visible(title), total=None, note=visible(note))

    def __enter__(self) -> "Steps":
        """Show the bar."""
        if console.is_terminal:
            self._bar.start()
        else:
            console.print(f"{self._title} ...")
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state of the bar on the screen."""
        if console.is_terminal:
            self._bar.stop()

    def update(self, done: float, total: float | None, note: str = "") -> None:
        """`done` of `total`, with a word on how it goes."""
        at = f"{_count(done)} of {_count(total)} {note}" if total else f"{_count(done)} {note}"
        if console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, note=visible(at))
            return
        now_s = time.monotonic()
        self._began = self._began or (now_s, done)  # work that is resumed does not begin at nothing
        ends = done == total and not self._ended  # printed once, though what follows the last one may take a while
        if now_s - self._last_s > self._every_s or ends:
            self._last_s, self._ended = now_s, done == total
            console.print(f"{self._title}: {at.rstrip()}{self._left(now_s, done, total)}", soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print an event outside the steps, above the bar or as a line of its own."""
        console.print(f"{self._title}: {sentence}", soft_wrap=True)

    def _left(self, now_s: float, done: float, total: float | None) -> str:
        began_s, began_at = self._began or (now_s, done)
        if not total or done <= began_at or done >= total:
            return ""
        return f", {format_seconds((total - done) * (now_s - began_s) / (done - began_at))} left"
