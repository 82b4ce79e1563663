"""Comparison of a checkpoint's weights with a model's: no weight of an encoder is ever drawn at random unseen.

`transformers` answers a checkpoint whose names are not the model's (`module.` of DDP, `model.` of Lightning, a layer
too few) with new random weights and a table in its log. Here such names are understood, or refused.
"""

import json
import logging
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale.config import fingerprint
from clinscale.errors import DataError
from clinscale.models.families import family_named
from clinscale.storage import again_if_away, read_json_object, sha256

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger("clinscale.models")

_SAFETENSORS, _BIN = "model.safetensors", "pytorch_model.bin"
_KINDS = (_SAFETENSORS, f"{_SAFETENSORS}.index.json", _BIN, f"{_BIN}.index.json")
"""Weight files in the order in which `transformers` looks for them."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which Lightning, other trainers and DeepSpeed put the weights into their file."""

_NOT_LEARNED = ("position_ids", "token_type_ids", "inv_freq")
"""Buffers that older versions of `transformers` saved and a model makes for itself."""

_PRECISIONS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
"""Number formats of weights, by their names in safetensors."""

_BESIDE_WEIGHTS = (".json", ".txt", ".model")
"""Suffixes of configs and tokenizers."""

_OF_OTHERS = {
    r"tf_model\.h5|.+\.ckpt\.index": "of TensorFlow: load it in transformers 4 with from_tf, and save_pretrained it",
    r"flax_model\.msgpack": "of Flax: load it in transformers 4 with from_flax, and save_pretrained it",
    r".+\.onnx": "of ONNX, which cannot be trained: take the checkpoint that it was exported from",
    r".+\.gguf": "of GGUF, which cannot be trained: take the checkpoint that it was made from",
    r"(pytorch_)?model\.\w+\.(safetensors|bin)": f"a variant: rename it {_SAFETENSORS} or {_BIN}",
}
"""Files of weights that are not read, by their names, and what to do with them."""

_NAMES_SHOWN = 3

_OF_TYPES = ("albert", "bert", "deberta", "distilbert", "electra", "longformer", "mpnet", "roberta")
"""Prefixes that name the type of an encoder."""


@dataclass(frozen=True)
class Fit:
    """Fit of a checkpoint's names and shapes to a model's; full names of the model."""

    missing: frozenset[str]
    unexpected: frozenset[str]
    reshaped: Mapping[str, str]
    """Both shapes of each reshaped weight, by name."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Fit":
        """The fit that the loading info of `from_pretrained` describes."""
        reshaped = {
            name: f"{_shape(stored)}, not {_shape(wanted)}" for name, stored, wanted in info["mismatched_keys"]
        }
        return cls(frozenset(info["missing_keys"]), frozenset(map(str, info["unexpected_keys"])), reshaped)


def stored_precision(name_or_folder: str | Path) -> str:
    """Number format of the weights in a local folder, e.g. `fp16`; empty where that is not known."""
    folder = Path(name_or_folder)
    if not name_or_folder or not folder.is_dir():
        return ""
    formats: set[str] = set()
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            return ""
        formats.update(str(value["dtype"]) for value in _safetensors_header(path).values())
    return ", ".join(sorted(_PRECISIONS[one] for one in formats if one in _PRECISIONS))


def model_fingerprint(name_or_folder: str | Path) -> str:
    """Twelve hex digits of weights, configs and tokenizer of a local HF folder; empty for a name on the hub.

    Raises:
        DataError: its weights are not there or not whole.
    """
    folder = Path(name_or_folder)

    def read() -> str:
        if not name_or_folder or not folder.is_dir():
            return ""
        files = {*weight_files(folder), *(path for path in folder.iterdir() if path.suffix in _BESIDE_WEIGHTS)}
        return fingerprint({path.name: sha256(path) for path in files if path.is_file()})

    return again_if_away(folder, read)


def fill(model: "PreTrainedModel", fit: Fit, name: str, folder: Path, *, new_head: bool) -> Fit:
    """Make sure that every weight that `model` needs is that of the checkpoint; how it fits in the end.

    Where `fit` says that encoder weights are missing, they are looked for in `folder` under another prefix, and that is
    said in one line.

    Args:
        model: as `from_pretrained` made it; changed in place.
        fit: what it found.
        name: of the checkpoint in messages.
        folder: with its files.
        new_head: whether the head may be drawn at random.

    Raises:
        DataError: weights are missing, superfluous, or of another shape; names some and counts all.
    """
    encoder = {one for one in model.state_dict() if _is_of_encoder(model, one)}
    said = None
    if encoder & fit.missing:
        fit, said = _fill_from_prefix(model, encoder, fit, name, folder)
    misfits = {
        "missing": encoder & fit.missing,
        "more than the model has": {one for one in fit.unexpected if _is_of_encoder(model, one)},
        "of another shape than config.json says": encoder & fit.reshaped.keys(),
    }
    found = [f"{len(names)} {what}: {_some(names, fit.reshaped)}" for what, names in misfits.items() if names]
    if found:
        raise DataError(
            f"model {name} must hold the {len(encoder)} weights of the {model.config.model_type} encoder that its "
            f"config.json describes, and has {'; '.join(found)}. Export it again with save_pretrained, or fix "
            "config.json"
        )
    head = new_weights(model, fit)
    if head and not new_head:
        raise DataError(
            f"model {name} must hold a trained head, and {len(head)} of its weights are missing or of another "
            f"shape: {_some(head, fit.reshaped)}; fine-tune it, or pull it again"
        )
    _refuse_integers_in_pickles(folder)
    _set_new_biases(model, head)
    _refuse_no_numbers(model, name)
    _refuse_zeros(model, name)
    if said:
        logger.warning("%s", said)
    return fit


def _set_new_biases(model: "PreTrainedModel", new: Collection[str]) -> None:
    """Set the biases of a new head to zero, as HF's heads begin; of some it leaves what was in memory, even NaN."""
    import torch

    ours = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for one in new:
            if one.endswith("bias"):
                ours[one].zero_()


def _refuse_no_numbers(model: "PreTrainedModel", name: str) -> None:
    """Raise DataError where a weight is infinite or no number: every answer would be none either."""
    import torch

    # a sum is one pass without memory of its own; where it overflows, the weights themselves say
    odd = [
        one
        for one, value in model.named_parameters()
        if not torch.isfinite(value.detach().sum()) and not torch.isfinite(value).all()
    ]
    if odd:
        raise DataError(
            f"model {name} must hold finite weights, got {len(odd)} with values that are infinite or no number: "
            f"{_some(odd)}; its training diverged or the file is damaged: take an earlier checkpoint, or pull it again"
        )


def _refuse_zeros(model: "PreTrainedModel", name: str) -> None:
    """Raise DataError where a weight is zero throughout, as the rest of a file is whose copying was cut off.

    Biases may be, and so may embeddings other than those of words: RoBERTa's of token types are.
    """
    import torch

    words = model.get_input_embeddings()
    parts = {
        f"{one}.weight": part.weight
        for one, part in model.named_modules()
        if part is words or isinstance(part, torch.nn.Linear | torch.nn.LayerNorm)
    }
    empty = [
        one
        for one, weight in parts.items()
        if weight is not None and _is_of_encoder(model, one) and not weight.any()
    ]
    if empty:
        raise DataError(
            f"model {name} has {len(empty)} weights of zeros alone: {_some(empty)}; was it cut off while it was "
            "copied? Copy it, or pull the model, again"
        )


def new_weights(model: "PreTrainedModel", fit: Fit) -> set[str]:
    """Names of the head's weights that were drawn at random."""
    drawn = (fit.missing | fit.reshaped.keys()) - dict(model.named_buffers()).keys()
    return {one for one in drawn if not _is_of_encoder(model, one)}


def _is_of_encoder(model: "PreTrainedModel", name: str) -> bool:
    """Whether a full name is that of an encoder's weight; a pooler is a part of the head."""
    prefix = f"{model.base_model_prefix}."
    inner = name.removeprefix(prefix)
    parts = {part for part, _ in model.base_model.named_children()} - {"pooler"}
    return inner.partition(".")[0] in parts and not inner.endswith(_NOT_LEARNED)


def _fill_from_prefix(
    model: "PreTrainedModel", encoder: set[str], fit: Fit, name: str, folder: Path
) -> tuple[Fit, str | None]:
    """Load what is under one other prefix, or wrapped by a trainer: how that fits, and the line that says so."""
    import torch

    weights = read_weights(folder)
    base = f"{model.base_model_prefix}."
    inner = {one.removeprefix(base) for one in encoder}
    counts = _prefixes(weights, inner)
    whole = [repr(prefix) for prefix, count in counts.items() if count == len(inner)]
    if len(whole) > 1:
        raise DataError(
            f"model {name} holds {len(whole)} encoders, under {', '.join(whole)}; export the one that is meant with "
            "save_pretrained"
        )
    if not counts:
        return fit, None
    prefix = max(counts, key=lambda one: counts[one])
    _refuse_other_positions(prefix, model.config.model_type, name)
    renamed = {_renamed(one, prefix, base): value for one, value in weights.items()}
    ours = model.state_dict(keep_vars=True)
    reshaped = {
        one: f"{_shape(value.shape)}, not {_shape(ours[one].shape)}"
        for one, value in renamed.items()
        if one in ours and value.shape != ours[one].shape
    }
    taken = renamed.keys() & ours.keys() - reshaped.keys()
    with torch.no_grad():
        for one in taken:
            ours[one].copy_(renamed[one])
    tied = {id(ours[one]) for one in taken}
    missing = frozenset(one for one, value in ours.items() if one not in renamed and id(value) not in tied)
    said = f"model {name}: its {len(inner)} encoder weights are under {prefix!r} and are read as {base!r}"
    return Fit(missing, frozenset(renamed.keys() - ours.keys()), reshaped), said


def _refuse_other_positions(prefix: str, model_type: str, name: str) -> None:
    """Raise DataError where a prefix names a type that counts positions from another number than the model's does."""
    theirs = prefix.rstrip(".").rpartition(".")[2]
    counting = [family_named(one).counts_from_padding for one in (theirs, model_type)]
    if theirs in _OF_TYPES and counting[0] != counting[1]:
        raise DataError(
            f"model {name} must have the weights of a {model_type}, as its config.json says, got those of a {theirs} "
            f"({prefix!r}), which counts positions otherwise: every token would have the position of another; correct "
            "model_type"
        )


def _prefixes(names: Collection[str], inner: Collection[str]) -> dict[str, int]:
    """Number of the encoder's weights under each prefix in the checkpoint."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in inner:
                prefix = "".join(f"{part}." for part in parts[:at])
                counts[prefix] = counts.get(prefix, 0) + 1
                break
    return counts


def _renamed(name: str, prefix: str, base: str) -> str:
    """A checkpoint's name as the model's: the encoder's prefix replaced, of heads what was wrapped around both."""
    if name.startswith(prefix):
        return base + name.removeprefix(prefix)
    parts = prefix.split(".")
    for at in range(len(parts) - 1, 0, -1):
        outer = "".join(f"{part}." for part in parts[:at])
        if name.startswith(outer):
            return name.removeprefix(outer)
    return name


def read_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """All tensors of a folder's weight files by name, out of whatever a trainer wrapped around them."""
    import torch
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            weights |= load_file(path)
        else:
            weights |= _unwrapped(torch.load(path, map_location="cpu", weights_only=True))
    return weights


def _unwrapped(values: Any) -> "dict[str, torch.Tensor]":
    import torch

    for key in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
    return {str(name): value for name, value in dict(values).items() if isinstance(value, torch.Tensor)}


def config_file(folder: Path) -> Path:
    """The `config.json` of an HF model folder; DataError where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{folder} is not an HF model folder: it has no config.json; name a folder that has one")
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Content of the `config.json` of an HF model; DataError where it is no object that names its `model_type`."""
    values = read_json_object(path)
    if not isinstance(model_type := values.get("model_type"), str) or not model_type:
        raise DataError(
            f"{path} names no model_type, so {path.parent} is not an HF model folder; name one, or export the model "
            "again"
        )
    return values


def weight_files(folder: Path) -> list[Path]:
    """The weight files that `transformers` reads; DataError unless they are all there and whole, by their heads."""
    config_file(folder)
    main = next((folder / name for name in _KINDS if (folder / name).exists()), None)
    if main is None:
        found = ((file.name, what) for file in sorted(folder.iterdir()) for what in _OF_OTHERS.items())
        fixes = (f"{name} is {fix}" for name, (pattern, fix) in found if re.fullmatch(pattern, name))
        raise DataError(
            f"{folder} holds no weights: neither {_SAFETENSORS} nor {_BIN} nor an index of shards; "
            f"{next(fixes, 'copy them there, or pull or export the model again')}"
        )
    files = [main] if main.suffix != ".json" else _shards(main)
    held: dict[str, Path] = {}
    for path in files:
        for weight in _check_whole(path):
            if (other := held.setdefault(weight, path)) != path:
                raise DataError(
                    f"{other} and {path.name} both hold {weight}, and only one of them can be meant: the shards are of "
                    "several saves; pull or export the model again"
                )
    return files


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json_object(index)["weight_map"].values()))
        plain = all(isinstance(name, str) and Path(name).name == name for name in names)
    except (DataError, KeyError, TypeError, AttributeError):
        names, plain = [], False
    if not names or not plain:
        raise DataError(f"{index} is no index of shards; the folder is damaged, pull or export it again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise DataError(
            f"{index} names {len(names)} shards, and {len(missing)} of them are not there: {_some(missing)}; copy "
            "them, or pull the model again"
        )
    return [index.parent / name for name in names]


def _check_whole(path: Path) -> Collection[str]:
    """Names of the weights in a file, none of one that only loading opens; DataError unless it is whole."""
    if not path.is_file() or not os.access(path, os.R_OK):
        raise DataError(f"{path} is no file that this user may read; check its permissions")
    if path.suffix == ".safetensors":
        header = _safetensors_header(path)
        _refuse_integers(path, header)
        return header.keys()
    with path.open("rb") as stream:
        is_old = (
            stream.read(1) == b"\x80"
        )  # a pickle of torch before 1.6; only loading it shows whether it is whole
    if not is_old and not zipfile.is_zipfile(path):
        raise DataError(f"{path} is cut off or no file of weights; copy it, or pull the model, again")
    return ()


def _refuse_integers(path: Path, header: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise DataError for quantised weights, which `transformers` would take for what they are scaled from."""
    odd = {one: str(value["dtype"]) for one, value in header.items() if one.endswith(".weight")}
    odd = {one: dtype for one, dtype in odd.items() if dtype not in _PRECISIONS}
    if odd:
        raise DataError(
            f"{path} must hold weights in {', '.join(_PRECISIONS.values())}, got {len(odd)} in another format: "
            f"{_some(odd, odd)}; it is quantised: take the checkpoint that it was made from"
        )


def _refuse_integers_in_pickles(folder: Path) -> None:
    """Raise DataError for quantised weights in the files of torch, by their types alone: no weight is read."""
    import torch

    known = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    if not any((folder / kind).exists() for kind in _KINDS[2:]):
        return  # on the hub, others may be elsewhere
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            named = _unwrapped(torch.load(path, map_location="meta", weights_only=True))
            _refuse_integers(
                path, {name: {"dtype": known.get(t.dtype, str(t.dtype))} for name, t in named.items()}
            )


def _safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Each tensor's `dtype`, `shape` and `data_offsets`, by name; DataError unless the file is as long as they say."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(size - 8, 100_000_000):  # the format's own limit
                raise ValueError
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        ends = [int(value["data_offsets"][1]) for value in header.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        raise DataError(f"{path} is damaged or no safetensors file; copy it, or pull the model, again") from None
    if size < (expected := 8 + length + max(ends, default=0)):
        raise DataError(f"{path} is cut off at {size} of {expected} bytes; copy it, or pull the model, again")
    found: dict[str, dict[str, Any]] = header
    return found


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "a number"


def _some(names: Iterable[str], more: Mapping[str, str] | None = None) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    shown = [f"{name} ({more[name]})" if more and name in more else name for name in ordered[:_NAMES_SHOWN]]
    rest = len(ordered) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
