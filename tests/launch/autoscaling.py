"""A sweep on a cluster that has no worker until one is asked for; a script, not a test.

    autoscaling.py SEEN.json clinscale tune ...

Ray's own autoscaler, with its provider of nodes that are processes. It stops all of Ray on its host first, so that it
must have a host of its own. It leaves how many workers there were: before, at most, and at last.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import ray
import ray.cluster_utils


def workers():
    """Nodes beside the head that are alive."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def main(seen, command):
    """Run the command, watch the nodes, and wait for them to leave."""
    kind = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    cluster = ray.cluster_utils.AutoscalingCluster(
        head_resources={"CPU": 0, "object_store_memory": 100_000_000},
        worker_node_types={"worker": kind},
        idle_timeout_minutes=0.2,
    )
    cluster.start()
    try:
        ray.init("auto", log_to_driver=False)
        found = {"before": workers(), "most": 0}
        running = subprocess.Popen([*command, "--address", ray.get_runtime_context().gcs_address])
        while running.poll() is None:
            found["most"] = max(found["most"], workers())
            time.sleep(0.5)
        found["code"] = running.returncode
        for _ in range(240):
            if not workers():
                break
            time.sleep(0.5)
        found["after"] = workers()
        with Path(seen).open("w") as file:
            json.dump(found, file)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
