"""A sweep over the nodes of a simulated cluster that loses one and gains one meanwhile; a script, not a test.

It leaves `seen.json` in the folder given: what was seen. Apart from the tests because a process talks to one Ray only.
"""

import json
import sys
import time
from pathlib import Path

import ray.cluster_utils

from clinscale import registry
from clinscale.runtime import one_start_at_a_time, ray_session
from clinscale.sweep import SweepConfig, sweep

ray.cluster_utils.Cluster.add_node = one_start_at_a_time()(ray.cluster_utils.Cluster.add_node)


def main(folder: Path, settings: Path) -> None:
    """Run the sweep in `settings`; the second node is taken away when both have reported, and another one comes."""
    config = SweepConfig.load(settings)
    cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1)]
    most_at_once = []

    def on_progress(at) -> None:
        most_at_once.append(at.studies[0].running)
        if at.studies[0].epochs >= 3 and len(nodes) == 1:
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))

    try:
        with ray_session(cluster.address) as session:
            result = sweep(
                config,
                tracking=registry.connect(home=folder),
                home=folder,
                cluster=session,
                on_progress=on_progress,
            )
            for _ in range(300):  # a trial that has just ended frees its CPU a moment later
                free, total = ray.available_resources().get("CPU", 0), ray.cluster_resources()["CPU"]
                if free == total:
                    break
                time.sleep(0.1)
        seen = {"winner": result.studies[0].value, "most_at_once": max(most_at_once), "nodes": len(nodes)}
        (folder / "seen.json").write_text(json.dumps(seen | {"free_cpus": free, "cpus": total}))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
