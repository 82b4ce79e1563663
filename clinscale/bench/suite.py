"""`clinscale bench all`: every bench in a process of its own, to one JSON file that grows as they end."""

import contextlib
import datetime
import fcntl
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from clinscale import __version__
from clinscale.bench.record import Ratio
from clinscale.config import Config, nearest
from clinscale.errors import ConfigError, DataError
from clinscale.plan import BUSY_SHARE, busy_share_here
from clinscale.storage import read_json, write_json


@dataclass(frozen=True)
class Bench:
    """A line of the suite: the words after `clinscale bench`, and what it cannot do without."""

    words: tuple[str, ...]
    data: str | None = None
    """Option that takes the folder of public data sets."""
    folder: str = "."
    """The part of that folder which the option takes."""
    needs_data: bool = False
    """Whether it is left out without such a folder; others invent their files."""
    needs_gpu: bool = False

    def command(self, data: Path | None) -> tuple[str, ...]:
        """The words after `clinscale`, with the folder of public data sets."""
        files = (self.data, str(data / self.folder)) if self.data and data else ()
        return ("bench", *self.words, *files, "--json")


_CURVES = "arlbench_ppo"
_TASKS = [f"ppo_{name}" for name in ("Hopper-v4", "Humanoid-v4", "NameThisGame-v5", "Phoenix-v5", "Qbert-v5")]
"""Tasks of that table on which nothing of the search was designed."""

SUITE: Mapping[str, Bench] = {
    "attention": Bench(("attention",)),
    "step": Bench(("step",)),
    "attention_gpu": Bench(("attention", "--device", "cuda", "--rows", "8"), needs_gpu=True),
    "step_gpu": Bench(("step", "--device", "cuda", "--rows", "8", "--layers", "12"), needs_gpu=True),
    "predict": Bench(("predict",)),
    "loading": Bench(("loading",), data="--data"),
    "corpus": Bench(("corpus", "--scale", "50", "2000"), data="--data"),
    "checkpoint": Bench(("checkpoint",)),
    "zero": Bench(("zero",)),
    "zero_bf16": Bench(("zero", "--precision", "bf16")),
    "plan": Bench(("plan",)),
    "plan_bf16": Bench(("plan", "--precision", "bf16", "--step-precision", "bf16")),
    "pretrain": Bench(("pretrain",)),
    "search": Bench(
        ("search", f"--convert={_CURVES}", *(f"--task={one}" for one in _TASKS), "--seeds=10", "--processes=2"),
        data="--data",
        folder=f"learning_curves/{_CURVES}",
        needs_data=True,
    ),
}
"""The benches by the names that a record and README's tables call them."""


class Entry(Config):
    """One bench of a record: how it was called, what it answered, or that it failed."""

    command: tuple[str, ...]
    """Words after `clinscale`; the folder of public data sets by its last name, as each machine has its own path."""
    began: str
    """UTC, to the second."""
    seconds: float = Field(ge=0)
    """Duration of the whole process."""
    clinscale: str
    """Version of the package."""
    busy_cpus: float = Field(ge=0)
    """CPUs that were busy with other work just before it began."""
    answer: dict[str, Any] | None = None
    """The bench's own record; None where it failed."""
    exit_code: int = 0
    """Exit code of a bench that failed; its message went to the terminal."""

    @property
    def cpus(self) -> int | None:
        """Number of CPUs of the machine, as far as it is recorded."""
        found = (self.answer or {}).get("machine", {}).get("cpus")
        return found if isinstance(found, int) else None

    def check(self) -> None:
        """The parts of an answer that are read have the form in which a bench writes them."""
        forms = {"machine": dict, "versions": dict, "ratios": dict, "at_most": list}
        for key, form in forms.items():
            if self.answer and not isinstance(self.answer.get(key, form()), form):
                raise ConfigError(f"answer.{key} must be a {form.__name__}, got {self.answer[key]!r:.40}")
        _ = self.ratios

    @property
    def was_busy(self) -> bool:
        """Whether others kept so much of the machine busy that seconds are not to be trusted."""
        return self.busy_cpus > BUSY_SHARE * (self.cpus or 1)

    @property
    def ratios(self) -> dict[str, Ratio]:
        """The ratios by name."""
        return {name: _ratio(name, one) for name, one in (self.answer or {}).get("ratios", {}).items()}

    @property
    def at_most(self) -> frozenset[str]:
        """Names of the ratios of which less is better."""
        return frozenset((self.answer or {}).get("at_most") or ())


class SuiteRecord(Config):
    """All that a suite has measured so far, by bench."""

    benches: dict[str, Entry] = Field(default_factory=dict)
    """Entries by name, in the order in which they ended."""


def load_record(path: str | Path) -> SuiteRecord:
    """The record in a file of `bench all`, or of one bench's `--json`, which becomes a record of one entry.

    Raises:
        DataError: the file is not there, or holds something else.
    """
    values = read_json(path)
    if isinstance(values, dict) and {"what", "ratios"} <= values.keys():
        name = str(values["what"])
        head = {"command": ["bench", name], "began": "", "seconds": 0, "clinscale": "", "busy_cpus": 0}
        values = {"benches": {name: {**head, "answer": values}}}
    if not isinstance(values, dict) or "benches" not in values:
        raise DataError(f"{path} is no record of benches; write one with `clinscale bench all --record FILE`")
    try:
        return SuiteRecord.parse(values, source=str(path))
    except ConfigError as error:
        raise DataError(f"{path}: {error}; write it again with `clinscale bench all`") from None


def run_suite(
    path: str | Path,
    *,
    only: Sequence[str] = (),
    data: str | None = None,
    on_event: Callable[[str], None],
    run: Callable[[Sequence[str]], tuple[int, str]] | None = None,
) -> tuple[SuiteRecord, dict[str, str]]:
    """Run what the record at `path` lacks, and write the record after each bench.

    An entry stays if it has an answer to the same command by the same version of clinscale; what failed is tried again.

    Args:
        path: file of the record; what is there already is gone on with.
        only: names in `SUITE`; none is all.
        data: folder of public data sets.
        on_event: takes a sentence as each bench begins and ends.
        run: takes a command and returns its exit code and standard output; None starts a process.

    Returns:
        the record, and the names that were left out with the reason.

    Raises:
        ConfigError: a name is not in the suite, or another suite is writing to the same folder.
        DataError: the file at `path` is no record.
    """
    for name in only:
        if name not in SUITE:
            raise ConfigError(f"--only must name a bench of the suite, got {name!r}; {nearest(name, list(SUITE))}")
    left_out: dict[str, str] = {}
    with _alone(Path(path).absolute().parent):
        record = load_record(path) if Path(path).exists() else SuiteRecord()
        for name in only or SUITE:
            bench = SUITE[name]
            if bench.needs_gpu and not _has_gpu():
                left_out[name] = "no GPU here"
                continue
            if bench.needs_data and not data:
                left_out[name] = "no --data"
                continue
            command = bench.command(Path(data) if data else None)
            said = bench.command(Path(Path(data).name) if data else None)
            known = record.benches.get(name)
            if known and known.answer and (known.command, known.clinscale) == (said, __version__):
                on_event(f"{name}: recorded at {known.began}")
                continue
            on_event(f"{name}: clinscale {' '.join(command)}")
            entry = _measured(said, functools.partial(run or _process, command))
            others = {other: one for other, one in record.benches.items() if other != name}
            record = SuiteRecord(benches={**others, name: entry})
            write_json(path, record.plain())
            busy = f"; {entry.busy_cpus:.1f} CPUs were busy with other work" if entry.was_busy else ""
            ended = f"exit code {entry.exit_code}" if entry.answer is None else f"{entry.seconds:.0f} s"
            on_event(f"{name}: {ended}{busy}")
    return record, left_out


def _measured(command: tuple[str, ...], run: Callable[[], tuple[int, str]]) -> Entry:
    busy_cpus = busy_share_here() * (os.cpu_count() or 1)
    began = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    start_s = time.monotonic()
    code, text = run()
    answer = None
    if code == 0:
        # JSON knows no infinity: a ratio without a number is an infinite one
        answer = json.loads(text, parse_constant=lambda _: None)
    return Entry(
        command=command,
        began=began,
        seconds=round(time.monotonic() - start_s, 1),
        clinscale=__version__,
        busy_cpus=round(busy_cpus, 2),
        answer=answer,
        exit_code=code,
    )


def _process(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and standard output of the command in a process whose memory and settings nothing has touched."""
    with subprocess.Popen(
        [sys.executable, "-m", "clinscale", *command], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            text, _ = process.communicate()
        except BaseException:
            process.terminate()  # it ends what it has started, as on Ctrl-C
            raise
    return process.returncode, text


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No second suite beside this one: both would be slower, and one record would be lost."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"--record: {folder} must be a folder, got {error.strerror}; make it first") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"--record: another process uses {folder}, perhaps another `bench all`; wait for it, or take another "
                "folder"
            ) from None
        yield
    finally:
        os.close(descriptor)  # which gives up the lock


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _ratio(name: str, values: Any) -> Ratio:
    if not isinstance(values, dict) or not {"median", "min", "max"} <= values.keys():
        raise ConfigError(f"ratio {name} must have median, min and max, got {values!r:.40}")
    for key, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"ratio {name}: {key} must be a number, got {value!r:.40}")
    more = {key: value for key, value in values.items() if key not in ("median", "min", "max", "asked")}
    return Ratio(values["median"], values["min"], values["max"], values.get("asked"), more)
