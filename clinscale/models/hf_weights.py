"""Load and save HF encoders with one of four heads."""

import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clinscale import held
from clinscale.errors import ClinscaleError, DataError, exhausted_memory, reason_of
from clinscale.hub import must_be_local
from clinscale.models.checkpoint import Fit, config_file, fill, new_weights, read_config, weight_files
from clinscale.models.families import family_named, is_causal_type
from clinscale.models.options import Attention, EvaluationPattern
from clinscale.permissions import adopt, make_folder
from clinscale.storage import refuse_no_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("clinscale.models")

Head = Literal["mlm", "sequence", "tokens", "spans"]

_OF_MODELS = (".safetensors", ".json", ".model")
_TEXTS_OF_MODELS = ("vocab.txt", "merges.txt", "requirements.txt", "README.md")
"""Suffixes and names of the files of a model, its tokenizer and its cards, as clinscale writes them."""

_ADAPTER = "adapter_config.json"
"""File by which PEFT's folders are known."""


def load_hf(
    name_or_folder: str,
    *,
    head: Head,
    labels: tuple[str, ...] = (),
    problem_type: str | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    seed: int = 0,
    attention: Attention = "exact",
    unpad: bool = False,
    evaluation_pattern: EvaluationPattern | None = None,
    new_head: bool = True,
) -> "PreTrainedModel":
    """Load an HF encoder by name or folder with the given head; a missing head is initialised from `seed`.

    Weights come as fp32, whatever the checkpoint holds: training in less loses small updates. Every weight of the
    encoder is the checkpoint's; where they are under another prefix (`module.`, `model.`), a line in the log says so.

    Args:
        name_or_folder: hub name or a folder that `save_hf` or `save_pretrained` wrote.
        head: `mlm`, `sequence` (documents and pairs), `tokens` or `spans`.
        labels: names of the head's outputs, in order; written to the HF config. Empty keeps the model's own.
        problem_type: HF's `problem_type` for `sequence`.
        dropout: sets hidden and attention dropout; None keeps the checkpoint's.
        attention_dropout: sets that of attention alone; FlexAttention, on a GPU, has none and needs 0.
        seed: for the weights that the checkpoint does not have.
        attention: `exact` (the same numbers as HF, faster) or `hf` (HF's own code).
        unpad: with `exact`, leave padding out of the layers; see `models.attention.use_exact_attention`.
        evaluation_pattern: with `exact`, what BigBird sees in evaluation. `hf` answers as plain `transformers` does;
            None is what the checkpoint's config records, `hf` where it records nothing.
        new_head: False for a model that answers: then the head, too, must be the checkpoint's.

    Raises:
        DataError: the folder is not an HF model, its weights are damaged or not those of its config, or the hub cannot
            be reached for the name.
    """
    model, fit = load_with_fit(
        name_or_folder,
        head=head,
        labels=labels,
        problem_type=problem_type,
        dropout=dropout,
        attention_dropout=attention_dropout,
        seed=seed,
        new_head=new_head,
    )
    if head == "mlm" and new_weights(model, fit):
        logger.warning(
            "model %s has no head of masked-language modelling; it begins with a new one", name_or_folder
        )
    return set_attention(model, attention, unpad=unpad, evaluation_pattern=evaluation_pattern)


def load_with_fit(
    name_or_folder: str,
    *,
    head: Head,
    labels: tuple[str, ...] = (),
    problem_type: str | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    seed: int = 0,
    new_head: bool = True,
) -> "tuple[PreTrainedModel, Fit]":
    """HF's own model as `load_hf` loads it, before its attention is swapped, and how the checkpoint fitted it."""
    import torch
    import transformers

    is_local = Path(name_or_folder).exists()
    if is_local:
        check_hf_folder(name_or_folder)
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "ignore_mismatched_sizes": True,  # `fill` names those that matter
        "output_loading_info": True,
        # what a config.json may ask for to look inside; nothing here reads it, and the exact attention cannot give it
        "return_dict": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }
    if labels:
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {label: index for index, label in enumerate(labels)}
    if problem_type:
        options["problem_type"] = problem_type
    loader = {
        "mlm": transformers.AutoModelForMaskedLM,
        "sequence": transformers.AutoModelForSequenceClassification,
        "tokens": transformers.AutoModelForTokenClassification,
        "spans": transformers.AutoModelForQuestionAnswering,
    }[head]
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a new head on an encoder is expected here, not news
    try:
        where = {"trust_remote_code": False, "local_files_only": must_be_local(name_or_folder)}
        stored = transformers.AutoConfig.from_pretrained(name_or_folder, **where)
        _refuse_foreign(stored.to_dict(), name_or_folder)
        _check_direction(stored, name_or_folder)
        options |= family_named(stored.model_type).dropout_values(
            stored, hidden=dropout, attention=dropout if attention_dropout is None else attention_dropout
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, info = loader.from_pretrained(name_or_folder, **where, **options)
            fit = fill(model, Fit.of(info), name_or_folder, _folder_of(name_or_folder), new_head=new_head)
            if labels and head in ("sequence", "tokens"):
                _order_outputs(model, fit, stored, labels, name_or_folder)
    except ClinscaleError:
        raise
    except Exception as error:  # checkpoints break `transformers` in many ways
        if exhausted_memory(error):
            raise
        raise _not_loaded(name_or_folder, error, is_local=is_local) from None
    finally:
        transformers.logging.set_verbosity(verbosity)
    _check_padding(model.config.to_dict(), name_or_folder)
    return model, fit


def save_hf(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: str | Path) -> Path:
    """Write model (safetensors) and tokenizer as one HF folder, replacing `folder` only when complete.

    One with files that are of no model, which somebody has put there, is kept under another name, and that is said.
    """
    folder = Path(folder)
    make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with held.pinned(temporary) as pinned:  # they would make it anew, with all above it
            model.save_pretrained(pinned)
            tokenizer.save_pretrained(pinned)
        held.wait_while_away(folder)
        adopt(temporary)
        if folder.exists():
            _make_way(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _make_way(folder: Path) -> None:
    """Remove an earlier model; with what somebody has put beside it, it gets another name."""
    others = [
        path.name
        for path in folder.iterdir()
        if path.name[0] != "."  # NFS keeps so what a process has open
        and (not path.is_file() or (path.suffix not in _OF_MODELS and path.name not in _TEXTS_OF_MODELS))
    ]
    if not others:
        shutil.rmtree(folder)
        return
    kept = folder.with_name(f"{folder.name}-before-{uuid.uuid4().hex[:8]}")
    folder.rename(kept)
    logger.warning("%s held %r, which is of no model: what was there is in %s now", folder, min(others), kept)


def set_attention(
    model: "PreTrainedModel",
    attention: Attention = "exact",
    *,
    unpad: bool = False,
    evaluation_pattern: EvaluationPattern | None = None,
) -> "PreTrainedModel":
    """Swap the exact attention into an HF model with any head whose family has one, or (`hf`) out of it; in place.

    The model also refuses rows that its position table does not hold. `build` and `load_hf` have called this
    already; arguments as in `load_hf`. Other encoders keep HF's code.
    """
    from clinscale.models.attention import use_exact_attention, use_hf_attention

    encoder = model.base_model
    if not hasattr(encoder, "refuses_long_rows"):
        encoder.refuses_long_rows = encoder.register_forward_pre_hook(_refuse_long_rows, with_kwargs=True)
    if attention == "hf":
        return use_hf_attention(model)
    evaluation_pattern = evaluation_pattern or getattr(model.config, "evaluation_pattern", None) or "hf"
    if family_named(model.config.model_type).has_evaluation_patterns:
        # goes to config.json, which is the card that travels with the weights
        model.config.evaluation_pattern = evaluation_pattern
    return use_exact_attention(model, unpad=unpad, evaluation_pattern=evaluation_pattern)


def attention_backend() -> str:
    """The exact attention's backend on this machine, in a few words."""
    from clinscale.models.attention import backend_here

    return backend_here()


def leaves_padding_out(model: "PreTrainedModel") -> bool:
    """Whether `model`, where it is and as it is now, computes no padding: its answers then depend on no neighbour."""
    from clinscale.models.attention import leaves_padding_out

    return leaves_padding_out(model)


def check_hf_folder(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of an HF model folder, without loading anything.

    Raises:
        DataError: `folder` is no HF model, asks for remote code, or its weight files are not there or not whole.
    """
    if (Path(folder) / _ADAPTER).exists():
        raise DataError(
            f"{folder} holds an adapter ({_ADAPTER}), whose weights clinscale would not add to the model's; merge them "
            "(peft's merge_and_unload), save the model with save_pretrained and name that folder"
        )
    path = config_file(Path(folder))
    refuse_no_files(folder)
    values = read_config(path)
    _refuse_foreign(values, str(path))
    _check_padding(values, str(folder))
    weight_files(Path(folder))
    return values


def _refuse_foreign(config: Mapping[str, Any], source: str) -> None:
    """DataError for a config that asks for code of its own, or whose weights are quantised."""
    if "auto_map" in config:
        raise DataError(
            f"{source} asks to run code of its own (auto_map), and clinscale loads plain HF models only; name a model "
            "without it"
        )
    if config.get("quantization_config") is not None:
        raise DataError(
            f"{source} says that its weights are quantised (quantization_config), which cannot be trained nor "
            "converted; name the checkpoint that it was made from"
        )


def _check_direction(config: "PretrainedConfig", name: str) -> None:
    """DataError for an encoder that is set up as a decoder; a line in the log for what is one."""
    if is_causal_type(config.model_type):
        logger.warning(
            "model %s is a decoder (%s): each token sees only those before it; an encoder reads both sides",
            name,
            config.model_type,
        )
    elif getattr(config, "is_decoder", False):
        raise DataError(
            f"model {name} must be an encoder, got is_decoder=true in its config.json: each token would see only those "
            "before it, and the first one, which answers for a text, nothing else; set it to false there if the model "
            "was trained to read both sides, or name another one"
        )


def _order_outputs(
    model: "PreTrainedModel", fit: Fit, stored: "PretrainedConfig", labels: Sequence[str], name: str
) -> None:
    """Let outputs of a head that the checkpoint has be those of `labels`, in their order; of other names they are new.

    Under the labels' names alone, each would go on as that of another.
    """
    import torch

    theirs = [stored.id2label.get(number) for number in range(stored.num_labels)]
    outputs = [
        (f"{place}.weight", part)
        for place, part in model.named_modules()
        if isinstance(part, torch.nn.Linear)
        and part.out_features == len(labels)
        and not place.startswith(f"{model.base_model_prefix}.")
    ]
    if theirs == list(labels) or not outputs or outputs[-1][0] in fit.missing | fit.reshaped.keys():
        return
    _, part = outputs[-1]
    with torch.no_grad():
        if sorted(map(str, theirs)) == sorted(labels):
            order = [theirs.index(label) for label in labels]
            for values in (part.weight, part.bias):
                if values is not None:
                    values.copy_(values[order])
            done = "they are put into the order of the task's"
        else:
            part.weight.normal_(0.0, getattr(stored, "initializer_range", 0.02))
            if part.bias is not None:
                part.bias.zero_()
            done = "they are drawn anew"
    logger.warning("model %s: the outputs of its head are not the task's labels in their order; %s", name, done)


def max_tokens_of(config: "PretrainedConfig") -> int:
    """Tokens a model can read at once; RoBERTa-type position tables lose the first `pad_token_id + 1` entries.

    Raises:
        DataError: its config does not say.
    """
    return family_named(config.model_type).max_tokens(config)


def has_token_types(config: "PretrainedConfig") -> bool:
    """Whether a model knows two types of tokens, those of a first and a second text; RoBERTa and Longformer do not."""
    return (getattr(config, "type_vocab_size", None) or 0) > 1


def check_padding(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> None:
    """DataError where a model that looks for its padding id would look for another than the tokenizer's.

    Nothing else shows it: every token would silently have the position of a neighbour, and a decoder would answer at
    the padding, so that answers change with the texts beside them.
    """
    ours, theirs = config.pad_token_id, tokenizer.pad_token_id
    if ours != theirs and is_causal_type(config.model_type):
        raise DataError(
            f"model {config.name_or_path or config.model_type} must find the end of a text by the padding of its "
            f"tokenizer, got pad_token_id={ours} in its config.json and {theirs} of tokenizer "
            f"{tokenizer.name_or_path}; set it there to the tokenizer's"
        )
    if family_named(config.model_type).counts_from_padding and ours != theirs:
        raise DataError(
            f"model {config.name_or_path or config.model_type} must count positions from the padding of its tokenizer, "
            f"got pad_token_id={ours} in its config.json and {theirs} of tokenizer {tokenizer.name_or_path}; take the "
            "config.json and the tokenizer that the model was trained with"
        )


def _check_padding(config: dict[str, Any], name: str) -> None:
    pad, model_type = config.get("pad_token_id", 1), str(config["model_type"])
    if family_named(model_type).counts_from_padding and (not isinstance(pad, int) or pad < 0):
        raise DataError(
            f"the config.json of model {name} must say the pad_token_id of its tokenizer, from which a "
            f"{model_type} counts positions, got {json.dumps(pad)}; set it there, 1 is usual"
        )


def _folder_of(name_or_folder: str) -> Path:
    """Folder with the files of a model that `transformers` has just loaded."""
    from transformers.utils import cached_file

    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    return Path(str(cached_file(name_or_folder, "config.json", local_files_only=True))).parent


def _not_loaded(name: str, error: Exception, *, is_local: bool) -> DataError:
    if not is_local and isinstance(error, OSError):
        return DataError(
            f"model {name!r} is neither a folder with an HF model nor a hub name that can be reached from here "
            f"({type(error).__name__}); check the path or name, or bring a copy made by `hf download` and name its "
            "folder"
        )
    return DataError(
        f"model {name!r} cannot be loaded by transformers ({reason_of(error)}); fix its config.json and "
        "weights, or pull or export it again"
    )


def _refuse_long_rows(encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    rows = next(
        (x for x in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None), None
    )
    limit = max_tokens_of(encoder.config)
    if rows is not None and rows.shape[1] > limit:
        raise DataError(
            f"a row of {rows.shape[1]} tokens is longer than the {limit} positions of this "
            f"{encoder.config.model_type} model; cut or window it to {limit}"
        )
