import gzip
import json
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from clinscale.corpus import MaskingConfig, SpecialIds
from clinscale.corpus.masking import mask_row, word_starts
from clinscale.corpus.tokenizing import encode, train_tokenizer
from clinscale.errors import ConfigError

ARTICLES = Path(__file__).parents[2].parent / "shared" / "data" / "pretrain_corpus"
WHOLE_WORDS = MaskingConfig(whole_words=True)
SPECIAL = SpecialIds(cls=0, sep=2, pad=1, mask=4, all=(0, 1, 2, 3, 4), vocab_size=50_000)


def masked(row, masking=None, seed=0):
    return mask_row(np.array(row), np.random.default_rng(seed), masking or MaskingConfig(), SPECIAL)


def test_labels_hold_the_original_where_something_is_asked():
    row = np.random.default_rng(1).integers(5, 50_000, 4096)
    seen, labels = masked(row)
    asked = labels != -100
    assert (labels[asked] == row[asked]).all()
    assert (seen[~asked] == row[~asked]).all()


def test_shares_are_berts():
    row = np.random.default_rng(1).integers(5, 50_000, 200_000)
    seen, labels = masked(row)
    asked = labels != -100
    assert asked.mean() == pytest.approx(0.15, abs=0.004)  # 5 standard deviations
    to_mask, same = seen[asked] == SPECIAL.mask, seen[asked] == row[asked]
    assert to_mask.mean() == pytest.approx(0.8, abs=0.012)
    assert same.mean() == pytest.approx(0.1, abs=0.009)
    noise = seen[asked][~to_mask & ~same]
    assert noise.min() >= 5
    assert noise.max() > 49_000
    assert abs(np.median(noise) - 25_000) < 1500


@pytest.mark.parametrize(
    ("masking", "kinds"),
    [
        (MaskingConfig(mask_token_share=1, random_token_share=0), {"mask"}),
        (MaskingConfig(mask_token_share=0, random_token_share=1), {"random"}),
        (MaskingConfig(mask_token_share=0, random_token_share=0), {"same"}),
    ],
)
def test_extreme_shares(masking, kinds):
    row = np.full(2000, 7)
    seen, labels = masked(row, masking)
    found = {
        "mask" if token == SPECIAL.mask else "same" if token == 7 else "random" for token in seen[labels != -100]
    }
    assert found == kinds


def test_special_tokens_are_never_asked_nor_drawn():
    row = [0, *([9, 2] * 2000), 3, 2, 1, 1]
    seen, labels = masked(row, MaskingConfig(mask_fraction=0.99, mask_token_share=0, random_token_share=1))
    assert set(labels.tolist()) == {-100, 9}
    special = np.isin(row, SPECIAL.all)
    assert (seen[special] == np.array(row)[special]).all()
    assert not np.isin(seen[~special], SPECIAL.all).any()


@pytest.mark.parametrize("seed", range(20))
def test_a_row_with_any_ordinary_token_asks_for_one(seed):
    assert (masked([0, 7, 2], MaskingConfig(mask_fraction=0.01), seed)[1] == [-100, 7, -100]).all()


def test_a_row_of_special_tokens_asks_for_none():
    seen, labels = masked([0, 2, 2, 1])
    assert seen.tolist() == [0, 2, 2, 1]
    assert set(labels.tolist()) == {-100}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mask_fraction": 0}, r"mask_fraction is a share between 0 and 1, got 0\.0"),
        ({"mask_fraction": 15}, "mask_fraction"),
        ({"mask_token_share": 0.8, "random_token_share": 0.3}, "exceed 1"),
        ({"random_token_share": -0.1}, "negative"),
        ({"mask_fraction": 1}, r"mask_fraction is a share between 0 and 1, got 1\.0"),
        ({"schedule": "linear", "final_mask_fraction": 1.5}, r"final_mask_fraction is a share .*, got 1\.5"),
        ({"schedule": "linear", "final_mask_fraction": 0}, "final_mask_fraction is a share"),
        ({"schedule": "linear"}, "must be set together, got linear and None"),
        ({"final_mask_fraction": 0.2}, r"must be set together, got constant and 0\.2"),
        (
            {"schedule": "linear", "final_mask_fraction": 0.2, "schedule_stairs": 3},
            "needs masking.schedule=steps, got schedule=linear",
        ),
        ({"all_mask": True, "mask_token_share": 0.7}, r"all_mask must stand without .*, got 0\.7 and 0\.1"),
    ],
)
def test_impossible_shares_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        MaskingConfig(**values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schedule": "lniear"}, r"recipe: schedule: .*did you mean linear\?"),
        ({"span_length": 1}, "span_length: Input should be greater than 1"),
        ({"span_length": 4096}, "span_length: Input should be less than or equal to 100"),
        ({"schedule_stairs": 1}, "schedule_stairs: Input should be greater than or equal to 2"),
    ],
)
def test_impossible_keys_are_named_in_one_sentence(values, says):
    with pytest.raises(ConfigError, match=says) as refused:
        MaskingConfig.parse(values, source="recipe")
    assert "\n" not in str(refused.value)


def test_a_recipe_without_the_new_keys_is_the_recipe_it_was_before_there_were_any():
    old = {"mask_fraction": 0.2, "mask_token_share": 0.8, "random_token_share": 0.1, "whole_words": True}
    assert MaskingConfig.parse(old, source="test").plain() == old
    new = {
        "schedule": "steps",
        "final_mask_fraction": 0.1,
        "schedule_stairs": 3,
        "all_mask": True,
        "span_length": 3.8,
    }
    assert MaskingConfig.parse(old | new, source="test").plain() == old | new


@pytest.mark.parametrize(
    ("schedule", "fractions"),
    [
        ({}, [0.3, 0.3, 0.3, 0.3, 0.3]),
        ({"schedule": "linear", "final_mask_fraction": 0.15}, [0.3, 0.2625, 0.225, 0.1875, 0.15]),
        ({"schedule": "linear", "final_mask_fraction": 0.5}, [0.3, 0.35, 0.4, 0.45, 0.5]),
        ({"schedule": "cosine", "final_mask_fraction": 0.15}, [0.3, 0.278033, 0.225, 0.171967, 0.15]),
        ({"schedule": "steps", "final_mask_fraction": 0.15}, [0.3, 0.3, 0.25, 0.2, 0.15]),
        ({"schedule": "steps", "final_mask_fraction": 0.1, "schedule_stairs": 2}, [0.3, 0.3, 0.3, 0.1, 0.1]),
    ],
)
def test_a_schedule_leads_from_the_first_step_to_the_last(schedule, fractions):
    masking = MaskingConfig(mask_fraction=0.3, **schedule)
    found = [masking.fraction_at(step, 5) for step in range(5)]
    assert found == pytest.approx(fractions, abs=1e-6)
    assert (found[0], found[-1]) == (fractions[0], fractions[-1]), "the ends are as they are written"
    long = [masking.fraction_at(step, 1200) for step in range(1200)]
    assert np.mean(long) == pytest.approx(masking.mean_fraction)
    for short in (1, 2, 3):
        assert masking.fraction_at(0, short) == 0.3
    assert masking.fraction_at(1, 2) == fractions[-1]


def test_a_scheduled_fraction_is_never_taken_for_a_constant_one():
    scheduled = MaskingConfig(mask_fraction=0.3, schedule="linear", final_mask_fraction=0.15)
    with pytest.raises(ConfigError, match="pass total_steps"):
        masked([0, 7, 2], scheduled)


def test_masks_at_a_lower_fraction_are_among_those_at_a_higher_one():
    row = np.arange(5, 4000)
    few, many = (masked(row, MaskingConfig(mask_fraction=fraction))[1] != -100 for fraction in (0.15, 0.3))
    assert (many[few]).all()
    assert many.mean() == pytest.approx(0.3, abs=0.04)


def test_all_mask_asks_for_the_same_tokens_and_shows_none_of_them():
    row = np.arange(5, 4000)
    seen, labels = masked(row, MaskingConfig(all_mask=True))
    assert (labels == masked(row)[1]).all()
    assert (seen == np.where(labels == -100, row, SPECIAL.mask)).all()
    both = masked(row, MaskingConfig(mask_token_share=1, random_token_share=0))
    assert (seen == both[0]).all()


def test_the_masks_of_a_known_row_never_change():
    """A run that was started with an older version must resume with the same masks."""
    seen, labels = masked(np.arange(5, 45), MaskingConfig(), seed=7)
    assert np.flatnonzero(labels != -100).tolist() == [6, 23, 24, 32, 37]
    assert seen[labels != -100].tolist() == [4, 4, 4, 28144, 42]


# Whole words


def words_of(row, starts, special):
    """Lists of positions that are masked together, by a second reading of the table."""
    words = []
    for position, token in enumerate(row):
        if token in special.all:
            continue
        before = row[position - 1] if position else None
        if before is None or starts[0][token] or starts[1][before]:
            words.append([])
        words[-1].append(position)
    return words


@pytest.fixture(scope="module")
def byte_level():
    """A BPE trained on real text, and the text."""
    if not ARTICLES.is_dir():
        pytest.skip(f"needs the articles at {ARTICLES}")
    (path,) = ARTICLES.glob("*.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        texts = [json.loads(line)["text"][:20_000] for line in islice(stream, 40)]
    return train_tokenizer(texts, 1500), texts


def word_piece():
    """As BERT's: `##` before what continues a word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "met",
        "##op",
        "##rolol",
        "given",
        ".",
        "chest",
        "pain",
    ]
    backend = Tokenizer(models.WordPiece({token: at for at, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names)


def sentence_piece():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "▁met", "op", "rolol", "▁given", "▁", "."]
    backend = Tokenizer(models.Unigram([(token, -1.0) for token in tokens], unk_id=1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
    )


def test_words_of_a_trained_bpe_are_what_white_space_separates(byte_level):
    tokenizer, texts = byte_level
    starts, special = word_starts(tokenizer), SpecialIds.from_tokenizer(tokenizer)
    assert starts.shape == (2, len(tokenizer))
    for text in ("Dose:\n\tmetoprolol 25mg/day.\n\nStop  aspirin\r\nnow", *(text[:3000] for text in texts[:10])):
        (row,) = encode(tokenizer, [text])
        words = [tokenizer.decode([row[at] for at in word]).strip() for word in words_of(row, starts, special)]
        # white space that Unicode has beside ASCII's is part of a word here
        assert [word for word in words if word] == [word for word in text.translate(ASCII_ONLY).split(" ") if word]


ASCII_ONLY = str.maketrans(dict.fromkeys("\n\t\r", " "))


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (word_piece(), "Metoprolol given. Chest pain", [3, 1, 1, 1, 1]),
        (sentence_piece(), "metoprolol given. given", [3, 2, 1]),
    ],
)
def test_words_of_other_vocabularies(tokenizer, text, words):
    (row,) = encode(tokenizer, [text])
    special = SpecialIds.from_tokenizer(tokenizer)
    assert [len(word) for word in words_of(row, word_starts(tokenizer), special)] == words


def test_a_word_ends_with_its_document():
    tokenizer = word_piece()
    special = SpecialIds.from_tokenizer(tokenizer)
    # the second document begins in the middle of a word, as the next piece of a long note may
    row = np.array([2, 5, 6, 3, 2, 7, 3, 0])
    for seed in range(200):
        generator = np.random.default_rng(seed)
        asked = mask_row(row, generator, WHOLE_WORDS, special, word_starts(tokenizer))[1] != -100
        assert asked[1] == asked[2]
        assert not asked[[0, 3, 4, 6, 7]].any()
        if asked[1] != asked[5]:
            return
    raise AssertionError("the pieces on both sides of a document's end were always asked together")


def test_whole_words_are_asked_together_and_as_many_tokens_as_ever(byte_level):
    tokenizer, texts = byte_level
    starts, special = word_starts(tokenizer), SpecialIds.from_tokenizer(tokenizer)
    row = np.concatenate(encode(tokenizer, texts))
    seen, labels = mask_row(row, np.random.default_rng(0), WHOLE_WORDS, special, starts)
    asked = labels != -100
    words = words_of(row.tolist(), starts, special)
    assert all(asked[word].all() or not asked[word].any() for word in words)
    assert sum(len(word) for word in words) == len(row) > 100_000
    deviation = 0.15 * 0.85 * sum(len(word) ** 2 for word in words) / len(row) ** 2
    assert asked.mean() == pytest.approx(0.15, abs=5 * deviation**0.5)
    assert (seen[asked] == special.mask).mean() == pytest.approx(0.8, abs=0.015)
    behind = [(a, b) for a, b in pairwise(words) if a[-1] + 1 == b[0] and not starts[0, row[b[0]]]]
    behind = [(a, b) for a, b in behind if row[a[-1]] not in special.all]
    assert any(asked[a[0]] != asked[b[0]] for a, b in behind), "a word behind a line break is one of its own"
    # what a piece becomes is decided for it alone
    outcomes = [seen[word] == special.mask for word in words if asked[word[0]] and len(word) > 1]
    assert any(a != b for outcome in outcomes for a, b in pairwise(outcome))
    again = mask_row(row, np.random.default_rng(0), WHOLE_WORDS, special, starts)
    assert (again[0] == seen).all()
    assert (again[1] == labels).all()


def test_a_row_with_one_word_asks_for_all_of_it():
    tokenizer = word_piece()
    row, special = np.array([2, 5, 6, 7, 3]), SpecialIds.from_tokenizer(tokenizer)
    masking = MaskingConfig(whole_words=True, mask_fraction=0.001)
    labels = mask_row(row, np.random.default_rng(0), masking, special, word_starts(tokenizer))[1]
    assert labels.tolist() == [-100, 5, 6, 7, -100]


def test_whole_words_need_a_vocabulary_that_marks_them():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    unmarked = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match=r"masking\.whole_words needs a vocabulary that marks where words start"):
        word_starts(PreTrainedTokenizerFast(tokenizer_object=unmarked, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match=r"pass corpus\.word_starts"):
        masked([0, 7, 2], WHOLE_WORDS)


# Spans


def runs_of(asked):
    """Lengths of the stretches of neighbouring tokens that are asked for."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], asked.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_spans_are_as_long_as_asked_and_as_many_tokens_as_ever():
    row = np.random.default_rng(1).integers(5, 50_000, 200_000)
    seen, labels = masked(row, MaskingConfig(span_length=3.8))
    asked = labels != -100
    # a token's span is 2 * 3.8 - 1 tokens long on average
    assert asked.mean() == pytest.approx(0.15, abs=5 * (0.15 * 0.85 * 6.6 / 200_000) ** 0.5)
    # neighbours are chosen together by chance, too
    assert runs_of(asked).mean() == pytest.approx(3.8 / (1 - 0.15), rel=0.05)
    to_mask, same = seen[asked] == SPECIAL.mask, seen[asked] == row[asked]
    assert to_mask.mean() == pytest.approx(0.8, abs=0.03)
    assert same.mean() == pytest.approx(0.1, abs=0.03)
    # the fate is that of the span: it changes where a span ends, not at each token
    changes = (np.diff(to_mask.astype(int)) != 0).sum() / asked.sum()
    assert changes < 0.5 * 2 * 0.8 * 0.2
    assert (masked(row, MaskingConfig(span_length=3.8))[1] == labels).all()


def test_a_span_ends_with_its_note():
    row = [0, *[7] * 20, 2, *[8] * 20, 2, 1, 1]
    for seed in range(300):
        asked = masked(row, MaskingConfig(span_length=50, mask_fraction=0.5), seed)[1] != -100
        assert not asked[np.isin(row, SPECIAL.all)].any()
        if asked[20] != asked[22]:
            return
    raise AssertionError("the tokens on both sides of a note's end were always asked for together")


def test_spans_of_words_hold_whole_words(byte_level):
    tokenizer, texts = byte_level
    starts, special = word_starts(tokenizer), SpecialIds.from_tokenizer(tokenizer)
    row = np.concatenate(encode(tokenizer, texts[:10]))
    words = words_of(row.tolist(), starts, special)
    masking = MaskingConfig(whole_words=True, span_length=3.8)
    labels = mask_row(row, np.random.default_rng(0), masking, special, starts)[1]
    asked = labels != -100
    assert all(asked[word].all() or not asked[word].any() for word in words)
    assert runs_of(np.array([asked[word[0]] for word in words])).mean() == pytest.approx(3.8 / 0.85, rel=0.15)
    with pytest.raises(ConfigError, match=r"pass corpus\.word_starts"):
        masked([0, 7, 2], masking)
