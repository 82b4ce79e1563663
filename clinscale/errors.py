"""The error family: one class per party who must act.

A message holds four things: the thing by its full name, the rule, the value found, the next step. It never
holds note text. Every error is built from one string, so all of them survive pickling across Ray processes.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from typing import Self


class ClinscaleError(Exception):
    """Base of all errors that clinscale raises on purpose; the command line prints it without a traceback."""

    exit_code = 1
    """Exit code of the command line: 1 if the work failed, 2 if the request was wrong."""


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def with_causes(
    error: BaseException | None, cause: Callable[[BaseException], BaseException | None] = _cause
) -> Iterator[BaseException]:
    """Yield an error and what it came from, each once: a chain of them may come back to itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = cause(error)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether `error` is a Ctrl-C, or came up while one was being dealt with: cleaning up may fail, too."""
    return any(isinstance(one, KeyboardInterrupt) for one in with_causes(error))


class ConfigError(ClinscaleError):
    """A config file, an override or an option is wrong: the user changes the request."""

    exit_code = 2


class DivergenceError(ConfigError):
    """The loss is no longer a number: these hyperparameters do not train."""


class DataError(ClinscaleError):
    """An input file or folder is missing, unreadable or malformed: the user fixes the data."""

    exit_code = 2


class ChangedDataError(DataError):
    """An input is no longer what the work began with: the user puts it back, or begins anew under another name."""

    @classmethod
    def of(cls, what: str, *, before: str, now: str) -> Self:
        """The error for `what`, whose fingerprint was `before` when the work began and is `now`."""
        return cls(
            f"{what} changed while it was worked with (fingerprint {before} before, {now} now); put it back and run "
            "the same command again, or begin anew under another name"
        )


class RegistryError(ClinscaleError):
    """The tracking server does not answer, or a model name, version or alias is not there."""

    exit_code = 2


class AccessError(RegistryError):
    """The account may not do this on the tracking server: its administrator, or somebody with more rights, acts."""


class CapacityError(ClinscaleError):
    """The request does not fit the machine or cluster: more memory, disk or workers are needed."""


class OutOfMemoryError(CapacityError):
    """The memory of a worker, GPU or host, did not hold its share: smaller micro batches need less."""


class ClusterError(ClinscaleError):
    """Ray, a worker or a node failed and the retry budget is spent."""


def own_cause(error: BaseException | None) -> ClinscaleError | None:
    """The ClinscaleError inside an error that Ray wrapped on its way between processes, if there is one."""
    for one in with_causes(error, lambda wrapped: getattr(wrapped, "cause", None) or wrapped.__cause__):
        # Ray's own answer to a task that failed is of both classes, and its text is a traceback
        if isinstance(one, ClinscaleError) and not hasattr(one, "cause"):
            return one
    return None


def exhausted_memory(error: Exception) -> str | None:
    """The memory (`host`, `GPU`) that was too small, if the error says so; torch has no type for the host's."""
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or "can't allocate memory" in text
        or "could not create a primitive" in text  # all that oneDNN says when its code finds no room
        or getattr(error, "errno", 0) == errno.ENOMEM
    ):
        return "host"
    return "GPU" if "out of memory" in text else None


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def exhausted_disk(error: BaseException | None) -> str | None:
    """The system's words if the error, or what it came from, says that a disk is full or read-only.

    Libraries in C++ and Rust hide the system's error behind their own, or have its number in their text alone.
    """
    for one in with_causes(error):
        written = re.search(r"\(os error (\d+)\)", str(one))
        number = one.errno if isinstance(one, OSError) else int(written[1]) if written else None
        if number in _DISK:
            return os.strerror(number)
    return None


def reason_of(error: Exception) -> str:
    """`TYPE: first sentence` of what a library raised, in characters that any terminal may show."""
    text = re.sub(r"\x1b\[[0-9;]*m|[^\x20-\x7e]+", " ", str(error))
    return f"{type(error).__name__}: {' '.join(text.split()).partition('. ')[0][:200]}"
