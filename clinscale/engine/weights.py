"""One state dict from a checkpoint, sharded or not."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from clinscale.engine.checkpoints import fault_of
from clinscale.engine.manifest import MANIFEST, read_manifest
from clinscale.engine.universal import ENGINE_TAG, ParameterStates, plain_path, read_model_states
from clinscale.engine.zero import import_deepspeed
from clinscale.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def consolidated_state(checkpoint: str | Path) -> "dict[str, torch.Tensor]":
    """The trained weights in fp32, and those tied to them, of a checkpoint of a `CheckpointStore` at any ZeRO stage.

    Of Schedule-Free they are the averages, by which its held-out loss was measured.
    What was frozen is not among them: it is as the model was built, and in bf16 a checkpoint has it rounded. Load the
    result into the HF model and save that: DeepSpeed's own safetensors export fails on tied MLM heads (DeepSpeed#8376).
    The checkpoint is unpickled, so it must be one of our own runs.

    Raises:
        DataError: it is no complete checkpoint.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / MANIFEST).is_file():
        raise DataError(f"{checkpoint} is no complete checkpoint: it has no {MANIFEST}; use an older one")
    manifest = read_manifest(checkpoint)
    missing = [name for name in manifest.files if not (checkpoint / name).is_file()]
    if missing:
        raise DataError(f"{checkpoint} is no complete checkpoint: {missing[0]} is missing; use an older one")
    if fault := fault_of(checkpoint):
        raise DataError(f"{checkpoint} is no complete checkpoint: {fault}; use an older one")
    if manifest.stage == 0:
        weights = read_model_states(checkpoint)["module"]
        states = ParameterStates(checkpoint, stage=0, names=manifest.parameters)
        masters = {weights[name].data_ptr(): states.of(name).judged for name in manifest.parameters}
    else:
        weights = _merged_shards(checkpoint)
        masters = {weights[name].data_ptr(): weights[name] for name in manifest.parameters}
    return {
        name: masters[weight.data_ptr()].view_as(weight)
        for name, weight in weights.items()
        if weight.data_ptr() in masters
    }


def load_weights(model: "PreTrainedModel", checkpoint: str | Path) -> None:
    """Put `consolidated_state` of a checkpoint into an HF model as it was built for that run, tied weights included.

    Raises:
        ConfigError: the model is another. DataError: it is no complete checkpoint.
    """
    missing, unexpected = model.load_state_dict(consolidated_state(checkpoint), strict=False)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    lost = [name for name in missing if name not in tied and name in trained]
    if lost or unexpected:
        raise ConfigError(
            f"checkpoint {checkpoint} does not fit the model of its recipe: {(lost or unexpected)[:3]}; name the "
            "model and recipe that it was trained with"
        )


def _merged_shards(checkpoint: Path) -> "dict[str, torch.Tensor]":
    import_deepspeed()
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    silence = io.StringIO()  # it prints its progress
    with plain_path(checkpoint) as path, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        merged: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(path, tag=ENGINE_TAG)
    return merged
