"""The state of each parameter in a checkpoint, whatever ZeRO stage and number of workers wrote or read it.

DeepSpeed shards weights and Adam's moments for one group of workers and one stage. Its universal checkpoints
(`ds_to_universal`) undo that for stages 1 to 3; stage 0 keeps them whole. Loading is our own, because DeepSpeed's does
not cross from one stage to another, leaves Adam's step count behind at stage 3 and does not know stage 0.
"""

import argparse
import contextlib
import glob
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale.engine.optim import RUNNING_NUMBERS, averaged
from clinscale.engine.run_key import others_may_write
from clinscale.engine.zero import import_deepspeed

if TYPE_CHECKING:
    import torch

ENGINE_TAG = "engine"
"""Folder of DeepSpeed's files inside a checkpoint; DeepSpeed calls it a tag."""


@dataclass(frozen=True)
class ParameterState:
    """One parameter: its master weight and the optimiser's moments, fp32, and flat where they were sharded."""

    fp32: "torch.Tensor"
    moments: "Mapping[str, torch.Tensor]"
    """`exp_avg` and `exp_avg_sq` of AdamW, `momentum_buffer` of Muon, or `z` and `exp_avg_sq` of Schedule-Free."""
    beta1: float = 0.0
    """AdamW's first factor; 0 where it was sharded."""

    @property
    def judged(self) -> "torch.Tensor":
        """The weight that is judged and saved: the master, or Schedule-Free's average."""
        z = self.moments.get("z")
        return self.fp32 if z is None else averaged(self.fp32, z, beta1=self.beta1)


class ParameterStates:
    """Looks parameters up by name in a checkpoint of any stage."""

    def __init__(self, checkpoint: Path, *, stage: int, names: Sequence[str]) -> None:
        """Open `checkpoint`, one of stages 1 to 3 converted by `convert`; `names` in the order of the optimiser."""
        self._folder = universal_folder(checkpoint) / "zero" if stage else None
        self._whole, self.groups = ({}, []) if stage else _whole_states(checkpoint, names)
        """States, and groups of the optimiser, of a checkpoint of stage 0."""

    def of(self, name: str) -> ParameterState:
        """State of the parameter `name` in the checkpoint."""
        if self._folder is None:
            return self._whole[name]
        folder = self._folder / name
        return ParameterState(
            _read_slice(folder / "fp32.pt"), {key: _read_slice(folder / f"{key}.pt") for key in _ADAMW_MOMENTS}
        )


def universal_folder(checkpoint: Path) -> Path:
    """Folder of the converted copy of a checkpoint: beside it, so that its manifest stays true."""
    return checkpoint.with_name(f".{checkpoint.name}.universal")


def convert(checkpoint: Path) -> None:
    """Undo the sharding of a checkpoint of ZeRO 1, 2 or 3, once; one process does it for all."""
    import_deepspeed()
    from deepspeed.checkpoint.ds_to_universal import main

    target = universal_folder(checkpoint)
    if target.exists() and not others_may_write(target):
        return
    shutil.rmtree(target, ignore_errors=True)
    unfinished = target.with_name(f"{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    options = argparse.Namespace(
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    silence = io.StringIO()  # it prints its options and its progress
    with (
        plain_path(checkpoint / ENGINE_TAG) as options.input_folder,
        plain_path(unfinished) as options.output_folder,
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        main(options)
    unfinished.replace(target)


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[str]:
    """A path to `folder` without `[`, `*` or `?`, which DeepSpeed would read as patterns."""
    temporary = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(dir="/tmp" if glob.has_magic(temporary) else temporary) as links:
        link = Path(links) / folder.name
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield str(link)


def load_parameters(
    engine: Any,
    optimizer: "torch.optim.Optimizer",
    states: ParameterStates,
    *,
    stage: int,
    names: Sequence[str],
    updates: int,
) -> None:
    """Give a new DeepSpeed engine the weights and moments of `states`; every rank must call it.

    Args:
        engine: DeepSpeed's, before its first step.
        optimizer: the optimiser that it was made with.
        states: of the checkpoint.
        stage: of the engine.
        names: of the trainable parameters in the order of the optimiser.
        updates: how often the checkpoint's weights had been updated, Adam's step count.
    """
    if stage == 0:
        _load_whole(engine, optimizer, states, names, updates)
    else:
        _load_sharded(engine, optimizer, states, stage, updates)


_ADAMW_MOMENTS = ("exp_avg", "exp_avg_sq")


def _load_whole(
    engine: Any, optimizer: "torch.optim.Optimizer", states: ParameterStates, names: Sequence[str], updates: int
) -> None:
    import torch

    parameters = dict(engine.module.named_parameters())
    masters = [master for group in optimizer.param_groups for master in group["params"]]
    for name, master in zip(names, masters, strict=True):
        state = states.of(name)
        master.data.copy_(state.fp32.view_as(master))
        parameters[name].data.copy_(master.data)  # in bf16 the master is another tensor
        optimizer.state[master] = {
            key: moment.view_as(master).to(master.device, copy=True) for key, moment in state.moments.items()
        }
        if "exp_avg" in state.moments:  # AdamW counts its updates
            optimizer.state[master]["step"] = torch.tensor(float(updates), device=master.device)
    for group, saved in zip(optimizer.param_groups, states.groups, strict=False):  # none where it was sharded
        group.update({key: saved[key] for key in RUNNING_NUMBERS if key in saved})


def _load_sharded(
    engine: Any, optimizer: "torch.optim.Optimizer", states: ParameterStates, stage: int, updates: int
) -> None:
    import torch
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    zero = engine.optimizer
    shards = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    for shard in shards:  # torch makes them in the first step, which is yet to come
        optimizer.state[shard] = {
            "step": torch.tensor(float(updates), device=shard.device),
            "exp_avg": torch.zeros_like(shard),
            "exp_avg_sq": torch.zeros_like(shard),
        }
    if stage < 3:
        zero._lazy_init_hp_params_optimizer_state()
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue  # as the model was built: nothing has changed it
        state, shape = states.of(name), getattr(parameter, "ds_shape", parameter.shape)
        device = shards[0].device
        safe_set_full_fp32_param(parameter, state.fp32.view(shape).to(device))
        for key, moment in state.moments.items():
            safe_set_full_optimizer_state(parameter, moment.view(shape).to(device), key)
        gathered = GatheredParameters([parameter], modifier_rank=0) if stage == 3 else contextlib.nullcontext()
        with gathered:  # what the next forward pass computes with
            parameter.data.copy_(state.fp32.view(shape))


def _whole_states(
    checkpoint: Path, names: Sequence[str]
) -> "tuple[dict[str, ParameterState], list[dict[str, Any]]]":
    """States, and the optimiser's groups, of a checkpoint of stage 0, where the first rank wrote everything."""
    content = read_model_states(checkpoint)
    optimizer = content["optimizer"]
    if masters := optimizer.get("fp32_groups"):  # bf16
        weights = [master for group in masters for master in group]
        optimizer = optimizer["optimizer_state_dict"]
    else:
        weights = [content["module"][name] for name in names]
    moments, groups = optimizer["state"], optimizer["param_groups"]
    betas = {index: group.get("betas", (0.0,)) for group in groups for index in group["params"]}
    states = {
        name: ParameterState(
            weights[index], {k: v for k, v in moments[index].items() if k != "step"}, betas[index][0]
        )
        for index, name in enumerate(names)
    }
    return states, groups


def read_model_states(checkpoint: Path) -> Any:
    """States that the first rank wrote beside the shards; unpickled, so `checkpoint` must be one of our own runs."""
    import torch

    path = checkpoint / ENGINE_TAG / "mp_rank_00_model_states.pt"
    return torch.load(path, map_location="cpu", weights_only=False)


def _read_slice(path: Path) -> "torch.Tensor":
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    tensor: torch.Tensor = content["param"] if isinstance(content, dict) else content
    return tensor
