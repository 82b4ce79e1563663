"""A cluster of several nodes on this machine that loses and gains some while a group runs; a script, not a test.

It leaves `seen.json` in the folder given: what was seen. Apart from the tests because a process talks to one Ray only.
"""

import concurrent.futures
import json
import sys
import time
from pathlib import Path

import ray.cluster_utils
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from clinscale.errors import CapacityError
from clinscale.runtime import GroupConfig, current_cluster, one_start_at_a_time, ray_session, run_workers

GRACE_S = 10  # only a node that ends by its notice is told as one that was taken away

ray.cluster_utils.Cluster.add_node = one_start_at_a_time()(ray.cluster_utils.Cluster.add_node)


def stay(context, folder):
    """Note who I am and whether a node goes, until the test says that it has seen enough."""
    import ray
    import torch.distributed

    me = {"rank": context.rank, "world_size": context.world_size, "attempt": context.attempt, "preempted_at": None}
    me["node"] = ray.get_runtime_context().get_node_id()
    here = Path(folder) / f"{context.attempt}-{context.rank}.json"
    step = 0
    while True:
        if context.preempted() and me["preempted_at"] is None:
            me["preempted_at"] = step
        part = here.with_suffix(".part")
        part.write_text(json.dumps(me))
        part.replace(here)
        enough = torch.tensor((Path(folder) / "enough").exists(), dtype=torch.int32)
        torch.distributed.all_reduce(enough)
        if enough:
            return
        step += 1
        time.sleep(0.05 if context.rank else 0.02)  # ranks are never at the same place


def members(folder, running, attempt, world_size, preempted=False):
    """Of one group, once all are there."""
    while not running.done():
        found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob(f"{attempt}-*.json"))]
        if len(found) == world_size and (not preempted or all(m["preempted_at"] is not None for m in found)):
            return found
        time.sleep(0.1)
    return None


def loses_and_gains_nodes(cluster, nodes, folder):
    """One node dies, one comes, one is reclaimed with a notice; at most one failure and one preemption."""
    told, groups, seconds = [], [], []

    def see(attempt, world_size, **what):
        start = time.monotonic()
        groups.append(members(folder, running, attempt, world_size, **what))
        seconds.append(time.monotonic() - start)

    group = GroupConfig(
        num_workers=(1, 2), max_failures=1, max_preemption_failures=1, start_timeout_s=60, collective_timeout_s=60
    )
    with concurrent.futures.ThreadPoolExecutor() as pool:  # nodes are added in the main thread or not at all
        running = pool.submit(
            run_workers,
            stay,
            str(folder),
            group=group,
            scratch=folder / "ray",
            on_log=print,
            on_event=told.append,
            resize_interval_s=1,
        )
        try:
            see(0, 2)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            see(1, 1)
            nodes.append(cluster.add_node(num_cpus=1))
            see(2, 2)
            GcsClient(address=cluster.address).drain_node(
                nodes[-1].node_id,
                autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION,
                "spot instance reclaimed",
                int((time.time() + GRACE_S) * 1000),
            )
            see(2, 2, preempted=True)
            see(3, 1)
        finally:
            (folder / "enough").touch()
        running.result()
    left = [path.name for path in (folder / "ray").iterdir()]
    return {"told": told, "groups": groups, "seconds": seconds, "drained": nodes[-1].node_id, "left": left}


def gives_up(cluster, nodes, session):
    """Two CPUs are there, but not on one node."""
    nodes.append(cluster.add_node(num_cpus=1))
    try:
        session.wait_for(processes=1, cpus=2, gpus=0, timeout_s=1)
    except CapacityError as error:
        return str(error)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes = [cluster.add_node(num_cpus=1)]
        with ray_session(cluster.address) as session:
            seen = {"hardware": current_cluster().hardware()} | loses_and_gains_nodes(cluster, nodes, folder)
            seen |= {"gives_up": gives_up(cluster, nodes, session)}
        (folder / "seen.json").write_text(json.dumps(seen))
    finally:
        cluster.shutdown()
