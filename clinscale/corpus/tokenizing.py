"""Tokenizing of a corpus: its texts as ids, by a given tokenizer or a byte-level BPE that is trained on them.

The trained one is a `RobertaTokenizer`: the one class that `AutoTokenizer` of transformers 4 and 5 both load with
identical output, whether the folder holds a Longformer or a BigBird (whose own class would rebuild it as Unigram).
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from clinscale.corpus.vocabulary import BETWEEN, MIN_DOCUMENTS, Words, shared_merges
from clinscale.corpus.words import OTHER_CHARACTERS, WORD
from clinscale.tokenizers import cut_nothing

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_log = logging.getLogger(__name__)

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's special tokens; their ids are their positions here."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
"""Every byte is a token, so that no text needs `<unk>`."""


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
    cut_nothing(backend)
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
