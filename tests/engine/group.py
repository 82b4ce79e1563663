"""Ranks of real gloo groups in processes of their own: each trains, saves and restores as its plan says.

`python group.py PLANS.json` runs one group after another, each rank a fork that has its libraries imported already. A
plan holds `world_size`, `port`, `model`, `out` and `phases`; a phase `stage`, `precision`, `restore` and `save`
(folders), `steps`, `saves` (after which steps), and `skip` (steps without update).
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

STEPS_IN_ALL = 20
ROWS = 4


def run_groups(plans, folder):
    """What each phase of each plan found: losses by step, weights and moments by name, what the store gave back."""
    path = folder / "plans.json"
    ports = [free_port() for _ in plans]
    outs = [folder / f"found-{number}.pt" for number in range(len(plans))]
    whole = [{"port": port, "out": str(out)} | plan for port, out, plan in zip(ports, outs, plans, strict=True)]
    path.write_text(json.dumps(whole))
    ran = subprocess.run([sys.executable, __file__, str(path)], stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    import torch

    return [torch.load(out, weights_only=False) for out in outs]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def batch_of(step, rank, world_size):
    """This rank's rows of a step: the same rows on any number of ranks."""
    import torch

    ids = torch.randint(10, 400, (ROWS, 64), generator=torch.Generator().manual_seed(step))
    labels = ids.clone()
    labels[:, ::2] = -100
    share = ROWS // world_size
    part = slice(rank * share, (rank + 1) * share)
    return {"input_ids": ids[part], "labels": labels[part]}


def main(plan, rank):
    import torch

    from clinscale import models
    from clinscale.engine import OptimizerConfig, ZeroConfig
    from clinscale.engine.backend import DeepSpeedEngine
    from clinscale.engine.checkpoints import CheckpointStore, RetentionConfig

    world_size = plan["world_size"]
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(plan["port"])}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    found = []
    for phase in plan["phases"]:
        model = models.load_hf(plan["model"], head="mlm", dropout=0.0)
        models.prepare_for_mlm(model)  # freezes what masked-language modelling does not reach
        engine = DeepSpeedEngine(
            model,
            OptimizerConfig(learning_rate=1e-3, weight_decay=0.01, name=phase.get("optimizer", "adamw")),
            total_steps=STEPS_IN_ALL,
            zero=ZeroConfig(stage=phase["stage"], **phase.get("zero", {})),
            precision=phase.get("precision", "fp32"),
            micro_batch_per_gpu=ROWS // world_size,
            gradient_accumulation_steps=1,
        )
        place = {"rank": rank, "world_size": world_size, "patience_s": 60}
        begun, state = 0, None
        if "restore" in phase:
            state = CheckpointStore(Path(phase["restore"]), **place).restore(engine)
            begun = state["step"] if state else 0
        retention = RetentionConfig.model_validate(phase.get("retention", {}))
        store = CheckpointStore(Path(phase.get("save", "")), **place, retention=retention)
        losses, norms = {}, []
        for step in range(begun, begun + phase["steps"]):
            loss = engine.forward(batch_of(step, rank, world_size)).loss
            engine.backward(loss)
            engine.step(update=step not in phase.get("skip", []))
            total = loss.detach().double().clone()
            torch.distributed.all_reduce(total)
            losses[step] = float(total) / world_size
            norms.append(engine.grad_norm)
            if phase.get("judge"):  # as an evaluation does; it must change nothing
                with engine.averaged():
                    judged = {name: one.detach().clone() for name, one in engine.module.named_parameters()}
            if step + 1 in phase.get("saves", []):  # training goes on while it is written
                metric = phase.get("metrics", {}).get(str(step + 1))
                store.save(engine, step + 1, {"step": step + 1, "third": 1 / 3}, metric=metric)
        store.close()
        found.append({"losses": losses, "state": state, "rate": engine.learning_rate, "updates": engine.updates})
        found[-1]["norms"] = norms
        if phase.get("judge"):
            found[-1]["judged"] = judged
        torch.distributed.barrier()
    assert "mlflow" not in sys.modules, "loading it takes a worker's start seconds"
    if rank == 0:
        torch.save(found, plan["out"])
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart


def fork(plan, rank):
    """The number of a process that is that rank."""
    if child := os.fork():
        return child
    try:
        main(plan, rank)
    except BaseException:  # noqa: BLE001 - as Python itself would print it
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    gc.disable()  # while what stays is imported
    import clinscale.engine.preload  # noqa: F401

    gc.collect()
    gc.freeze()
    gc.enable()
    for asked in json.loads(Path(sys.argv[1]).read_text()):
        ranks = {fork(asked, rank) for rank in range(asked["world_size"])}
        while ranks:
            ended, status = os.wait()
            ranks.remove(ended)
            if status:  # the others would wait for it
                for rank in ranks:
                    os.kill(rank, signal.SIGKILL)
                sys.exit(1)
