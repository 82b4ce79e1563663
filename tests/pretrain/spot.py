"""Pretraining on two nodes of which one is reclaimed with a notice; a script, because a process talks to one Ray only.

`python spot.py CONFIG.json FOLDER` leaves `seen.json` in FOLDER: losses in the order in which they were told, and the
checkpoints that were there when the node went.
"""

import concurrent.futures
import json
import sys
import threading
import time
from pathlib import Path

import ray.cluster_utils
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from clinscale import corpus
from clinscale.pretrain import PretrainConfig
from clinscale.pretrain.run import CHECKPOINTS, train, worker_task
from clinscale.pretrain.worker import train_worker
from clinscale.runtime import one_start_at_a_time, ray_session

GRACE_S = 60

ray.cluster_utils.Cluster.add_node = one_start_at_a_time()(ray.cluster_utils.Cluster.add_node)


class Slow:
    """A context whose first group waits after a step for its notice, and after the one that saves for its end."""

    def __init__(self, context):
        self.rank, self.world_size, self.log = context.rank, context.world_size, context.log
        self._heard, self._told = context, False

    def preempted(self):
        if self._heard.attempt:
            return self._heard.preempted()
        if self._told:
            time.sleep(600)
        while not self._heard.preempted():
            time.sleep(0.1)
        self._told = True
        return True


def train_slowly(context, task):
    train_worker(Slow(context), task)


def losses_of(task, folder, begun):
    """By step, in the order in which they were told; `begun` is set after the first."""
    losses = []

    def on_log(metrics):
        if "train/loss" in metrics:
            losses.append((int(metrics["step"]), metrics["train/loss"]))
            begun.set()

    train(task, folder, on_log=on_log, function=train_slowly)
    return losses


def reclaimed(cluster, task, folder):
    """The node goes as soon as what its notice asked for is saved."""
    node, begun = cluster.add_node(num_cpus=1), threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:  # nodes are taken away in the main thread or not at all
        running = pool.submit(losses_of, task, folder, begun)
        while not running.done() and not begun.wait(0.1):
            pass
        GcsClient(address=cluster.address).drain_node(
            node.node_id,
            autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION,
            "spot instance reclaimed",
            int((time.time() + GRACE_S) * 1000),
        )
        while not running.done() and not list((folder / CHECKPOINTS).glob("step-*")):
            time.sleep(0.05)
        saved = [path.name for path in (folder / CHECKPOINTS).glob("step-*")]
        cluster.remove_node(node, allow_graceful=False)
        return {"saved": saved, "losses": running.result()}


if __name__ == "__main__":
    config = PretrainConfig.parse(json.loads(Path(sys.argv[1]).read_text()), source="spot")
    folder = Path(sys.argv[2])
    task = worker_task(config, corpus.open_shards(config.recipe.shards), folder)
    cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        with ray_session(cluster.address):
            seen = reclaimed(cluster, task, folder)
        (folder / "seen.json").write_text(json.dumps(seen))
    finally:
        cluster.shutdown()
