"""Tokenizers of HF folders: loaded, their special tokens, and what makes two of them equal."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from clinscale.config import Config, fingerprint
from clinscale.errors import DataError, reason_of
from clinscale.hub import must_be_local
from clinscale.storage import read_json, refuse_no_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "spm.model")
"""Vocabulary files of BigBird and ALBERT, of XLM-RoBERTa and CamemBERT, and of DeBERTa."""


class SpecialIds(Config):
    """The token ids that packing and masking treat apart."""

    cls: int
    """First token of a row."""

    sep: int
    """Ends a document and a row."""

    pad: int
    """Fills the last row."""

    mask: int
    """Token in place of one to recover."""

    all: tuple[int, ...]
    """Every special token, `<unk>` and added ones too: never masked, never drawn as a random token."""

    vocab_size: int
    """Number of ids, special ones included."""

    @classmethod
    def from_tokenizer(cls, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """The ids of an HF tokenizer; DataError when it has no classification, separator, pad or mask token."""
        ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
        missing = [name for name, token_id in ids.items() if token_id is None]
        if missing:
            raise DataError(
                f"tokenizer {tokenizer.name_or_path or 'given'} has no {' and no '.join(missing)} token; "
                "use the tokenizer of a masked language model"
            )
        return cls(**ids, all=tuple(sorted(set(tokenizer.all_special_ids))), vocab_size=len(tokenizer))


def load_tokenizer(name_or_folder: str) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of an HF folder or hub name; runs no code of theirs.

    A literal `<pad>` or `[MASK]` in a text is spelled, as in pretraining, and no special token; where the tokenizer has
    others than the usual ones, which were added to mark texts, all are what they say.

    Raises:
        DataError: no tokenizer there, a damaged or slow one, one without padding or with more tokens than the model
            beside it knows, or the hub cannot be reached for the name.
    """
    from transformers import AutoTokenizer

    folder = Path(os.path.expanduser(name_or_folder))  # noqa: PTH111  pathlib raises for a home that nobody has
    if folder.exists():
        if folder.is_dir():
            refuse_no_files(folder)
        if (folder / "tokenizer.json").exists():
            read_json(folder / "tokenizer.json")  # names the file and position where it is truncated
        else:
            for name in _SENTENCEPIECE_FILES:
                if (folder / name).is_file():
                    _check_sentencepiece(folder / name)
    elif name_or_folder.startswith(("/", ".", "~")) or name_or_folder.count("/") > 1:
        raise DataError(f"tokenizer {name_or_folder} does not exist; name an HF folder or a hub name")
    place = str(folder) if folder.exists() else name_or_folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place, trust_remote_code=False, local_files_only=must_be_local(place)
        )
    except Exception as error:  # noqa: BLE001  damaged files break `transformers` and `tokenizers` in many ways
        raise DataError(
            f"tokenizer {name_or_folder!r} is neither a folder with an HF tokenizer nor a hub name that can be "
            f"reached from here ({reason_of(error)}); check the path, or pull the model first"
        ) from None
    # transformers 5 makes up an empty tokenizer for a model folder that holds none
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise DataError(f"{name_or_folder} holds no tokenizer vocabulary; save the model's tokenizer there")
    if not tokenizer.is_fast:
        raise DataError(f"tokenizer {name_or_folder} has no fast version; clinscale needs one that gives offsets")
    if tokenizer.pad_token_id is None:
        raise DataError(f"tokenizer {name_or_folder} has no pad token; use that of a masked language model")
    tokens, known = max(tokenizer.get_vocab().values()) + 1, _tokens_of_model(place)
    if known is not None and tokens > known:
        raise DataError(
            f"tokenizer {name_or_folder} has {tokens} tokens, and the model beside it knows {known} (vocab_size of "
            "config.json); take the tokenizer that the model was trained with, or give the model the added tokens with "
            "resize_token_embeddings and save both"
        )
    tokenizer.split_special_tokens = not _has_marks_of_its_own(tokenizer)
    return tokenizer


def _has_marks_of_its_own(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether there are special tokens beside those that every tokenizer has: somebody added them to mark texts."""
    named = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
    added = tokenizer.added_tokens_decoder.items()
    return any(token.special and token_id not in named for token_id, token in added)


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Twelve hex digits that are equal when two tokenizers split every text alike."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left over from the last call
        pipeline.pop(state, None)
    return fingerprint({"pipeline": pipeline, "special": SpecialIds.from_tokenizer(tokenizer).plain()})


def _check_sentencepiece(path: Path) -> None:
    """Raise DataError unless the file is whole: cut between two pieces, it would still be read."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    with contextlib.suppress(DecodeError):
        model.ParseFromString(path.read_bytes())
    if not model.HasField("normalizer_spec"):  # it comes last
        raise DataError(f"{path} is cut off or no SentencePiece model; copy it, or pull the model, again")


def _tokens_of_model(place: str) -> int | None:
    """`vocab_size` of the model in the same folder or under the same hub name, where there is one that says it."""
    from transformers import PreTrainedConfig

    try:
        size = PreTrainedConfig.get_config_dict(place)[0].get("vocab_size")
    except (OSError, AttributeError):  # a tokenizer alone, or a config that is reported when the model is loaded
        return None
    return size if isinstance(size, int) else None
