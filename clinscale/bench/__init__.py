"""Measured side by side with the peer, in one process, equality first; nothing here is a test.

A bench answers with a `BenchRecord`, which `clinscale bench NAME --json` prints.
"""

from clinscale.bench.attention import bench_attention
from clinscale.bench.checkpoint import bench_checkpoint
from clinscale.bench.corpus import bench_corpus
from clinscale.bench.encoders import FAMILIES
from clinscale.bench.faults import Fault, FaultResult, FaultsRecord, all_faults, bench_faults, bench_kept
from clinscale.bench.loading import FORMATS, bench_loading
from clinscale.bench.plan import Anchor, anchors, bench_plan
from clinscale.bench.predict import KINDS, bench_predict
from clinscale.bench.pretrain import bench_pretrain
from clinscale.bench.recipe import LEVERS, RecipeRecord, bench_recipe
from clinscale.bench.record import BenchRecord, Ratio
from clinscale.bench.regress import Difference, compare_records
from clinscale.bench.search import bench_budgets, bench_search, convert_table, record_curves, record_table
from clinscale.bench.step import bench_step
from clinscale.bench.suite import SUITE, Entry, SuiteRecord, load_record, run_suite
from clinscale.bench.tables import TABLES, has_rows, marks, render, with_tables
from clinscale.bench.zero import bench_zero

__all__ = [
    "FAMILIES",
    "FORMATS",
    "KINDS",
    "LEVERS",
    "SUITE",
    "TABLES",
    "Anchor",
    "BenchRecord",
    "Difference",
    "Entry",
    "Fault",
    "FaultResult",
    "FaultsRecord",
    "Ratio",
    "RecipeRecord",
    "SuiteRecord",
    "all_faults",
    "anchors",
    "bench_attention",
    "bench_budgets",
    "bench_checkpoint",
    "bench_corpus",
    "bench_faults",
    "bench_kept",
    "bench_loading",
    "bench_plan",
    "bench_predict",
    "bench_pretrain",
    "bench_recipe",
    "bench_search",
    "bench_step",
    "bench_zero",
    "compare_records",
    "convert_table",
    "has_rows",
    "load_record",
    "marks",
    "record_curves",
    "record_table",
    "render",
    "run_suite",
    "with_tables",
]
