"""Measured side by side with the peer, in one process, equality first; nothing here is a test.

A bench answers with `{"what", "machine", "versions", "load", "ratios": {NAME: {"median", "min", "max", "asked"}},
"equal": true, "details"}`; `asked` is the figure that the project set itself for one thread of a CPU, or for a GPU;
the names in `at_most`, where there are any, are ratios that should not be larger.
"""

from clinscale.bench.attention import bench_attention
from clinscale.bench.checkpoint import bench_checkpoint
from clinscale.bench.corpus import bench_corpus
from clinscale.bench.encoders import FAMILIES
from clinscale.bench.loading import FORMATS, bench_loading
from clinscale.bench.predict import KINDS, bench_predict
from clinscale.bench.pretrain import bench_pretrain
from clinscale.bench.search import bench_search, record_table
from clinscale.bench.step import bench_step
from clinscale.bench.zero import bench_zero

__all__ = [
    "FAMILIES",
    "FORMATS",
    "KINDS",
    "bench_attention",
    "bench_checkpoint",
    "bench_corpus",
    "bench_loading",
    "bench_predict",
    "bench_pretrain",
    "bench_search",
    "bench_step",
    "bench_zero",
    "record_table",
]
