"""Tokenizers with other habits of counting blanks, and the perfect model: gold targets turned into logits."""

import copy
from pathlib import Path

import numpy as np
import pytest

from clinscale.tasks import TaskConfig

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def real_data():
    def folder(name):
        if not (REAL_DATA / name).exists():
            pytest.skip(f"the public data set {name} is not at ../shared/data")
        return str(REAL_DATA)

    return folder


@pytest.fixture(scope="session", params=["trimmed", "untrimmed", "prefixed", "metaspace"])
def any_tokenizer(request, tokenizer):
    """The shared byte-level BPE with offsets that leave out or include the blank before a word, one that adds a
    blank before the text, and one that splits like SentencePiece."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    if request.param == "trimmed":
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    if request.param == "metaspace":
        vocab = {**{token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁"])}}
        backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        changed._tokenizer = backend
        return changed
    prefixed = request.param == "prefixed"
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefixed)
    changed.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=prefixed, add_prefix_space=prefixed
    )
    return changed


@pytest.fixture(scope="session")
def tokenizer_for(tokenizer):
    """Train the shared tokenizer's kind anew, on other texts."""

    def train(texts):
        changed = copy.deepcopy(tokenizer)
        changed._tokenizer = tokenizer.train_new_from_iterator(texts, vocab_size=4000).backend_tokenizer
        return changed

    return train


@pytest.fixture(scope="session", params=["bpe", "wordpiece", "uncased", "unigram", "over blanks"])
def family(request, tokenizer):
    """A tokenizer of each family whose tokens join what they can: numbers with units, words with marks, two words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    texts = [
        "Gave 25mg of the (50%). Pt's β-blocker",
        "déjà-vu, 1.5.. §19th",
        "T2N0 cm² x",
        "患者给予阿司匹林aspirin治疗",
    ] * 9
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    name = request.param
    if name == "bpe":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    elif name in ("wordpiece", "uncased"):
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=name == "uncased", handle_chinese_chars=False)
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    else:
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace(split=name == "unigram")
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", max_piece_length=12
        )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    changed = copy.deepcopy(tokenizer)
    changed._tokenizer = backend
    assert any(len(token) > 4 for token in backend.get_vocab())
    return changed


@pytest.fixture
def perfect():
    """The outputs of a model that has learned the training targets of these windows by heart."""

    def outputs(kind, windows, labels):
        noise = np.random.default_rng(0)
        return [_perfect_window(kind, window, kind.num_outputs(labels), noise) for window in windows]

    return outputs


def _perfect_window(kind, window, num_outputs, noise):
    tokens = len(window.input_ids)
    if kind.head == "sequence":
        target = window.targets["labels"]
        hot = np.array(target) if isinstance(target, list) else np.eye(num_outputs)[target]
        return {"logits": 20 * hot - 10}
    if kind.head == "tokens":  # what the loss ignores may hold anything
        targets = [t if t >= 0 else noise.integers(num_outputs) for t in window.targets["labels"]]
        return {"logits": 20 * np.eye(num_outputs)[targets]}
    places = (window.targets["start_positions"], window.targets["end_positions"])
    return {
        f"{side}_logits": 20 * np.eye(tokens)[place] for side, place in zip(("start", "end"), places, strict=True)
    }


@pytest.fixture
def task_of():
    """A task of a kind, with whatever else a test wants of it."""

    def make(kind, **fields):
        defaults = {
            "sequence": {"format": "records"},
            "pair": {"format": "records", "columns": {"text": "premise", "text_pair": "hypothesis"}},
            "tokens": {"format": "brat"},
            "spans": {"format": "squad"},
        }[kind]
        splits = {} if "splits" in fields else {"splits": {"train": "a", "dev": "b", "test": "c"}}
        return TaskConfig.parse(
            {"name": f"my_{kind}", "kind": kind, **defaults, **splits, **fields}, source="test"
        )

    return make
