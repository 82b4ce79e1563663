"""Faults done for real to processes, disks and servers, and a look at what became of the work.

One injector for the bench and for the tests of the chaos tier: a `Fault` is done to real processes, files and file
systems at a moment that a seed chooses, and what is left is compared with undisturbed work.
"""

from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.loss import LossError
from clinscale.bench.faults.run import FaultResult, FaultsRecord, all_faults, bench_faults
from clinscale.bench.faults.throughput import Kept, KeptRecord, bench_kept

__all__ = [
    "Fault",
    "FaultResult",
    "FaultsRecord",
    "Kept",
    "KeptRecord",
    "LossError",
    "NotStruckError",
    "Outcome",
    "Scene",
    "all_faults",
    "bench_faults",
    "bench_kept",
]
