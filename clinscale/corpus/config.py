"""The recipe of a corpus."""

from pydantic import Field

from clinscale.config import Config
from clinscale.corpus.cleaning import CleaningConfig
from clinscale.corpus.leakage import LeakageConfig
from clinscale.corpus.near_duplicates import NearDuplicatesConfig
from clinscale.corpus.sources import Document, SourceConfig, text_digest
from clinscale.corpus.tokenizing import SMALLEST_VOCABULARY
from clinscale.corpus.vocabulary import MIN_DOCUMENTS


class CorpusConfig(Config):
    """Everything that a ShardSet is made from; all of it changes the tokens, so all of it is recipe."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Files and folders of notes, read in this order."""

    cleaning: CleaningConfig = CleaningConfig()
    """Changes to the notes, and the notes that are left out."""

    tokenizer: str | None = None
    """HF name or folder, e.g. that of the model to continue from; None trains one on the training notes."""

    vocab_size: int = Field(default=8192, ge=SMALLEST_VOCABULARY)
    """Size of the trained vocabulary at most; RoBERTa's is 50,265. Unused when a tokenizer is given."""

    min_documents: int = Field(default=MIN_DOCUMENTS, ge=1)
    """A piece enters the trained vocabulary only if so many patients, where a source has a `group_column`, or else
    notes hold it: names and record numbers of fewer would be shipped with every model. Unused when a tokenizer is
    given."""

    tokenizer_bytes: int = Field(default=2**30, ge=1)
    """A tokenizer is trained on about this much of the sources, drawn from all training notes by a hash."""

    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()
    """The rule by which notes count as almost the same; the first of them stays."""

    leakage: LeakageConfig = LeakageConfig()
    """Treatment of notes that hold the test documents of tasks; needs the tasks' texts."""

    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Probability of a patient, where a source has a `group_column`, or else of a note to be held out for validation;
    decided by a hash, so that added notes move no other."""

    seed: int = Field(default=0, ge=0)
    """Seed of the validation split."""

    shard_tokens: int = Field(default=2**24, ge=1)
    """Tokens per file; one file of each split is held in memory while building (32 MiB at 2 bytes)."""

    def is_validation(self, document: Document) -> bool:
        """Whether a note is for validation, by a hash of its patient or text: exact duplicates stay together."""
        return text_digest(document.group or document.text, self.seed) < self.validation_fraction * 2**64
