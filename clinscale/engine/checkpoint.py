"""From a sharded DeepSpeed checkpoint to one state dict."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from clinscale.engine.zero import import_deepspeed
from clinscale.errors import DataError

if TYPE_CHECKING:
    import torch


def consolidated_state(folder: str | Path) -> "dict[str, torch.Tensor]":
    """All weights in fp32 from a checkpoint that `DeepSpeedEngine.save` wrote, whatever the ZeRO stage.

    Load the result into the HF model and save that: DeepSpeed's own safetensors export fails on tied MLM heads
    (DeepSpeed#8376). The checkpoint is unpickled, so `folder` must be one of our own runs.

    Raises:
        DataError: `folder` is no complete checkpoint.
    """
    import torch

    shards = sorted(Path(folder, "engine").glob("*_optim_states.pt"))
    states = sorted(Path(folder, "engine").glob("*mp_rank_00_model_states.pt"))
    if not states:
        raise DataError(f"{folder} is no complete checkpoint: it has no model states; use an older one")
    if any("zero_pp_rank" in path.name for path in shards):
        import_deepspeed()
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        silence = io.StringIO()  # it prints its progress
        try:
            with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
                sharded: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(
                    str(folder), tag="engine"
                )
        except (ValueError, FileNotFoundError):  # how it says that shards of some ranks are absent
            raise DataError(
                f"{folder} is no complete checkpoint: shards of some workers are missing; use an older one"
            ) from None
        return sharded
    # stage 0 keeps the whole module in one file; other entries are not weights, hence the full unpickling
    whole = torch.load(states[0], map_location="cpu", weights_only=False)["module"]
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in whole.items()}
