"""Two ways of doing one thing, timed side by side in one process."""

import contextlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clinscale.bench.record import Machine, Ratio, Surroundings
from clinscale.runtime import cpu_model

_PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class Times:
    """Seconds of the same runs of A (the peer) and B (clinscale), in turns."""

    a_s: list[float]
    b_s: list[float]

    def ratio(self, asked: float | None) -> Ratio:
        """Speed of B as a multiple of A's, over each pair of neighbouring runs."""
        return ratio([a / b for a, b in zip(self.a_s, self.b_s, strict=True)], asked)

    def seconds(self) -> dict[str, dict[str, float]]:
        """Minimum and median of both."""
        return {
            name: {"min_s": min(runs), "median_s": statistics.median(runs)}
            for name, runs in (("a", self.a_s), ("b", self.b_s))
        }


def ratio(values: list[float], asked: float | None, **more: float | None) -> Ratio:
    """Median, smallest and largest of the values, beside the figure that the project set itself."""
    return Ratio(statistics.median(values), min(values), max(values), asked, more)


def side_by_side(a: Callable[[], Any], b: Callable[[], Any], *, repeats: int, device: str) -> Times:
    """Run A, B, A, B, ... after one run of each that does not count."""
    times: dict[Callable[[], Any], list[float]] = {a: [], b: []}
    for turn in range(repeats + 1):
        for work in (a, b):
            seconds = timed(work, device)
            if turn:
                times[work].append(seconds)
    return Times(times[a], times[b])


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds until the device has done the work."""
    synchronize(device)
    start_s = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start_s


def synchronize(device: str) -> None:
    """Wait for what was queued on a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def saved_bytes(work: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `work`, parameters left out."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = work()
    del output
    return sum(kept.values())


def peak_allocated_bytes(work: Callable[[], Any]) -> int:
    """Most memory of tensors on the CPU that `work` holds beyond what was there before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = most = 0
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def in_fresh_process(work: Callable[..., int], *arguments: Any) -> int:
    """Run `work` in a new process, whose memory nothing has used before, and return its result.

    An interruption ends the process, too.
    """
    others = set(multiprocessing.active_children())
    # not multiprocessing.Pool: it waits forever for a child that was killed for its memory
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(work, *arguments)
        try:
            return found.result()
        except BaseException:  # the pool would wait for work that nobody wants any more
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise


def peak_resident_bytes() -> int:
    """Most memory that this process has held so far."""
    # not getrusage: its figure begins with that of the parent process
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def surroundings(what: str, device: str, *, packages: Sequence[str] = ()) -> Surroundings:
    """Machine, versions and load as they are now; `packages` are those that this bench measures beside the usual."""
    machine = Machine(
        processor=cpu_model(),
        cpus=os.cpu_count(),
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        system=platform.platform(),
    )
    versions = {name: importlib.metadata.version(name) for name in (*_PACKAGES, *packages)}
    return Surroundings(what, machine, {"python": platform.python_version(), **versions}, os.getloadavg())


@contextlib.contextmanager
def one_arrow_thread() -> Iterator[None]:
    """Restrict Arrow to one thread while the block runs."""
    import pyarrow

    threads = pyarrow.cpu_count()
    pyarrow.set_cpu_count(1)
    try:
        yield
    finally:
        pyarrow.set_cpu_count(threads)
