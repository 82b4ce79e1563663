"""Tokenizers: load any HF fast tokenizer, or train a byte-level BPE with RoBERTa's special tokens.

The trained one is a `RobertaTokenizer`: the one class that `AutoTokenizer` of transformers 4 and 5 both load with
identical output, whether the folder holds a Longformer or a BigBird (whose own class would rebuild it as Unigram).
"""

import contextlib
import json
import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

from clinscale.config import Config, fingerprint
from clinscale.corpus.vocabulary import BETWEEN, MIN_DOCUMENTS, Words, shared_merges
from clinscale.corpus.words import OTHER_CHARACTERS, WORD
from clinscale.errors import DataError, reason_of
from clinscale.storage import read_json, refuse_lfs_pointers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_log = logging.getLogger(__name__)

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's special tokens; their ids are their positions here."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
"""Every byte is a token, so that no text needs `<unk>`."""


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
    """Stands for a token to recover."""

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

    Raises:
        DataError: no tokenizer there, a damaged or slow one, one without padding or with more tokens than the model
            beside it knows, or the hub cannot be reached for the name.
    """
    from transformers import AutoTokenizer

    folder = Path(name_or_folder).expanduser()
    if folder.exists():
        if folder.is_dir():
            refuse_lfs_pointers(folder)
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
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  damaged files break `transformers` and `tokenizers` in many ways
        raise DataError(
            f"tokenizer {name_or_folder!r} is neither a folder with an HF tokenizer nor a hub name that can be "
            f"reached from here ({reason_of(error)}); check the path, or pull the model first"
        ) from None
    # transformers 5 makes up an empty tokenizer for a model folder that holds none
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise DataError(f"{name_or_folder} holds no tokenizer vocabulary; save the model's tokenizer there")
    if not tokenizer.is_fast:
        raise DataError(f"tokenizer {name_or_folder} has no fast version; clinscale needs one that tells offsets")
    if tokenizer.pad_token_id is None:
        raise DataError(f"tokenizer {name_or_folder} has no pad token; use that of a masked language model")
    tokens, known = max(tokenizer.get_vocab().values()) + 1, _tokens_of_model(place)
    if known is not None and tokens > known:
        raise DataError(
            f"tokenizer {name_or_folder} has {tokens} tokens, and the model beside it knows {known} (vocab_size of "
            "config.json); take the tokenizer that the model was trained with, or give the model the added tokens with "
            "resize_token_embeddings and save both"
        )
    return tokenizer


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
    except (OSError, AttributeError):  # a tokenizer alone, or a config that is told when the model is loaded
        return None
    return size if isinstance(size, int) else None


def train_tokenizer(
    documents: Iterable[str | tuple[int, str]], vocab_size: int, *, min_documents: int = MIN_DOCUMENTS
) -> "PreTrainedTokenizerFast":
    """Train a cased byte-level BPE on a stream of texts; the same texts give the same tokenizer.

    A piece longer than a byte is in it only if at least `min_documents` of the patients or documents hold it, so that
    no name or number of a few is; digits stay apart. With fewer documents than that it is one of bytes.

    Args:
        documents: texts, or patients and texts, read once; a text without a patient counts for itself.
        vocab_size: ids at most, special tokens and the 256 bytes included; a small corpus fills fewer.
        min_documents: patients or documents that must hold a piece.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizer

    words = Words(documents, min_documents)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(BETWEEN, "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=max(2, min_documents),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(words.repeated(), trainer)
    merges = shared_merges(bpe, words)
    if not merges and min_documents > 1:
        _log.warning(
            "no piece is held by %d of the %d patients or documents that the tokenizer was trained on, so it reads "
            "bytes; give it more of them, or a trained tokenizer",
            min_documents,
            words.num_holders,
        )
    tokens = [*SPECIAL_TOKENS, *alphabet, *dict.fromkeys(first + second for first, second in merges)]
    return RobertaTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text without special tokens; a literal `<mask>` in a note stays text.

    A byte-level BPE cuts a text into words and merges within each, so every different word is encoded once here, with
    the same result several times as fast. Other tokenizers see whole texts.
    """
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        if not _merges_within_words(backend):
            return _ids(backend, texts)
        in_words = [OTHER_CHARACTERS.search(text) is None for text in texts]
        known = [text for text, is_known in zip(texts, in_words, strict=True) if is_known]
        others = iter(
            _ids(backend, [text for text, is_known in zip(texts, in_words, strict=True) if not is_known])
        )
        # cut twice rather than kept: the words of a block take ten times the memory of its text
        words = list(set().union(*map(WORD.findall, known)))
        ids_of = dict(zip(words, _ids(backend, words), strict=True))
        return [
            list(chain.from_iterable(map(ids_of.__getitem__, WORD.findall(text)))) if is_known else next(others)
            for text, is_known in zip(texts, in_words, strict=True)
        ]
    finally:
        backend.encode_special_tokens = before


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Twelve hex digits that are equal when two tokenizers split every text alike."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left over from the last call
        pipeline.pop(state, None)
    return fingerprint({"pipeline": pipeline, "special": SpecialIds.from_tokenizer(tokenizer).plain()})


def _merges_within_words(backend: "Tokenizer") -> bool:
    """Whether a tokenizer does nothing but what `WORD` and a BPE do."""
    from tokenizers import models, pre_tokenizers

    cut = backend.pre_tokenizer
    return (
        isinstance(backend.model, models.BPE)
        and not backend.model.dropout
        and backend.normalizer is None
        and isinstance(cut, pre_tokenizers.ByteLevel)
        and cut.use_regex
        and not cut.add_prefix_space
        and all(token.special for token in backend.get_added_tokens_decoder().values())
    )


def _ids(backend: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
