"""The contract of a task: what its files are, how they are split, what is predicted, how it is scored."""

from typing import Literal

from clinscale.config import Config
from clinscale.errors import ConfigError

KindName = Literal["sequence", "pair", "tokens", "spans"]
FormatName = Literal["records", "bio", "brat", "squad"]

SPLITS = ("train", "dev", "test")
"""The names of the splits that every task ends up with."""

FORMATS: dict[str, tuple[str, ...]] = {
    "sequence": ("records",),
    "pair": ("records",),
    "tokens": ("bio", "brat"),
    "spans": ("squad",),
}
"""Kind -> the formats that carry its annotations."""


class ColumnsConfig(Config):
    """Which columns of a records file (CSV, JSON lines, Parquet) mean what."""

    id: str | None = None
    """Column of the example's id; absent: file name and row number."""

    text: str = "text"
    """Column of the text, or of a pair's first text."""

    text_pair: str | None = None
    """Column of a pair's second text."""

    label: str = "label"
    """Column of the label; several labels in it are joined by `label_separator`."""

    labels: tuple[str, ...] = ()
    """Instead of `label`, for several labels per text: one column of 0 and 1 per label, blank is 0."""


class TaskConfig(Config):
    """A task as data; write one as YAML and give its path wherever a task's name is asked for."""

    name: str
    """Name in reports, runs and model names."""

    kind: KindName
    """What is predicted: a label of a text, of a pair of texts, entities, or the answer to a question."""

    format: FormatName
    """What the files are: records and columns, token-per-line BIO, brat stand-off, SQuAD JSON."""

    splits: dict[str, str]
    """`train`, `dev` and `test`, or `all` with `split_ratios`; each a file or folder below the data folder."""

    split_ratios: tuple[float, float, float] | None = None
    """Shares of train, dev and test, when the one source `all` must be split here."""

    group_column: str | None = None
    """Records whose value is equal here (a patient, say) stay in one split; equal texts always do."""

    seed: int = 0
    """Of the split by `split_ratios`."""

    columns: ColumnsConfig = ColumnsConfig()
    """Columns of a records file."""

    label_from: Literal["column", "file"] = "column"
    """`file`: the label is the name of the file that holds the row, without its suffixes."""

    labels: tuple[str, ...] | None = None
    """All labels or entity types, in the order of the model's outputs; absent: those found, sorted."""

    multi_label: bool = False
    """Whether a text can have none or several labels."""

    label_separator: str = ";"
    """What joins several labels in one column."""

    on_empty: Literal["raise", "skip"] = "raise"
    """What happens to a row without text; skipped rows are counted."""

    unanswerable: bool = True
    """Spans: whether `no answer` is a possible answer. False: the best span is always given, and questions
    without an answer are left out and counted."""

    max_answer_tokens: int = 256
    """Spans: the longest answer that is given."""

    metric: str | None = None
    """What sweeps maximise; absent: the default of the kind."""

    def check(self) -> None:
        """Refuse combinations that no reader or kind understands."""
        here = f"task {self.name}"
        if self.format not in FORMATS[self.kind]:
            allowed = " or ".join(FORMATS[self.kind])
            raise ConfigError(f"{here}: kind {self.kind} reads format {allowed}, got {self.format}")
        wanted = ("all",) if self.split_ratios else SPLITS
        if set(self.splits) != set(wanted):
            raise ConfigError(
                f"{here}: splits must name {', '.join(wanted)}, got {', '.join(self.splits) or 'none'}; "
                "a single source is named all and needs split_ratios"
            )
        if self.split_ratios and (min(self.split_ratios) <= 0 or abs(sum(self.split_ratios) - 1) > 1e-6):
            raise ConfigError(f"{here}: split_ratios must be three positive shares that sum to 1")
        if self.group_column and (self.format != "records" or not self.split_ratios):
            raise ConfigError(f"{here}: group_column is for records split by split_ratios; remove it")
        if (self.kind == "pair") != (self.columns.text_pair is not None):
            raise ConfigError(
                f"{here}: columns.text_pair names the second text of kind pair, and of no other kind"
            )
        if self.multi_label and self.kind != "sequence":
            raise ConfigError(f"{here}: multi_label is for kind sequence, got kind {self.kind}; remove it")
        if self.columns.labels and not self.multi_label:
            raise ConfigError(f"{here}: columns.labels is for several labels per text; set multi_label: true")
        if self.columns.labels and self.labels and set(self.labels) != set(self.columns.labels):
            raise ConfigError(f"{here}: labels and columns.labels name different labels; remove labels")
        if self.labels is not None and (not self.labels or len(set(self.labels)) < len(self.labels)):
            raise ConfigError(f"{here}: labels must be distinct and at least one; or remove the key")
        if self.max_answer_tokens < 1:
            raise ConfigError(f"{here}: max_answer_tokens must be at least 1, got {self.max_answer_tokens}")
