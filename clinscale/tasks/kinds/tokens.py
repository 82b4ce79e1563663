"""Kind tokens: entities as BIO tags. The first token of each word represents the word; windows overlap."""

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from clinscale.cells import CellError
from clinscale.errors import ConfigError, DataError
from clinscale.records import Record
from clinscale.tasks.example import Entity, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import baselines
from clinscale.tasks.kinds.entity_scorers import ENTITY_SCORERS, OVERALL, count_entities
from clinscale.tasks.kinds.file_words import in_whole_words, words_of_file
from clinscale.tasks.kinds.kind import IGNORED, Kind, LongDocuments, Prediction, Window, column
from clinscale.tasks.kinds.sequence import softmax
from clinscale.tasks.kinds.windowing import overlapping
from clinscale.tasks.kinds.words import OUTSIDE, are_whole_words, tag_words, words_of
from clinscale.tasks.readers.align import NESTED, REPEATED, without_overlaps
from clinscale.tasks.readers.bio import BAD_TAG, entities_of_tags, read_tag
from clinscale.tasks.readers.marks import list_in, marked_entities, words_in
from clinscale.tasks.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_WORDS = {
    "tokens that are pieces of words of a tokenizer (`##ing`)": re.compile(r"(?<!\S)(?:##\w|[\u0120\u2581]\w)"),
    "brackets as treebanks write them (`-LRB-`)": re.compile(r"(?<!\S)-[LR][RSC]B-(?!\S)"),
    "quotation marks or slashes as treebanks write them (two grave accents, `\\/`)": re.compile(
        r"(?<!\S)``(?!\S)|(?<=\w)\\/(?=\w)"
    ),
    'quotation marks as a CSV doubles them (`""""`)': re.compile(r'(?<!\S)"(?:[^\s"]|"")*""(?:[^\s"]|"")*"(?!\S)'),
}
"""Tokens that a file may hold in place of words, in words -> how they look."""


class TokensKind(Kind):
    """Entities of a text; one counts when its span and its type are right, as the task's scorer compares them."""

    name = "tokens"
    formats = ("records", "bio", "brat", "i2b2_xml")
    scorers = tuple(ENTITY_SCORERS)
    earlier_scorer = "words"
    takes_lines = True
    output_columns = (
        column(
            "entities",
            "array",
            items={
                "type": "object",
                "properties": {
                    "start": {"type": "long", "required": True},
                    "end": {"type": "long", "required": True},
                    "label": {"type": "string", "required": True},
                    "score": {"type": "double", "required": True},
                },
            },
        ),
    )
    head: ClassVar[Literal["sequence", "tokens", "spans"]] = "tokens"

    @classmethod
    def default_scorer(cls, task: TaskConfig) -> str:
        """Characters; of files that give their tokens, those tokens."""
        gives_tokens = task.format == "bio" or (task.format == "records" and task.columns.tokens is not None)
        return "seqeval" if gives_tokens else "characters"

    @classmethod
    def check_files(cls, task: TaskConfig) -> None:
        """Refuse records without a column of entities."""
        if task.format == "records" and not (task.columns.tokens or task.columns.entities):
            raise ConfigError(
                f"task {task.name}: entities in records need columns.entities, or columns.tokens with .tags, got "
                "neither; name one"
            )

    @property
    def scores_equal(self) -> str:
        """The script whose rules count the entities."""
        assert self.task.scored_by is not None
        return ENTITY_SCORERS[self.task.scored_by].about

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics over all entities together (micro), by the rules of the task's scorer.

        `relaxed_f1` asks only that spans of one type overlap (i2b2 2012: of any type).
        """
        return ("f1", "precision", "recall", "relaxed_f1")

    @property
    def default_metric(self) -> str:
        """Strict micro F1."""
        return "f1"

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """`O`, then `B-` and `I-` of each entity type."""
        return (OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in "BI"))

    def windows(
        self,
        example: Example,
        tokenizer: "PreTrainedTokenizerBase",
        labels: Sequence[str],
        *,
        max_tokens: int,
        stride_tokens: int,
        train: bool,
        long_documents: LongDocuments = "truncate",
    ) -> list[Window]:
        """Overlapping windows; the target is the word's tag at its first token and -100 elsewhere.

        Words end where the text says so. Gold that begins or ends inside one cuts it in training, so that gold is
        learned as it is; prediction, which knows no gold, answers in whole words.
        """
        cuts = {end for entity in example.entities for end in (entity.start, entity.end)} if train else ()
        windows = overlapping(
            tokenizer,
            example.text,
            question=None,
            max_tokens=max_tokens,
            stride_tokens=stride_tokens,
            cuts=cuts,
        )
        words = words_of(example.text, cuts)
        heads = _heads(windows, words)
        speaks_for = {token: (words[first][0], words[last][1]) for token, (first, last) in heads.items()}
        for window in windows:
            window.speaks_for[:] = _by_position(window, speaks_for, None)
        if train:
            outputs = {name: number for number, name in enumerate(self.output_names(labels))}
            tags = tag_words(words, example.entities)
            targets = {token: outputs[tags[first]] for token, (first, _) in heads.items()}
            for window in windows:
                window.targets["labels"] = _by_position(window, targets, IGNORED)
        return windows

    def decode(
        self,
        example: Example,
        windows: Sequence[Window],
        outputs: Sequence[Mapping[str, np.ndarray]],
        labels: Sequence[str],
    ) -> Prediction:
        """`entities`: list of `start`, `end`, `label`, `score` (mean probability of the tags).

        outputs: `logits` (tokens, num_outputs). Where windows overlap, a token is judged by the one that shows
        most text on its poorer side. An I tag that continues nothing begins an entity, as in seqeval.
        """
        names = self.output_names(labels)
        all_probabilities = [softmax(np.asarray(output["logits"], dtype=np.float64)) for output in outputs]
        chosen = [probabilities.argmax(axis=-1).tolist() for probabilities in all_probabilities]
        highest = [probabilities.max(axis=-1).tolist() for probabilities in all_probabilities]
        entities: list[dict[str, Any]] = []
        certain: list[list[float]] = []
        previous = OUTSIDE
        for window, position in _judges(windows):
            words = windows[window].speaks_for[position]
            if words is None:
                continue
            prefix, _, label = names[chosen[window][position]].partition("-")
            if prefix == "I" and label == previous:
                entities[-1]["end"] = words[1]
                certain[-1].append(highest[window][position])
            elif label:
                entities.append({"start": words[0], "end": words[1], "label": label})
                certain.append([highest[window][position]])
            previous = label
        scored = [{**e, "score": sum(c) / len(c)} for e, c in zip(entities, certain, strict=True)]
        return {
            "entities": in_whole_words(words_of_file(example), scored) if example.is_split_into_words else scored
        }

    def outcomes(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """`count_entities` by the task's scorer."""
        scorer = self.task.scored_by
        assert scorer is not None
        rows = []
        for example, prediction in zip(examples, predictions, strict=True):
            found = [Entity(e["start"], e["end"], e["label"]) for e in prediction["entities"]]
            rows.append(count_entities(scorer, example, found, labels))
        return np.array(rows, dtype=float)

    def scores_of(self, outcomes: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """Nothing without one gold entity: neither recall nor F1 is defined then."""
        right, predicted, gold, near_predicted, near_gold = outcomes[:, :OVERALL].sum(axis=0)
        if not gold:
            return {}
        precision, recall = right / max(1, predicted), right / gold
        scores = {
            "f1": _harmonic(precision, recall),
            "precision": float(precision),
            "recall": float(recall),
            "relaxed_f1": _harmonic(near_predicted / max(1, predicted), near_gold / gold),
        }
        return {name: scores[name] for name in metrics or self.metrics}

    def label_counts(self, outcomes: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Entities of each type, counted strictly."""
        return outcomes[:, OVERALL:].reshape(len(outcomes), -1, 3)  # none in outcomes of earlier versions

    def trivial(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """No entities."""
        return [{"entities": []} for _ in examples]

    def baseline(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """A linear classifier of each word by its form and its neighbours'."""
        return baselines.entities(train, examples) or self.trivial(train, examples, labels)

    @property
    def gold_columns(self) -> tuple[str, ...]:
        """The words and their tags, or the entities."""
        columns = self.task.columns
        return (columns.tokens, columns.tags) if columns.tokens else (columns.entities or "",)

    def key_of(self, example: Example) -> list[Any]:
        """The id and the entities."""
        return [example.id, [dataclasses.astuple(one) for one in example.entities]]

    def read_gold(self, record: Record, text: str, findings: Findings) -> dict[str, Any]:
        """The entities of a row."""
        columns = self.task.columns
        if columns.tokens:
            entities = _tagged(record, columns.tokens, columns.tags)
        else:
            entities = marked_entities(record, columns.entities or "", text, findings)
        findings.find("annotations", len(entities))
        return {"entities": entities}

    def settled(self, example: Example, findings: Findings) -> Example:
        """Keep the longest of overlapping entities among those that the task asks for, so settle its labels first."""
        if all(one.end <= following.start for one, following in itertools.pairwise(example.entities)):
            return example
        distinct = dict.fromkeys(example.entities)
        apart = without_overlaps(distinct)
        findings.leave_out(REPEATED, len(example.entities) - len(distinct))
        findings.leave_out(NESTED, len(distinct) - len(apart))
        return dataclasses.replace(example, entities=apart)

    def report(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Remark on tokens that are no words, and on entities that begin or end inside a word, where no answer does."""
        given = [one for examples in splits.values() for one in examples if one.is_split_into_words]
        for what, pattern in _NO_WORDS.items():
            if number := sum(pattern.search(one.text) is not None for one in given):
                findings.remark(
                    f"{number:,} texts have {what}, which no text to be answered has: give words as they are written"
                )
        if self.task.format in self.formats:
            self._remark_on_disputed(splits, findings)
        assert self.task.scored_by is not None
        if ENTITY_SCORERS[self.task.scored_by].units is not None:
            return
        every = [(one.text, entity) for examples in splits.values() for one in examples for entity in one.entities]
        parted = [(text, one) for text, one in every if not are_whole_words(text, one.start, one.end)]
        if parted:
            last = sum(are_whole_words(text, one.start, one.end + 1) for text, one in parted)
            hint = ""
            if 2 * last >= len(every):
                hint = "; most lack one last character: is `end` that of the last, and not behind it?"
            elif 2 * sum(map(_may_be_counted_otherwise, (text for text, _ in parted))) > len(parted):
                hint = (
                    "; most are in texts with Windows line ends or signs of two units in UTF-16: give each entity its "
                    "`text`, by which it is found however its offset was counted"
                )
            findings.remark(
                f"{len(parted):,} of {len(every):,} entities begin or end inside a word, which no answer does: they "
                f"count as missed{hint}"
            )

    def _remark_on_disputed(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Remark on texts with other entities in one row than in another, as two annotators leave them.

        Sentences and lines repeat in other places, where they may mean something else.
        """
        entities = defaultdict(set)
        for one in (one for examples in splits.values() for one in examples):
            if not (one.is_split_into_words or one.is_part):
                entities[one.text].add(one.entities)
        if disputed := sum(len(given) > 1 for given in entities.values()):
            findings.remark(
                f"{disputed:,} texts have other entities in one row than in another: are they of two annotators?"
            )

    def check_found_labels(self, labels: Sequence[str], num_examples: int) -> None:
        """Refuse tags of words in place of types of entities."""
        types = {label[2:] for label in labels if label.startswith("B-")}
        if tagged := sorted(types & {label[2:] for label in labels if label.startswith("I-")}):
            raise DataError(
                f"task {self.task.name}: labels of entities must be types, got B-{tagged[0]} and I-{tagged[0]}, which "
                "are tags of words; join the words of each entity, or give columns.tokens and .tags"
            )

    def check_labels(self, labels: Sequence[str]) -> None:
        """Refuse data without an entity."""
        if not labels:
            raise DataError(f"task {self.task.name}: no entity in any split; check the annotations")

    def check_use(self, examples: Sequence[Example], labels: Sequence[str], split: str) -> None:
        """Refuse a split without an entity."""
        if not any(example.entities for example in examples):
            raise DataError(
                f"task {self.task.name}: split {split} has no entity, and needs one to learn from or to judge by; "
                "check its annotations, or split otherwise"
            )

    def loss_terms(self, windows: Sequence[Window]) -> int:
        """The words that have a target."""
        targets = [window.targets["labels"] for window in windows]
        return sum(len(one) - one.count(IGNORED) for one in targets)


def _tagged(record: Record, column: str, tag_column: str) -> tuple[Entity, ...]:
    words, given = words_in(record, column), list_in(record, tag_column)
    tags = [read_tag(tag) if isinstance(tag, str) else None for tag in given]
    if len(tags) != len(words):
        raise CellError(f"column {tag_column!r} must hold one tag per word", "correct the row")
    read = [tag for tag in tags if tag is not None]
    if len(read) < len(tags):
        raise CellError(f"column {tag_column!r}: {BAD_TAG}", "correct the tag")
    return entities_of_tags(words, read)


def _may_be_counted_otherwise(text: str) -> bool:
    """Whether JavaScript, or a program that changes line ends, counts other characters than Python."""
    return "\r\n" in text or (not text.isascii() and max(text) > "\uffff")


def _harmonic(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _heads(windows: Sequence[Window], words: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Token -> the first and the last word it represents: those that it reaches and no earlier token does.

    Tokens count over the whole text. The two words differ only where a script without blanks lets words share a token.
    """
    heads: dict[int, tuple[int, int]] = {}
    following, word, spoken_for = 0, 0, -1
    for window in windows:
        token = window.first_token - 1
        for offset in window.offsets:
            if offset is None:
                continue
            token += 1
            start, end = offset
            if token < following or start == end:
                continue  # what an earlier window has shown already, or white space
            while word < len(words) and words[word][1] <= start:
                word += 1
            last = word
            while last + 1 < len(words) and words[last + 1][0] < end:
                last += 1
            if last < len(words) and last > spoken_for:
                heads[token] = (max(word, spoken_for + 1), last)
                spoken_for = last
        following = token + 1
    return heads


def _by_position(window: Window, by_token: Mapping[int, Any], otherwise: Any) -> list[Any]:
    """The value of each position of a window, by the tokens of the text."""
    positions = window.text_positions
    here = [
        by_token.get(token, otherwise) for token in range(window.first_token, window.first_token + len(positions))
    ]
    before = positions[0] if positions else len(window.input_ids)
    return [*[otherwise] * before, *here, *[otherwise] * (len(window.input_ids) - before - len(here))]


def _judges(windows: Sequence[Window]) -> Iterator[tuple[int, int]]:
    """(window, position) that shows most text on the poorer side of each token of the text, in order.

    A window's side at which the text itself begins or ends is not poor: there is no more to show.
    """
    judges: dict[int, tuple[int, int]] = {}
    context: dict[int, float] = {}
    for number, window in enumerate(windows):
        positions = window.text_positions
        for place, position in enumerate(positions):
            left = place if number else float("inf")
            right = len(positions) - 1 - place if number < len(windows) - 1 else float("inf")
            token = window.first_token + place
            if min(left, right) > context.get(token, -1):
                judges[token], context[token] = (number, position), min(left, right)
    yield from judges.values()
