"""Speed of a loop, in the unit that users pay for and as a share of the machine's peak."""

import time
from typing import TYPE_CHECKING

from clinscale.engine.hardware import load_hardware
from clinscale.engine.zero import Precision

if TYPE_CHECKING:
    import torch


class ThroughputMeter:
    """Tokens per second of training between two readings, by the monotonic clock; nothing counts before `run`."""

    def __init__(self) -> None:
        self._tokens, self._seconds = 0, 0.0
        self._since_s: float | None = None

    def run(self) -> None:
        """Count the time from now on; nothing changes where it is counted already."""
        if self._since_s is None:
            self._since_s = time.monotonic()

    def pause(self) -> None:
        """Leave out the time from now until the next `run`: an evaluation is no training."""
        if self._since_s is not None:
            self._seconds += time.monotonic() - self._since_s
            self._since_s = None

    def add(self, tokens: int) -> None:
        """Count the tokens of one step, over all workers."""
        self._tokens += tokens

    def tokens_per_second(self) -> float:
        """The rate since the last reading; starts a new interval."""
        self.pause()
        rate = self._tokens / max(self._seconds, 1e-9)
        self._tokens, self._seconds = 0, 0.0
        self.run()
        return rate


def peak_flops(device: str, precision: Precision) -> float:
    """Floating-point operations per second that MFU is a share of: the data sheet's, else measured here.

    The maker's figure is of half precision on a known GPU. For a CPU, for fp32 and for unknown GPUs it is the best
    matrix product of the size of a base encoder's, which takes a tenth of a second.
    """
    import torch

    if precision != "fp32" and (known := datasheet_peak_flops(device)):
        return known
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return gemm_roof_flops(dtype, device, tokens=1024, repeats=4)


def datasheet_peak_flops(device: str) -> float | None:
    """The maker's dense half-precision peak of a GPU; None for a CPU and for GPUs that are not in the list."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    known = load_hardware().reported(name)
    return None if known is None else known.half_flops


def gemm_roof_flops(dtype: "torch.dtype", device: str, *, tokens: int, repeats: int = 10) -> float:
    """Multiplications and additions per second of the best matrix product of a base encoder's shapes here.

    The best of `repeats`, or of as many as fit into a second: a processor that has no bf16 takes seconds for one.
    """
    import torch

    best = 0.0
    for inner, outer in ((768, 768), (768, 3072), (3072, 768)):
        left = torch.randn(tokens, inner, device=device).to(dtype)
        right = torch.randn(inner, outer, device=device).to(dtype)
        begin_s = time.perf_counter()
        for _ in range(repeats):
            start_s = time.perf_counter()
            left @ right
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            end_s = time.perf_counter()
            best = max(best, 2 * tokens * inner * outer / (end_s - start_s))
            if end_s - begin_s > 1.0:
                break
    return best
