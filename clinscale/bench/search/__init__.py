"""Searches replayed on a recorded table of real fine-tunings, and the recorder of such tables."""

from clinscale.bench.search.compare import bench_search
from clinscale.bench.search.table import record_table

__all__ = ["bench_search", "record_table"]
