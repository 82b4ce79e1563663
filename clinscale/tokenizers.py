"""Tokenizers of HF folders: loaded, their special tokens, and what makes two of them equal."""

import contextlib
import functools
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Self

from clinscale.config import Config, fingerprint
from clinscale.errors import DataError, reason_of
from clinscale.hub import must_be_local
from clinscale.storage import read_json, refuse_no_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "spm.model")
"""Vocabulary files of BigBird and ALBERT, of XLM-RoBERTa and CamemBERT, and of DeBERTa."""

_TRAPS = "Größe 12.5mg q6h PRN; DON'T  stop\n\n[**2101-1-2**] Naïve T-cell β-HCG 1/2 …  aspirin "
"""A text that tokenizers split otherwise: capitals, accents, digits, marks, blanks in a row, none at its beginning."""

_IN_NO_VOCABULARY = "\u16a0"
"""A rune, which few vocabularies hold, and neither a blank nor an accent, which normalizers take away."""

_LEAST_JUDGED = 1000
"""Words of a vocabulary with letters, below which its case says nothing."""

_LEAST_KNOWN = 0.9
"""Share of a model's vocabulary below which a tokenizer is not its own; PubMedBERT's has 95 %."""

_MANY = 0.05
"""Share of such words that have capitals, above which a vocabulary was made of texts with capitals."""


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
    """Every special token, `<unk>` and added ones too, and ids of no token: never masked, never drawn at random."""

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
        known, size = tokenizer.get_vocab().values(), num_ids(tokenizer)
        apart = {*tokenizer.all_special_ids, *set(range(size)).difference(known)}
        return cls(**ids, all=tuple(sorted(apart)), vocab_size=size)


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
            f"reached from here ({reason_of(error)}); check the path or name, or bring a copy made "
            "by `hf download` and name its folder"
        ) from None
    # transformers 5 makes up an empty tokenizer for a model folder that holds none
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise DataError(f"{name_or_folder} holds no tokenizer vocabulary; save the model's tokenizer there")
    if not tokenizer.is_fast:
        raise DataError(f"tokenizer {name_or_folder} has no fast version; clinscale needs one that gives offsets")
    if tokenizer.pad_token_id is None:
        raise DataError(f"tokenizer {name_or_folder} has no pad token; use that of a masked language model")
    tokens, known = num_ids(tokenizer), _tokens_of_model(place)
    if known is not None and tokens > known:
        raise DataError(
            f"tokenizer {name_or_folder} has {tokens} tokens, and the model beside it knows {known} (vocab_size of "
            "config.json); take the tokenizer that the model was trained with, or give the model the added tokens with "
            "resize_token_embeddings and save both"
        )
    cut_nothing(tokenizer.backend_tokenizer)
    _refuse_without_unknown(tokenizer, name_or_folder)
    _refuse_unframed(tokenizer, name_or_folder)
    _leave_nothing_to_chance(tokenizer.backend_tokenizer)
    tokenizer.truncation_side = "right"  # windows begin at the left, whatever its last user cut
    for remark in (_remark_on_file(tokenizer, place), _remark_on_case(tokenizer), _remark_on_size(tokens, known)):
        if remark:
            _say_once(f"tokenizer {name_or_folder} {remark}")
    tokenizer.split_special_tokens = not _has_marks_of_its_own(tokenizer)
    return tokenizer


def num_ids(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Number of ids up to the last one that is a token's; some between may be none's."""
    return int(max(tokenizer.get_vocab().values())) + 1


def splits_alike(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> bool:
    """Whether two tokenizers of one vocabulary split the same texts alike, as far as a text full of traps shows it."""
    return _probed(one.backend_tokenizer) == _probed(other.backend_tokenizer)


def _probed(backend: "Tokenizer") -> list[int]:
    """Ids of the text full of traps."""
    cut_nothing(backend)
    spells = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        ids: list[int] = backend.encode(_TRAPS, add_special_tokens=False).ids
    finally:
        backend.encode_special_tokens = spells
    return ids


def _around(backend: "Tokenizer") -> list[int]:
    """Ids of the special tokens that are put around a text."""
    ids: list[int] = backend.encode("", add_special_tokens=True).ids
    return ids


def cut_nothing(backend: "Tokenizer") -> None:
    """Let a backend that is called by itself neither cut texts nor fill them up, as the last call or its file says.

    transformers sets both anew in each call of its own. The file of sentence-transformers' MiniLM cuts at 128 tokens.
    """
    backend.no_truncation()
    backend.no_padding()


def _refuse_without_unknown(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """DataError where the tokenizer breaks on a character that its vocabulary lacks, or leaves it out unseen."""
    backend = tokenizer.backend_tokenizer
    is_read = backend.normalizer is None or bool(backend.normalizer.normalize_str(_IN_NO_VOCABULARY))
    try:
        lost = is_read and not backend.encode(_IN_NO_VOCABULARY, add_special_tokens=False).ids
    except Exception:  # noqa: BLE001  the library raises nothing narrower
        lost = True
    if lost:
        raise DataError(
            f"tokenizer {name} must have a token for what its vocabulary lacks, and has none: such text would be lost; "
            "name the one that the model was trained with as unk_token of the model in its tokenizer.json"
        )


def _refuse_unframed(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """DataError where there are a classification token and a separator, and neither is put around a text.

    Models that have them are pretrained with them, by clinscale too, and answer at the first of them.
    """
    named = {tokenizer.cls_token: tokenizer.cls_token_id, tokenizer.sep_token: tokenizer.sep_token_id}
    if None not in named.values() and set(tokenizer("a")["input_ids"]).isdisjoint(named.values()):
        raise DataError(
            f"tokenizer {name} must put {' and '.join(map(str, named))} around a text, as models with these tokens are "
            "pretrained, and puts neither: its tokenizer.json has no post_processor for them; save it with one "
            "(tokenizers.processors.TemplateProcessing)"
        )


def _leave_nothing_to_chance(backend: "Tokenizer") -> None:
    """Turn off the dropout of merges, which is for the training of a model and was left on in the file."""
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None


def _remark_on_file(tokenizer: "PreTrainedTokenizerBase", place: str) -> str:
    """The sentence on a `tokenizer.json` that the tokenizer, which its class made anew, does not follow; else empty.

    transformers 5 makes BERT's, RoBERTa's and others from the vocabulary alone: what else the file says is lost.
    """
    from transformers import PreTrainedTokenizerFast

    file = Path(place, "tokenizer.json")
    if type(tokenizer).__init__ is PreTrainedTokenizerFast.__init__ or not file.is_file():
        return ""
    state = file.stat()
    said = _probed_file(str(file), state.st_mtime_ns, state.st_size)
    if said is None:
        return ""
    split, around = said
    if around and tokenizer.cls_token and tokenizer.sep_token and around != _around(tokenizer.backend_tokenizer):
        return (
            f"puts {tokenizer.cls_token} and {tokenizer.sep_token} around a text, and its tokenizer.json others, with "
            "which the model was trained where nobody has changed it: tokenizer_config.json or special_tokens_map.json "
            "names others (cls_token, sep_token); let the files agree"
        )
    if split == _probed(tokenizer.backend_tokenizer):
        return ""
    return (
        f"splits texts otherwise than its tokenizer.json says, as {type(tokenizer).__name__} of transformers "
        "makes it from the vocabulary and tokenizer_config.json alone (do_lower_case, add_prefix_space); let "
        'tokenizer_config.json agree with the file, or set "tokenizer_class": "PreTrainedTokenizerFast" there to have '
        "the file followed"
    )


@functools.lru_cache(maxsize=8)
def _probed_file(file: str, _mtime_ns: int, _size: int) -> tuple[list[int], list[int]] | None:
    """Ids of the text full of traps, and of those around a text, by a `tokenizer.json`; None where that is damaged."""
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(file)
    except Exception:  # noqa: BLE001  the library raises nothing narrower; transformers has read it otherwise
        return None
    _leave_nothing_to_chance(backend)
    return _probed(backend), _around(backend)


def _remark_on_case(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The sentence on capitals that the tokenizer takes away or does not know; empty where it keeps and knows them."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    given = set(tokenizer.added_tokens_encoder)
    words = [token for token in tokenizer.get_vocab() if token not in given and re.search("[A-Za-z]", token)]
    cased = sum(bool(re.search("[A-Z]", token)) for token in words)  # those of `Ġ`, too, are not small
    if len(words) < _LEAST_JUDGED:
        return ""
    if normalizer is not None and "abc" in normalizer.normalize_str("ABC"):
        if cased < _MANY * len(words):
            return ""
        return (
            f"makes all letters small, and {cased:,} of the {len(words):,} words of its vocabulary have capitals, "
            'which no text then has; where the model was trained with capitals, set "do_lower_case": false in its '
            "tokenizer_config.json"
        )
    unknown = tokenizer.unk_token_id
    if cased or unknown is None or unknown not in tokenizer("ABC", add_special_tokens=False)["input_ids"]:
        return ""
    return (
        "leaves capitals as they are, and no word of its vocabulary has any: each word with a capital is unknown to "
        'the model; set "do_lower_case": true in its tokenizer_config.json, unless all texts are in small letters'
    )


@functools.cache
def _say_once(sentence: str) -> None:
    """Say it in the log, once in each process: a tokenizer is loaded again and again."""
    logger.warning("%s", sentence)


def _remark_on_size(tokens: int, known: int | None) -> str:
    """The sentence on a vocabulary that is much smaller than its model's; empty where it fits.

    Models are padded to a round number of tokens; a file that was cut off, or of another model, lacks more.
    """
    if known is None or tokens >= _LEAST_KNOWN * known:
        return ""
    return (
        f"has {tokens:,} tokens, and the model beside it knows {known:,} (vocab_size of config.json): where it is of "
        "another model, or was cut off, most words are unknown to it or mean others; see that both are of one training"
    )


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
