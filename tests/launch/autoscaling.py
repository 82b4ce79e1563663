"""A sweep on a cluster that has no worker until one is asked for; a script, not a test.

    autoscaling.py SEEN.json clinscale tune ...

Ray's own autoscaler, with its provider of nodes that are processes. It ends with a `ray stop`, so that it must have a
host of its own. It leaves how many workers there were: before, at most, and at last.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray

CONFIG = {
    "cluster_name": "scaled",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "upscaling_speed": 1.0,
} | {
    f"{what}_commands": []
    for what in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
}


def workers():
    """Nodes beside the head that are alive."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def main(seen, command):
    """Run the command, watch the nodes, and wait for them to leave."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(CONFIG, file)
        file.flush()
        options = ["--num-cpus=0", "--object-store-memory=100000000", f"--autoscaling-config={file.name}"]
        fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        subprocess.run(["ray", "start", "--head", *options], env=os.environ | fake, check=True)
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
            Path(seen).write_text(json.dumps(found))
        finally:
            ray.shutdown()
            subprocess.run(["ray", "stop", "--force"], check=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
