"""Searches replayed on recorded trainings, ours and other people's, and the recorder of such tables."""

from clinscale.bench.search.budgets import bench_budgets
from clinscale.bench.search.compare import bench_search
from clinscale.bench.search.convert import convert_table
from clinscale.bench.search.real import record_curves
from clinscale.bench.search.table import record_table

__all__ = ["bench_budgets", "bench_search", "convert_table", "record_curves", "record_table"]
