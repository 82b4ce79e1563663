"""Notes become training rows: read, clean, tokenise once into memory-mapped shards, cut and mask on the fly.

    sources ──read──▶ Document ──clean──▶ tokenise ──▶ ShardSet (train | validation token streams)
                                                          │ rows(split, row_tokens)
                                                          ▼
                                              masked_batch(step, rank) ──▶ arrays for the model

What a rank reads at a step is a pure function of seed and position, so a run can stop, resume and change its
number of workers without seeing other data. The corpus is streamed: memory does not grow with the text.
"""

from clinscale.corpus.build import build_shards, source_bytes
from clinscale.corpus.canaries import CanaryConfig, canary_probes, plant_canaries
from clinscale.corpus.cleaning import CleaningConfig
from clinscale.corpus.config import CorpusConfig
from clinscale.corpus.leakage import phrases
from clinscale.corpus.loader import cut_rows, evaluation_batches, masked_batch, rows_of_step
from clinscale.corpus.masking import HELD_OUT_MASKING, MaskingConfig, word_starts
from clinscale.corpus.near_duplicates import NearDuplicatesConfig, near_earlier
from clinscale.corpus.packing import Rows
from clinscale.corpus.shards import ShardSet, is_shard_set, open_shards
from clinscale.corpus.sources import Document, SourceConfig, check_sources, files_of, read_documents
from clinscale.corpus.tokenizing import train_tokenizer
from clinscale.tokenizers import SpecialIds, load_tokenizer, splits_alike, tokenizer_fingerprint

__all__ = [
    "HELD_OUT_MASKING",
    "CanaryConfig",
    "CleaningConfig",
    "CorpusConfig",
    "Document",
    "MaskingConfig",
    "NearDuplicatesConfig",
    "Rows",
    "ShardSet",
    "SourceConfig",
    "SpecialIds",
    "build_shards",
    "canary_probes",
    "check_sources",
    "cut_rows",
    "evaluation_batches",
    "files_of",
    "is_shard_set",
    "load_tokenizer",
    "masked_batch",
    "near_earlier",
    "open_shards",
    "phrases",
    "plant_canaries",
    "read_documents",
    "rows_of_step",
    "source_bytes",
    "splits_alike",
    "tokenizer_fingerprint",
    "train_tokenizer",
    "word_starts",
]
