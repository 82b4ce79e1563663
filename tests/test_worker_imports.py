"""What a worker may import: each library that it does not use costs every start of it seconds."""

import json
import subprocess
import sys

import pytest

HEAVY = {"datasets", "deepspeed", "duckdb", "matplotlib", "mlflow", "optuna", "pandas", "ray", "scipy", "sklearn"}
HEAVY |= {"torch._inductor.compile_fx"}

TRAIN = """
from clinscale import corpus
from clinscale.pretrain import PretrainConfig
from clinscale.pretrain.run import worker_task
from clinscale.pretrain.worker import train_worker
import torch

class Alone:
    rank, world_size = 0, 1
    def log(self, metrics): pass
    def preempted(self): return False

os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
recipe = {"shards": shards, "model": {"size": "tiny"}, "row_tokens": 128, "rows_per_step": 2, "duration": "1steps"}
settings = {"num_workers": 1, "zero": {"stage": 2}, "evaluation_rows": 1}
config = PretrainConfig.parse({"name": "x", "recipe": recipe, "runtime": settings}, source="test")
train_worker(Alone(), worker_task(config, corpus.open_shards(shards), folder))
"""

TRIAL = """
from clinscale.sweep.trial import run_segment
from clinscale.finetune import FinetuneRecipe, finetune
from clinscale.tasks import load_task, read_task
recipe = {"model": base, "max_tokens": 64, "epochs": 1, "batch_size": 8, "dropout": 0.0}
data = read_task(load_task("demo_pairs"), demo_data)
finetune(FinetuneRecipe.parse(recipe, source="test"), data, folder / "hf")
"""

PREDICT = """
from clinscale.finetune import FinetuneRecipe
from clinscale.predict import load_predictor
from clinscale.predict import workers
from clinscale.tasks import Example
load_predictor(tuned).predict([Example(id="a", text="pain", text_pair="pain")])
"""

MAY = {
    # transformers brings scipy, by a loss of object detection that no encoder uses; DeepSpeed is the engine
    "train": (TRAIN, {"deepspeed", "scipy"}),
    "trial": (TRIAL, {"pandas", "scipy", "sklearn"}),  # scores; scikit-learn brings the other two
    "predict": (PREDICT, {"scipy"}),
}


@pytest.fixture(scope="module")
def tuned(base_models, demo_data, tmp_path_factory):
    """A fine-tuned folder."""
    from clinscale.finetune import FinetuneRecipe, finetune
    from clinscale.tasks import load_task, read_task

    values = {"model": base_models["longformer"], "max_tokens": 64, "epochs": 1, "batch_size": 8}
    data = read_task(load_task("demo_pairs"), str(demo_data))
    return finetune(
        FinetuneRecipe.parse(values, source="test"), data, tmp_path_factory.mktemp("tuned") / "hf"
    ).folder


@pytest.mark.parametrize("role", MAY)
def test_a_worker_imports_only_what_it_uses(role, shards, base_models, demo_data, tuned, tmp_path):
    code, allowed = MAY[role]
    given = {
        "shards": shards.uri,
        "base": base_models["longformer"],
        "demo_data": str(demo_data),
        "tuned": str(tuned),
    }
    head = f"import json, os, sys\nfrom pathlib import Path\nfolder = Path({str(tmp_path)!r})\n"
    head += "".join(f"{name} = {value!r}\n" for name, value in given.items())
    tail = f"\nprint(json.dumps(sorted({HEAVY!r} & set(sys.modules))), flush=True)\nos._exit(0)\n"
    ran = subprocess.run([sys.executable, "-c", head + code + tail], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert set(json.loads(ran.stdout.splitlines()[-1])) <= allowed
