"""The contract of a task: what its files are, how they are split, what is predicted, how it is scored."""

import itertools
import posixpath
import re
from typing import Any, ClassVar, Literal

import regex
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from clinscale.cells import as_label
from clinscale.config import Config, nearest
from clinscale.errors import ConfigError
from clinscale.records import TableFormat
from clinscale.tasks.findings import OnError

SPLITS = ("train", "dev", "test")
"""The names of the splits that every task ends up with."""

_MOST_CHARACTERS = 100
"""Longest name of a task: MLflow's names of scores end at 250, and hold more than it."""


class KindRules:
    """Questions of a task's config to its kind; every `Kind` answers."""

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    """The open formats that carry the kind's annotations; any other format is a distribution of the catalog."""
    options: ClassVar[type[Config]] = Config
    """The kind's own choices, `kind_options` of a task; the docstring of each field explains it."""
    scorers: ClassVar[tuple[str, ...]] = ()
    """The scorers that a task can choose; none where scikit-learn scores labels."""
    needs: ClassVar[str] = ""
    """Parts that a document must have beside its text, in words; empty where the text is enough."""
    second_text_column: ClassVar[str | None] = None
    """The default name of the column of the second text; None for kinds without one."""
    takes_several_labels: ClassVar[bool] = False
    """Whether a task may set `multi_label`."""
    takes_lines: ClassVar[bool] = False
    """Whether a task may set `unit: line`."""

    @classmethod
    def default_scorer(cls, task: "TaskConfig") -> str | None:
        """The scorer of a task that names none; None where scikit-learn scores labels."""
        return None

    @classmethod
    def check_files(cls, task: "TaskConfig") -> None:
        """Refuse columns of open files that this kind cannot learn from; ConfigError says how to correct them."""


KINDS: dict[str, type[KindRules]] = {}
"""Name -> the rules of a kind; `tasks.kinds` enters its kinds when it is imported."""


def open_formats() -> frozenset[str]:
    """The formats that some kind reads as they are; all others are distributions."""
    return frozenset(name for kind in KINDS.values() for name in kind.formats)


def _kinds_that(takes: str) -> str:
    return " and ".join(kind.name for kind in KINDS.values() if getattr(kind, takes))


class ColumnsConfig(Config):
    """Meaning of the columns of records (CSV, TSV, JSON, JSON lines, Parquet, XLSX, HF dataset folder).

    In nested records a column is a path: `report.findings`, `sections.0.text`.
    """

    id: str | None = None
    """Column of the example's id; absent: file name and row number."""

    text: str | tuple[str, ...] = "text"
    """Column of the text, or of a pair's first text; several are joined by a line break, empty ones left out."""

    text_pair: str | None = None
    """Column of a pair's second text, or of the question."""

    label: str = "label"
    """Column of the label; several labels in it are a list, or joined by `label_separator`. With
    `multi_label` an empty list, text or cell is none; null is not known, and refused."""

    labels: tuple[str, ...] = ()
    """Instead of `label`, for several labels per text: one column of 0 and 1 per label. A blank is 0; null is
    not known, and refused."""

    entities: str | None = None
    """Kinds tokens and relations: column of a list of objects with `start`, `end` and `label` in characters of the
    text; of relations they may have an `id`."""

    tokens: str | None = None
    """Kind tokens, instead of text and entities: column of a list of words, joined by blanks."""

    tags: str = "ner_tags"
    """Kind tokens: column of the list of BIO tags that belongs to `tokens`."""

    answers: str = "answers"
    """Kind spans: column of the answers, `{text: [...], answer_start: [...]}` or a list of `{text, answer_start}`."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that make up the text."""
        return (self.text,) if isinstance(self.text, str) else self.text


class TaskConfig(TableFormat):
    """A task as data; write one as YAML and give its path wherever a task's name is asked for."""

    name: str
    """Name in reports, runs and model names. A sweep's winner is registered by it, which takes a plain word, unless
    `register_as` names another."""

    about: str = ""
    """Description of the task, the origin of its files and their split, in a sentence or two."""

    kind: str
    """Kind of the prediction: `sequence` (labels of a text), `pair` (of two texts), `tokens` (entities), `spans` (the
    answer to a question) or `relations` (between given entities)."""

    format: str
    """Format of the files: `records` (rows with columns), `bio` (token per line), `brat` stand-off, `i2b2_xml`
    stand-off, `squad` JSON; or a distribution that `clinscale tasks` knows."""

    splits: dict[str, str] = Field(default_factory=dict)
    """`train`, `dev` and `test`, or `all` with `split_ratios`, `split_column` or `split_ids`; each a file or folder
    below the data folder. A distribution has splits of its own."""

    split_ratios: tuple[float, float, float] | None = None
    """Shares of train, dev and test, when the one source `all` must be split here."""

    split_column: str | None = None
    """Column of the records of `all` that says train, dev (validation, val, devel) or test."""

    split_ids: dict[str, str] = Field(default_factory=dict)
    """`train`, `dev` and `test`: files below the data folder that list ids of the examples of `all`, one a line; of
    patients where `group_column` or `group_pattern` names these. What is in none of them is left out and counted."""

    group_column: str | None = None
    """Records whose value is equal here (a patient, say) stay in one split; equal texts always do where
    `split_ratios` splits. Where the splits are given, by files or `split_column`, a group in two of them is an error;
    with `on_error: skip`, its examples are left out of the earlier one, train before dev before test, and counted."""

    group_pattern: str | None = None
    """The same for documents in files: a regular expression whose first group, searched in the id, is the patient."""

    seed: int = 0
    """Seed of the split by `split_ratios`; a distribution that draws a split itself has a seed among its options."""

    keep_rows: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows of records to keep: those whose column holds one of these values, e.g. `CATEGORY: [Discharge summary]`.

    1 and 1.0 are one value, "" is a blank. A value that no row holds is refused.
    """

    drop_rows: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows of records to drop: those whose column holds one of these values, e.g. `ISERROR: ["1"]`."""

    columns: ColumnsConfig = ColumnsConfig()
    """Columns of records."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Options that a distribution leaves open; `clinscale tasks show` explains each."""

    kind_options: dict[str, Any] = Field(default_factory=dict)
    """Options that a kind leaves open, such as which pairs `relations` asks about.

    `clinscale tasks show` explains each.
    """

    label_from: Literal["column", "file"] = "column"
    """`file`: the label is the name of the file that holds the row, without its suffixes."""

    label_map: dict[str, str | None] = Field(default_factory=dict)
    """Label in the files -> label of the task; null leaves out the row, the entity, or one of several labels: a
    text with no others has none then, and is counted. Others stay as they are; a label that is not in the files is
    refused."""

    labels: tuple[str, ...] | None = None
    """All labels or entity types, in the order of the model's outputs; absent: those found, sorted. Of two labels of a
    text the second is the one that is sought: sensitivity and alerts are its."""

    multi_label: bool = False
    """Whether a text can have none or several labels."""

    label_separator: str = Field(default=";", min_length=1)
    """Separator of several labels in one column."""

    unit: Literal["document", "line"] = "document"
    """Kind tokens: what one example is. `line` is the unit of the paper's public scripts."""

    on_error: OnError = "raise"
    """Treatment of a broken row, file or annotation: refuse the task, or leave it out and count it."""

    unanswerable: bool = True
    """Spans: whether `no answer` is a possible answer. False: the best span is always given, and questions
    without an answer are left out and counted."""

    max_answer_tokens: int = 256
    """Spans: the longest answer that is given."""

    metric: str | None = None
    """Metric that sweeps maximise; absent: the default of the kind, or `roc_auc` of two labels of which the rarer has
    less than 35 % of the training examples."""

    sensitivity_at: float = 0.9
    """Labels: the specificity at which the metric `sensitivity_at_0.9` (named by it) is read off the ROC curve of the
    examples that are scored; a threshold fixed before may reach less. One that is chosen on the development split has
    this specificity there."""

    alerts_per_1000: float | None = None
    """Two labels: instead of a specificity, the most notes of 1,000 of the development split that a threshold chosen
    there answers by the second label."""

    threshold: float | None = None
    """Two labels: the second is answered where its probability is above this. Absent: chosen on the development split
    of each model, where the metric is `roc_auc`, `average_precision` or `sensitivity_at_...`; else the more probable
    one is answered."""

    scorer: str | None = None
    """Rules by which entities or answers are counted: those of an official script, where they differ on duplicates,
    overlaps, parts of words or no answer. Tokens: `characters` (default: same characters and type), `seqeval`
    (default for files of tokens: on those tokens), `i2b2_2010`, `i2b2_2012`, `i2b2_2014`, `n2c2_2018`,
    `n2c2_2018_lenient`, `meddocan`, `bc5cdr`, `words` (earlier versions of clinscale). Spans: `squad_v2`
    (default), `squad_v1` (default where `unanswerable` is false). Relations: `strict` (default), `strict_spans`
    (types of entities are not compared)."""

    @property
    def scored_by(self) -> str | None:
        """The scorer of entities or answers: the task's own, else that of its kind and files; None for labels."""
        return self.scorer or KINDS[self.kind].default_scorer(self)

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The dump without fields that came later and are at their default: recipes recorded before stay equal."""
        values: dict[str, Any] = dump(self)
        fields, later = type(self).model_fields, ("kind_options", "sensitivity_at", "alerts_per_1000", "threshold")
        unused = {name: fields[name].get_default(call_default_factory=True) for name in later}
        return {name: value for name, value in values.items() if name not in unused or value != unused[name]}

    def check(self) -> None:
        """Refuse combinations that no reader or kind understands."""
        here = f"task {self.name}"
        super().check()
        self._check_name()
        if self.kind not in KINDS:
            raise ConfigError(
                f"{here}: kind must be a known one, got {self.kind!r}; {nearest(self.kind, [*KINDS])}"
            )
        kind, is_open = KINDS[self.kind], self.format in open_formats()
        kind.options.parse(self.kind_options, source=f"{here}: kind_options")
        if is_open:
            self._check_files(here, kind)
        if self.options and is_open:
            raise ConfigError(
                f"{here}: options belong to distributions, format {self.format} has none; remove them"
            )
        if self.unit == "line" and not kind.takes_lines:
            able = _kinds_that("takes_lines")
            raise ConfigError(f"{here}: unit: line is for kind {able}, got kind {self.kind}; remove it")
        if not self.is_utf8 and not is_open:
            raise ConfigError(f"{here}: format {self.format} has an encoding of its own; remove encoding")
        self._check_splits(here, is_open=is_open)
        self._check_labels(here, kind)
        self._check_scoring(here, kind)

    def _check_splits(self, here: str, *, is_open: bool) -> None:
        if self.split_ratios and (min(self.split_ratios) <= 0 or abs(sum(self.split_ratios) - 1) > 1e-6):
            raise ConfigError(
                f"{here}: split_ratios must be three positive shares that sum to 1, got {list(self.split_ratios)}; "
                "0.8, 0.1 and 0.1 are usual"
            )
        if (self.group_column or self.group_pattern) and not (self.split_ratios or is_open):
            raise ConfigError(
                f"{here}: format {self.format} has splits of its own; remove group_column, group_pattern"
            )
        if (self.split_column or self.split_ids) and not is_open:
            raise ConfigError(
                f"{here}: format {self.format} has splits of its own; remove split_column, split_ids"
            )
        if self.split_ids and set(self.split_ids) != set(SPLITS):
            raise ConfigError(
                f"{here}: split_ids must name {', '.join(SPLITS)}, got {', '.join(self.split_ids)}; give a file for "
                "each"
            )
        if (self.keep_rows or self.drop_rows) and self.format != "records":
            raise ConfigError(
                f"{here}: keep_rows and drop_rows are for format records, got {self.format}; remove them"
            )
        if self.group_pattern is not None:
            self._check_pattern(here, self.group_pattern)

    def _check_labels(self, here: str, kind: type[KindRules]) -> None:
        if self.multi_label and not kind.takes_several_labels:
            able = _kinds_that("takes_several_labels")
            raise ConfigError(f"{here}: multi_label is for kind {able}, got kind {self.kind}; remove it")
        if self.columns.labels and not self.multi_label:
            raise ConfigError(f"{here}: columns.labels is for several labels per text; set multi_label: true")
        if self.columns.labels and self.labels and set(self.labels) != set(self.columns.labels):
            raise ConfigError(f"{here}: labels and columns.labels name different labels; remove labels")
        if self.labels is not None and (not self.labels or len(set(self.labels)) < len(self.labels)):
            raise ConfigError(
                f"{here}: labels must be distinct and at least one, got {len(set(self.labels))} different in "
                f"{len(self.labels)}; correct the list, or remove the key"
            )
        for option, names in (("labels", self.labels or ()), ("label_map", self.label_map)):
            read = [as_label(name, option) for name in names]
            if alike := [name for name, one in zip(names, read, strict=True) if one and read.count(one) > 1]:
                raise ConfigError(
                    f"{here}: {option} must name labels that are read apart, got {' and '.join(map(repr, alike))}, "
                    "which are read as one; keep one, or spell the other otherwise in the files"
                )

    def _check_scoring(self, here: str, kind: type[KindRules]) -> None:
        if not 0 < self.sensitivity_at < 1:
            raise ConfigError(
                f"{here}: sensitivity_at must be a specificity between 0 and 1, got {self.sensitivity_at}; give 0.9"
            )
        if self.alerts_per_1000 is not None and not 0 < self.alerts_per_1000 <= 1000:
            raise ConfigError(
                f"{here}: alerts_per_1000 must be above 0 and at most 1000, got {self.alerts_per_1000:g}; give 50"
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"{here}: threshold must be a probability from 0 to 1, got {self.threshold:g}; remove it to have one "
                "chosen"
            )
        if self.max_answer_tokens < 1:
            raise ConfigError(
                f"{here}: max_answer_tokens must be at least 1, got {self.max_answer_tokens}; 256 is usual"
            )
        if self.scorer is not None and self.scorer not in kind.scorers:
            allowed = nearest(self.scorer, kind.scorers)
            raise ConfigError(f"{here}: scorer {self.scorer!r} is none of kind {self.kind}; {allowed}")

    def _check_name(self) -> None:
        """Scores go to MLflow by the task's name, which must be what MLflow takes in the name of a metric."""
        normal = posixpath.normpath(self.name) == self.name and not self.name.startswith(("/", "."))
        if not re.fullmatch(r"[/\w.\- :]+", self.name) or not normal or len(self.name) > _MOST_CHARACTERS:
            raise ConfigError(
                f"task name {self.name!r} must be letters, digits, blanks and _ - . : of at most {_MOST_CHARACTERS} "
                "characters, as MLflow wants it for the names of scores; choose another name"
            )

    def _check_files(self, here: str, kind: type[KindRules]) -> None:
        if self.format not in kind.formats:
            allowed = " or ".join(kind.formats)
            raise ConfigError(
                f"{here}: kind {self.kind} reads format {allowed}, got {self.format}; set format: {kind.formats[0]}, "
                "or another kind"
            )
        ways = [way for way in (self.split_ratios, self.split_column, self.split_ids) if way]
        if len(ways) > 1:
            raise ConfigError(f"{here}: split_ratios, split_column and split_ids are ways to split; keep one")
        wanted = ("all",) if ways else SPLITS
        if set(self.splits) != set(wanted):
            raise ConfigError(
                f"{here}: splits must name {', '.join(wanted)}, got {', '.join(self.splits) or 'none'}; "
                "a single source is named all and needs split_ratios, split_column or split_ids"
            )
        places = {split: posixpath.normpath(path) for split, path in self.splits.items()}
        for (outer, folder), (inner, place) in itertools.permutations(places.items(), 2):
            if place != folder and (folder == "." or place.startswith(f"{folder}/")):
                raise ConfigError(
                    f"{here}: splits.{outer} is a folder that holds splits.{inner}, {self.splits[inner]}; name a "
                    "folder for each"
                )
        if (self.group_column or self.split_column) and self.format != "records":
            raise ConfigError(f"{here}: group_column and split_column are for records; remove them")
        if self.format == "records" and (kind.second_text_column is None) != (self.columns.text_pair is None):
            raise ConfigError(
                f"{here}: columns.text_pair must name the second text of kind pair or the question of kind spans, and "
                f"is for no other kind, got {self.columns.text_pair!r} for kind {self.kind}; "
                f"{'set it' if kind.second_text_column else 'remove it'}"
            )
        if self.columns.text_pair in self.columns.texts:
            raise ConfigError(
                f"{here}: columns.text_pair is a column of the text, too; name the column of the second text"
            )
        if self.columns.tokens and self.columns.entities:
            raise ConfigError(
                f"{here}: columns.tokens and columns.entities are two ways to mark entities; keep one"
            )
        kind.check_files(self)

    def _check_pattern(self, here: str, pattern: str) -> None:
        try:
            groups = regex.compile(pattern).groups
        except regex.error as error:
            raise ConfigError(f"{here}: group_pattern is no regular expression: {error}; correct it") from None
        if groups < 1:
            raise ConfigError(
                f"{here}: group_pattern needs a group in parentheses around the patient's part, got none; add one"
            )
