"""Real, openly licensed notes: traps that invented ones do not have."""

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from clinscale.corpus import (
    CleaningConfig,
    CorpusConfig,
    MaskingConfig,
    SourceConfig,
    build_shards,
    load_tokenizer,
    masked_batch,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MTSAMPLES = DATA / "mtsamples"
ARTICLES = DATA / "pretrain_corpus"

needs_mtsamples = pytest.mark.skipif(not MTSAMPLES.is_dir(), reason=f"needs the mtsamples notes at {MTSAMPLES}")
needs_articles = pytest.mark.skipif(not ARTICLES.is_dir(), reason=f"needs the articles at {ARTICLES}")


@needs_mtsamples
def test_mtsamples_leaves_out_empty_rows_and_duplicates(tmp_path):
    """Its card: 4,999 rows, 33 of them empty, most notes filed under several specialties."""
    source = SourceConfig(uri=str(MTSAMPLES), text_column="transcription", id_column="note_id")
    config = CorpusConfig(sources=(source,), cleaning=CleaningConfig(collapse_whitespace=True), vocab_size=2000)
    shards = build_shards(config, str(tmp_path / "set"))
    card = shards.card()
    documents = card["train_documents"] + card["validation_documents"]
    assert card["left_out"]["empty"] == 33
    assert documents + card["left_out"]["duplicate"] + card["left_out"]["near_duplicate"] + 33 == 4999
    assert 2300 < documents <= 2358
    assert 0.02 < card["validation_documents"] / documents < 0.09
    # 1,731 of 4,999 rows have more than 512 words, so at least as large a share is cut at 512 tokens
    assert card["share_cut_at"]["512"] > 0.3 > card["share_cut_at"]["4096"]
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    assert len(tokenizer) == 2000
    assert len(tokenizer.tokenize(" The patient was diagnosed with hypertension.")) < 14


@needs_articles
def test_articles_longer_than_any_row_are_packed_without_loss(tmp_path):
    (path,) = ARTICLES.glob("*.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        (tmp_path / "some.jsonl").write_text("".join(islice(stream, 60)), encoding="utf-8")
    source = SourceConfig(uri=str(tmp_path / "some.jsonl"), id_column="id")
    shards = build_shards(
        CorpusConfig(sources=(source,), vocab_size=1000, validation_fraction=0.2), str(tmp_path / "set")
    )
    rows = shards.rows("train", 4096)
    assert rows.packing_efficiency > 0.95
    assert shards.card()["share_cut_at"]["4096"] > 0.5
    batch = masked_batch(
        rows,
        step=3,
        rank=1,
        world_size=2,
        rows_per_step=8,
        seed=0,
        masking=MaskingConfig(),
        special=shards.manifest.special,
    )
    assert batch["input_ids"].shape == (4, 4096)
    assert 0.14 < (batch["labels"] != -100).mean() < 0.16
    texts = [json.loads(line)["text"] for line in (tmp_path / "some.jsonl").read_text("utf-8").splitlines()]
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    first_row = tokenizer.decode(rows[0][1:-1], clean_up_tokenization_spaces=False).split("</s>")[0]
    assert any(text.startswith(first_row) for text in texts)
