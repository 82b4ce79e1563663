"""What clinscale uses of other libraries without their promise: an upgrade that takes it away is one red list.

Each line says what is borrowed and why. Signatures count where we override or call by position.
"""

import importlib
import inspect
from pathlib import Path

import mlflow
import pytest

from clinscale.registry.application import FIRST_CHOICES

BORROWED = {
    # runtime: what Ray Train decides about lost workers and elastic groups cannot be set from outside
    "ray._private.state:available_resources_per_node": "free resources by node, for elastic groups",
    "ray._private.state:state.get_draining_nodes": "nodes that are about to be taken away",
    "ray._private.worker:global_worker.node": "which raylet this driver depends on",
    "ray.train.torch:TorchTrainer._initialize_and_run_controller": "overridden: our controller",
    "ray.train.torch:TorchTrainer._register_sigint_handler": "overridden: Ctrl-C is ours",
    "ray.train.v2._internal.execution.controller:TrainController.worker_group_cls": "replaced: ours ends its workers",
    "ray.train.v2._internal.execution.worker_group:WorkerGroup._start": "overridden: a start that fails ends them",
    "ray.train.v2._internal.execution.worker_group:WorkerGroup._create_workers": "overridden: a start does end",
    "ray.train.v2._internal.execution.context:get_train_context": "whether this node is about to be taken away",
    "ray.train.v2._internal.execution.scaling_policy.elastic:ElasticScalingPolicy._get_reserved_resources": "ours",
    "ray.train.v2._internal.constants:ENV_VARS_TO_PROPAGATE": "workers get our variables",
    "ray.autoscaler._private.util:validate_config": "a launch file is read as `ray up` reads it",
    # sweep
    "ray.tune.experiment:Trial.get_pickled_error": "why a trial was lost",
    # engine
    "deepspeed.checkpoint.ds_to_universal:main": "checkpoints of any world size",
    "deepspeed.utils.zero_to_fp32:get_fp32_state_dict_from_zero_checkpoint": "consolidated weights",
    "deepspeed.runtime.zero.partition_parameters:GatheredParameters": "optimizer state of ZeRO 3",
    "deepspeed.runtime.checkpoint_engine.checkpoint_engine:CheckpointEngine": "ours writes while training goes on",
    "deepspeed.runtime.compiler:compile": "its Muon is imported uncompiled",
    "deepspeed.runtime.zero.muon.original_muon:zeropower_via_newtonschulz5": "what it would compile",
    # models: the exact attention is swapped into these classes
    "transformers.models.longformer.modeling_longformer:LongformerEncoder.forward": "replaced",
    "transformers.models.longformer.modeling_longformer:LongformerSelfAttention.forward": "replaced",
    "transformers.models.big_bird.modeling_big_bird:BigBirdEncoder.forward": "replaced",
    "transformers.models.big_bird.modeling_big_bird:BigBirdSelfAttention.forward": "replaced",
    "transformers.models.big_bird.modeling_big_bird:BigBirdBlockSparseAttention.forward": "replaced",
    "transformers.masking_utils:create_bidirectional_mask": "ModernBERT's masks, cut at the ends of documents",
    "transformers.masking_utils:create_bidirectional_sliding_window_mask": "the same",
    "torch:_softmax_backward_data": "softmax's backward without keeping its input",
    # records
    "openpyxl.worksheet._read_only:ReadOnlyWorksheet._get_source": "merged cells, which its rows do not show",
    # registry
    "mlflow.server.handlers:_get_request_message": "what a request asks, for rights",
    "mlflow.server.auth:authenticate_request_basic_auth": "who asks",
    "mlflow.server.auth:_get_experiment_permission": "whether a reader may read what an address names",
    "mlflow.server.auth:make_forbidden_response": "what is answered",
    "mlflow.store.artifact.artifact_repository_registry:get_artifact_repository": "files of a version",
    "mlflow.utils.rest_utils:http_request": "downloads in ranges",
    "mlflow.store.artifact.artifact_repo:ArtifactRepository._download_file": "an error of an object store as it is",
    # cli
    "typer.core:TyperGroup.parse_args": "overridden: `pretrain` without a verb runs",
}


def test_mlflows_pages_keep_the_choices_that_our_start_page_sets():
    """Their names in the browser's storage, and how the version is appended."""
    scripts = Path(mlflow.__file__).parent.glob("server/js/build/static/js/*.js")
    pages = "".join(script.read_text(errors="replace") for script in scripts)
    for key in FIRST_CHOICES:
        assert f'key:"{key}",version:1' in pages, key
    assert "=(e,t)=>`${e}_v${t}`" in pages


@pytest.mark.parametrize("place", BORROWED)
def test_what_is_borrowed_is_there(place):
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize(
    ("place", "parameters"),
    [
        (
            "transformers.models.longformer.modeling_longformer:LongformerSelfAttention",
            ["attention_mask", "is_index_masked", "is_index_global_attn", "is_global_attn"],
        ),
        ("deepspeed.runtime.checkpoint_engine.checkpoint_engine:CheckpointEngine.save", ["state_dict", "path"]),
        (
            "ray.train.v2._internal.execution.worker_group:WorkerGroup._create_workers",
            ["num_workers", "placement_group"],
        ),
    ],
)
def test_what_is_overridden_is_called_as_we_think(place, parameters):
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    function = getattr(found, "forward", found)
    assert set(parameters) <= set(inspect.signature(function).parameters)
