"""Memory that is too small: an error of ours, and the one loop that answers it with smaller micro batches."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from clinscale.errors import CapacityError, OutOfMemoryError, exhausted_memory

Result = TypeVar("Result")


@contextlib.contextmanager
def out_of_memory_as(message: Callable[[str], str]) -> Iterator[None]:
    """A block in which a lack of memory becomes an OutOfMemoryError.

    Args:
        message: makes the error's text from the memory that was too small, `host` or `GPU`.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if memory := exhausted_memory(error):
            raise OutOfMemoryError(message(memory)) from None
        raise


def halved(size: int, times: int = 1) -> int:
    """A micro batch of `size` rows halved so many times, rounded up: one row stays one."""
    return -(-size >> times)


def run_halving(
    work: Callable[[int], Result],
    size: int,
    *,
    on_halved: Callable[[int], None],
    at_one: Callable[[OutOfMemoryError], CapacityError] = lambda error: error,
) -> Result:
    """The result of `work(size)`, called again with half the micro batch as often as memory is too small for it.

    Args:
        work: raises OutOfMemoryError where micro batches of that size do not fit; may be called again after that.
        size: rows of the first micro batch.
        on_halved: takes each smaller size before it is tried.
        at_one: makes the error that is raised where not even one row fits, from the one that `work` raised.
    """
    while True:
        try:
            return work(size)
        except OutOfMemoryError as error:
            if size == 1:
                raise at_one(error) from None
        size = halved(size)  # outside the except block, which keeps the failed attempt's tensors alive
        on_halved(size)
