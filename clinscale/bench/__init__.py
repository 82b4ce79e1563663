"""Measured side by side with the peer, in one process, equality first; nothing here is a test.

A bench answers with `{"what", "machine", "versions", "load", "ratios": {NAME: {"median", "min", "max", "asked"}},
"equal": true, "details"}`; `asked` is the figure that the project set itself for one thread of a CPU, or for a GPU.
"""

from clinscale.bench.attention import bench_attention
from clinscale.bench.encoders import FAMILIES
from clinscale.bench.loading import FORMATS, bench_loading
from clinscale.bench.step import bench_step

__all__ = ["FAMILIES", "FORMATS", "bench_attention", "bench_loading", "bench_step"]
