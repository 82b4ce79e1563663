"""Ranks of a real gloo group in processes of their own: each trains, saves and restores as its plan says.

`python group.py PLAN.json RANK`: the plan holds `world_size`, `port`, `model`, `out` and `phases`; a phase `stage`,
`precision`, `restore` and `save` (folders), `steps`, `saves` (after which steps), and `skip` (steps without update).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

STEPS_IN_ALL = 20
ROWS = 4


def run_group(plan, folder, world_size):
    """What each phase found: losses by step, weights and moments by name, what the store gave back."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    path.write_text(json.dumps({"world_size": world_size, "port": port, "out": str(folder / "found.pt"), **plan}))
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(path), str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(world_size)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(error[-2000:] for error in errors)
    import torch

    return torch.load(folder / "found.pt", weights_only=False)


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
            OptimizerConfig(learning_rate=1e-3, weight_decay=0.01),
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
            if step + 1 in phase.get("saves", []):  # training goes on while it is written
                metric = phase.get("metrics", {}).get(str(step + 1))
                store.save(engine, step + 1, {"step": step + 1, "third": 1 / 3}, metric=metric)
        store.close()
        found.append({"losses": losses, "state": state, "rate": engine.learning_rate, "updates": engine.updates})
        found[-1]["norms"] = norms
        torch.distributed.barrier()
    if rank == 0:
        torch.save(found, plan["out"])
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that takes itself apart


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]))
