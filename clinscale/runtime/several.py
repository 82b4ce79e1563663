"""A Ray of several nodes on one machine, to see there what becomes of work whose nodes are lost."""

import contextlib
import signal
from collections.abc import Iterator

from clinscale.runtime.session import PATIENT, one_start_at_a_time, variables


@contextlib.contextmanager
def several_nodes(count: int, *, num_cpus: int, **environment: str) -> Iterator[str]:
    """Address of a Ray of `count` nodes of `num_cpus` CPUs each; their processes have these variables, too."""
    from ray import cluster_utils

    on_sigterm = signal.getsignal(signal.SIGTERM)
    node = {"num_cpus": num_cpus}
    with variables(**PATIENT, **environment), one_start_at_a_time():
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
        try:
            for _ in range(count - 1):
                cluster.add_node(**node)
        except Exception:
            cluster.shutdown()
            raise
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray takes it for itself
    try:
        yield cluster.address
    finally:
        cluster.shutdown()
