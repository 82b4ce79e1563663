"""Kind relations: which pairs of a text's marked entities are related, how, and in which direction.

Entities are given. Each candidate pair is asked about by itself: the text around it, with both entities in marks that
say their types (typed entity markers in punctuation: Zhou and Chen 2022, An Improved Baseline for Sentence-level
Relation Extraction), is classified as a relation in one of its directions, or none. The number of pairs is bounded;
gold that is no candidate, or shares its pair with other gold, is out of reach: it is counted and scored as missed.
"""

import dataclasses
import random
import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from clinscale.cells import CellError
from clinscale.config import Config
from clinscale.errors import ConfigError, DataError
from clinscale.records import Record
from clinscale.storage import exists
from clinscale.tasks.example import Entity, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import baselines
from clinscale.tasks.kinds.classification import f1_of
from clinscale.tasks.kinds.kind import Kind, LongDocuments, Prediction, Reader, Window, column
from clinscale.tasks.kinds.sequence import softmax
from clinscale.tasks.kinds.windowing import classification_mask, room_for_text
from clinscale.tasks.readers.align import entities_of
from clinscale.tasks.readers.brat import brat_documents, lines_of_annotations, marks_of
from clinscale.tasks.readers.marks import marked_entities
from clinscale.tasks.readers.relations import Relation, read_brat_relations, read_row_relations
from clinscale.tasks.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_RELATION = "none"

_NOTE = re.compile(r"\.te?xt(?:\.gz)?$", re.IGNORECASE)
_BESIDE = (".ann", ".ANN", ".ann.gz")
REPEATED = "repeats another relation"

_ENTITY = {
    "type": "object",
    "properties": {
        "start": {"type": "long", "required": True},
        "end": {"type": "long", "required": True},
        "label": {"type": "string", "required": True},
    },
}


@dataclass(frozen=True)
class Pair:
    """Two entities to ask about, in the order of the text."""

    first: Entity
    second: Entity

    @classmethod
    def of(cls, relation: Relation) -> "Pair":
        """The pair that a relation is between."""
        return cls(*sorted((relation.head, relation.tail)))

    @property
    def end(self) -> int:
        """First character after both."""
        return max(self.first.end, self.second.end)

    @property
    def gap_characters(self) -> int:
        """Number of characters between the two; 0 for those that overlap."""
        return max(0, self.second.start - self.first.end)


class RelationsOptions(Config):
    """The pairs that are asked about, and the meaning of a relation's direction."""

    within: Literal["line", "document"] = "document"
    """`line`: only pairs that share a line of the text, as in i2b2 2010, where a line is a sentence. An entity over a
    line break is on each line that it touches."""

    max_gap_characters: int = Field(default=300, ge=0)
    """The most characters between two entities that are asked about. Gold farther apart counts as missed."""

    max_pairs: int = Field(default=1000, ge=1)
    """The most pairs asked about in a document, nearest first. Gold beyond counts as missed."""

    negatives: int | None = Field(default=10, ge=0)
    """The most pairs without a relation that training takes of a document, for each pair with one (at least for one);
    drawn by the document's id. None: all. Prediction asks about all pairs."""

    context_characters: int = Field(default=200, ge=0)
    """Text read before and after each pair, up to what the model's window holds."""

    types: tuple[tuple[str, str], ...] = ()
    """Pairs of entity types, head before tail, between which there can be relations; empty: any two. Gold of other
    types counts as missed."""

    symmetric: tuple[str, ...] = ()
    """Relations without a direction, as the task names them: learned and predicted from the entity that is first."""

    inverse: dict[str, str] = Field(default_factory=dict)
    """A relation -> the one that says the same from tail to head, e.g. `AFTER: BEFORE`; read as that one. Both as the
    files name them."""

    column: str = "relations"
    """Column of records: a list of objects with `head`, `tail` (the `id` of an entity in the column of entities, or its
    `start` and `end`) and `label`."""

    def check(self) -> None:
        """Refuse an inverse that leads nowhere."""
        if chained := sorted(self.inverse.keys() & self.inverse.values()):
            raise ConfigError(
                f"inverse must name relations that have none themselves, got {chained[0]}; keep one side"
            )


class RelationsKind(Kind):
    """Relations between given entities; one counts when both spans, both types and its own type are right."""

    name = "relations"
    head: ClassVar[Literal["sequence", "tokens", "spans"]] = "sequence"
    formats = ("records", "brat")
    options = RelationsOptions
    scorers = ("strict", "strict_spans")
    needs = "list of entities"
    annotation_field = "gold"
    document_formats = ("records", "text")
    input_columns = (column("entities", "array", items=_ENTITY),)
    input_example: ClassVar = {
        "entities": [
            {"start": 30, "end": 40, "label": "problem"},
            {"start": 42, "end": 52, "label": "treatment"},
        ]
    }
    output_columns = (
        column(
            "relations",
            "array",
            items={
                "type": "object",
                "properties": {
                    "head": {**_ENTITY, "required": True},
                    "tail": {**_ENTITY, "required": True},
                    "label": {"type": "string", "required": True},
                    "score": {"type": "double", "required": True},
                },
            },
        ),
    )

    def __init__(self, task: TaskConfig) -> None:
        super().__init__(task)
        self._options = RelationsOptions.parse(task.kind_options, source=f"task {task.name}: kind_options")
        if task.metric == "reachable":
            raise ConfigError(
                f"task {task.name}: metric reachable is of the data and the same for every model, so that none is "
                "chosen by it; set metric: f1, precision or recall"
            )

    @classmethod
    def default_scorer(cls, task: TaskConfig) -> str:
        """Spans, their types and the relation."""
        return "strict"

    @classmethod
    def check_files(cls, task: TaskConfig) -> None:
        """Refuse records without a column of entities."""
        if task.format == "records" and (task.columns.tokens or not task.columns.entities):
            raise ConfigError(
                f"task {task.name}: columns.entities must name the entities that relations in records are between, "
                f"got {task.columns.entities!r}; set it, and remove columns.tokens if that is set"
            )

    @property
    def scores_equal(self) -> str:
        """The definition of strict relation F1."""
        types = ", types" if self.task.scored_by == "strict" else ""
        return f"strict relation F1: micro over documents, equal characters{types} and direction of both entities"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Scores over all relations together (micro); `reachable` is the share of gold that any answer could find."""
        return ("f1", "precision", "recall", "reachable")

    @property
    def default_metric(self) -> str:
        """Strict micro F1."""
        return "f1"

    def problem_type(self, task: TaskConfig) -> str | None:
        """One answer for each pair."""
        return "single_label_classification"

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """`none`, then each relation from the first entity to the second (`>`) and back (`<`)."""
        return (NO_RELATION, *(f"{label}{way}" for label in labels for way in self._ways(label)))

    def _ways(self, label: str) -> str:
        return ">" if label in self._options.symmetric else "><"

    @property
    def own_readers(self) -> Mapping[str, Reader]:
        """brat, whose `R` lines other kinds leave alone."""
        return {"brat": self._read_brat}

    def _read_brat(self, task: TaskConfig, path: str, findings: Findings) -> list[Example]:
        return brat_documents(path, findings, encoding=task.encoding, read_gold=read_brat_relations)

    @property
    def gold_columns(self) -> tuple[str, ...]:
        """Entities and relations."""
        return (self.task.columns.entities or "", self._options.column)

    def read_gold(self, record: Record, text: str, findings: Findings) -> dict[str, Any]:
        """The entities of a row and the relations between them."""
        return read_row_relations(record, text, self.task.columns.entities or "", self._options.column, findings)

    def read_given(self, record: Record, text: str) -> dict[str, Any]:
        """The entities of a row."""
        return {"entities": marked_entities(record, self.task.columns.entities or "entities", text, _Strict())}

    def read_beside(self, file: str, text: str) -> dict[str, Any]:
        """The entities of brat's `.ann` beside a text."""
        stem = _NOTE.sub("", file)
        beside = next((path for one in _BESIDE if exists(path := f"{stem}{one}")), None)
        if beside is None:
            raise DataError(
                f"a text file has no {self.needs} unless {PurePosixPath(stem).name}.ann is beside it; put it there, or "
                "give a table with both"
            )
        marks = marks_of(lines_of_annotations(beside, self.task.encoding), beside, _Strict())
        return {"entities": entities_of(text, marks.values(), _Strict())}

    def as_read(self, example: Example) -> Example:
        """The example with the inverse of each relation that has one."""
        inverse = self._options.inverse
        gold = (Relation(r.tail, r.head, inverse[r.label]) if r.label in inverse else r for r in example.gold)
        return dataclasses.replace(example, gold=tuple(gold))

    def _directed(self, relation: Relation) -> Relation:
        is_back = relation.label in self._options.symmetric and relation.tail < relation.head
        return Relation(relation.tail, relation.head, relation.label) if is_back else relation

    def settled(self, example: Example, findings: Findings) -> Example:
        """The example with each relation once, in order; those without a direction lead forward."""
        once = sorted({self._directed(relation) for relation in example.gold})
        findings.leave_out(REPEATED, len(example.gold) - len(once))
        return dataclasses.replace(example, gold=tuple(once))

    def check_split(self, examples: Sequence[Example], place: str) -> None:
        """Refuse a split without a relation."""
        if not any(example.gold for example in examples):
            raise DataError(f"task {self.task.name}: {place} has no relation; check the annotations")

    def check_use(self, examples: Sequence[Example], labels: Sequence[str], split: str) -> None:
        """Refuse a split without a relation that an answer could reach."""
        if not any(map(self._reachable, examples)):
            raise DataError(
                f"task {self.task.name}: split {split} has no relation that an answer could reach, so that every "
                "score would be 0; widen kind_options (within, max_gap_characters, max_pairs, types)"
            )

    def report(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Count relations and pairs, remark on gold out of reach, and refuse options that nothing in the data meets."""
        everything = [example for examples in splits.values() for example in examples]
        self._check_met("types", {e.label for one in everything for e in one.entities}, findings)
        self._check_met("symmetric", {r.label for one in everything for r in one.gold}, findings)
        for split, examples in splits.items():
            gold = sum(len(example.gold) for example in examples)
            reached = sum(len(self._reachable(example)) for example in examples)
            findings.find("relations", gold)
            findings.find("candidate pairs", sum(len(self.pairs(example)) for example in examples))
            if reached < gold:
                findings.remark(
                    f"{split}: {gold - reached:,} of {gold:,} relations are out of reach and count as missed "
                    "(kind_options: within, max_gap_characters, max_pairs, types; or second relations of one pair)"
                )

    def _check_met(self, option: str, met: set[str], findings: Findings) -> None:
        """Refuse names in an option that the data spell otherwise: they would change the pairs in silence."""
        named = getattr(self._options, option)
        for name in dict.fromkeys(name for one in named for name in ((one,) if isinstance(one, str) else one)):
            if name not in met:
                place = f"task {self.task.name}: kind_options.{option}, {name!r}"
                findings.reject("nothing in the data has this name", place, "correct or remove it")

    def key_of(self, example: Example) -> list[Any]:
        """The id, the entities that were given and the relations."""
        return [
            example.id,
            *([dataclasses.astuple(one) for one in some] for some in (example.entities, example.gold)),
        ]

    def pairs(self, example: Example) -> list[Pair]:
        """The candidates of a document in the order of the text: those that are near enough, at most `max_pairs`."""
        options = self._options
        breaks = [match.start() for match in re.finditer("\n", example.text)]
        ordered = sorted(set(example.entities))
        found = []
        for number, first in enumerate(ordered):
            last_line = bisect(breaks, max(first.start, first.end - 1))
            for second in ordered[number + 1 :]:
                pair = Pair(first, second)
                too_far = pair.gap_characters > options.max_gap_characters
                if too_far or (options.within == "line" and bisect(breaks, second.start) > last_line):
                    break  # later ones begin even farther away
                if self._allowed(pair):
                    found.append(pair)
        if len(found) > options.max_pairs:
            nearest = sorted(range(len(found)), key=lambda at: (found[at].gap_characters, at))
            found = [found[at] for at in sorted(nearest[: options.max_pairs])]
        return found

    def _allowed(self, pair: Pair) -> str:
        """The directions that the types of a pair allow."""
        types, first, second = self._options.types, pair.first.label, pair.second.label
        if not types:
            return "><"
        return ">" * ((first, second) in types) + "<" * ((second, first) in types)

    def _way(self, relation: Relation) -> str:
        return ">" if relation.head <= relation.tail else "<"

    def _is_allowed(self, pair: Pair, label: str, way: str) -> bool:
        """Whether the types allow it; a relation without a direction needs one of both."""
        return bool(self._allowed(pair)) if label in self._options.symmetric else way in self._allowed(pair)

    def _reachable(self, example: Example) -> dict[Pair, Relation]:
        """The one relation of each candidate pair that is learned; others of the pair are out of reach."""
        candidates = set(self.pairs(example))
        reached: dict[Pair, Relation] = {}
        for relation in example.gold:
            pair = Pair.of(relation)
            if pair in candidates and self._is_allowed(pair, relation.label, self._way(relation)):
                reached.setdefault(pair, relation)
        return reached

    def _learned(self, example: Example) -> list[tuple[Pair, Relation | None]]:
        """The pairs that training takes of a document."""
        reached, pairs = self._reachable(example), self.pairs(example)
        without = [pair for pair in pairs if pair not in reached]
        if self._options.negatives is not None:
            most = self._options.negatives * max(1, len(reached))
            without = random.Random(example.id).sample(without, min(most, len(without)))
        taken = {*reached, *without}
        return [(pair, reached.get(pair)) for pair in pairs if pair in taken]

    def _output_of(self, relation: Relation | None) -> str:
        return NO_RELATION if relation is None else f"{relation.label}{self._way(relation)}"

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
        """One window for each pair: the tokens nearest to its marks, with global attention at each mark."""
        names = {name: number for number, name in enumerate(self.output_names(labels))}
        learned = self._learned(example) if train else [(pair, None) for pair in self.pairs(example)]
        if not learned:
            return []
        room = room_for_text(tokenizer, max_tokens, pair=False)
        marked = [self._marked(example.text, pair) for pair, _ in learned]
        encoding = tokenizer([text for text, _ in marked], return_offsets_mapping=True, verbose=False)
        windows = []
        for number, ((_, relation), (_, marks)) in enumerate(zip(learned, marked, strict=True)):
            ids, sides = encoding["input_ids"][number], encoding.sequence_ids(number)
            starts = [start for start, _ in encoding["offset_mapping"][number]]
            window = _around(tokenizer, ids, sides, starts, marks, room)
            if train:
                window.targets["labels"] = names[self._output_of(relation)]
            windows.append(window)
        return windows

    def _marked(self, text: str, pair: Pair) -> tuple[str, list[int]]:
        """The text around a pair with marks in it, and where these begin."""
        context = self._options.context_characters
        start, end = max(0, pair.first.start - context), min(len(text), pair.end + context)
        while 0 < start < pair.first.start and not text[start - 1].isspace():  # no word is cut
            start += 1
        while pair.end < end < len(text) and not text[end].isspace():
            end -= 1
        parts, begins, at, length = [], [], start, 0
        for place, _, mark in sorted(
            (
                (pair.first.start, 1, f"@ * {_words(pair.first.label)} * "),
                (pair.first.end, 0, " @"),
                (pair.second.start, 1, f"# ^ {_words(pair.second.label)} ^ "),
                (pair.second.end, 0, " #"),
            ),
            key=lambda one: one[:2],
        ):
            parts += [text[at:place], mark]
            begins.append(length + place - at + (mark[0] == " "))
            at, length = place, length + place - at + len(mark)
        return "".join([*parts, text[at:end]]), begins

    def decode(
        self,
        example: Example,
        windows: Sequence[Window],
        outputs: Sequence[Mapping[str, np.ndarray]],
        labels: Sequence[str],
    ) -> Prediction:
        """`relations`: list of `head`, `tail` (each `start`, `end`, `label`), `label` and `score` (its probability).

        outputs: `logits` (num_outputs,) of each window. A direction that the types do not allow is no answer.
        """
        pairs = self.pairs(example)
        return self._prediction(pairs, [np.asarray(output["logits"], dtype=float) for output in outputs], labels)

    def _prediction(
        self, pairs: Sequence[Pair], logits: Sequence[np.ndarray], labels: Sequence[str]
    ) -> Prediction:
        names = self.output_names(labels)
        relations = []
        for pair, row in zip(pairs, logits, strict=True):
            legal = [name == NO_RELATION or self._is_allowed(pair, name[:-1], name[-1]) for name in names]
            chances = softmax(np.where(legal, row, -np.inf))
            best = int(chances.argmax())
            if best:
                head, tail = (pair.first, pair.second) if names[best][-1] == ">" else (pair.second, pair.first)
                relations.append(
                    {
                        "head": dataclasses.asdict(head),
                        "tail": dataclasses.asdict(tail),
                        "label": names[best][:-1],
                        "score": float(chances[best]),
                    }
                )
        return {"relations": relations}

    def asked_example(self, text: str) -> Example:
        """A text in which of every fifty words the first two are entities."""
        words = [match.span() for match in re.finditer(r"\S+", text)]
        types = self._options.types[0] if self._options.types else ("entity", "entity")
        entities = (Entity(*span, types[side]) for side in (0, 1) for span in words[side::50])
        return Example("latency", text, entities=tuple(sorted(entities)))

    def reading_of_long_documents(self, how: LongDocuments) -> str:
        """The text around each pair is read, wherever it is."""
        return f"read around each pair of entities, up to {self._options.context_characters:,} characters each way"

    def outcomes(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """Right, predicted, gold, reachable gold; then right, predicted and gold of each label. Repeats count once."""
        rows = []
        for example, prediction in zip(examples, predictions, strict=True):
            gold = {self._scored(relation) for relation in example.gold}
            found = {self._scored(_relation(one)) for one in prediction["relations"]}
            reached = {self._scored(relation) for relation in self._reachable(example).values()}
            counted = (gold & found, found, gold)
            by_label = [sum(one.label == label for one in some) for label in labels for some in counted]
            rows.append([*map(len, counted), len(reached), *by_label])
        return np.array(rows, dtype=float)

    def _scored(self, relation: Relation) -> Relation:
        """The compared form of a relation: without the types of entities if the scorer is `strict_spans`."""
        relation = self._directed(relation)
        if self.task.scored_by == "strict":
            return relation
        head, tail = (dataclasses.replace(side, label="") for side in (relation.head, relation.tail))
        return Relation(head, tail, relation.label)

    def scores_of(self, outcomes: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """Nothing without one gold relation: neither recall nor F1 is defined then."""
        right, predicted, gold, reached = outcomes[:, :4].sum(axis=0)
        if not gold:
            return {}
        scores = {
            "f1": f1_of(right, predicted, gold),
            "precision": float(right / max(1, predicted)),
            "recall": float(right / gold),
            "reachable": float(reached / gold),
        }
        return {name: scores[name] for name in metrics or self.metrics}

    def label_counts(self, outcomes: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Each relation, counted strictly."""
        return outcomes[:, 4:].reshape(len(outcomes), -1, 3)

    def trivial(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """No relations."""
        return [{"relations": []} for _ in examples]

    def baseline(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """Logistic regression on both types and the words around and between, for each pair."""
        learned = [
            Example("", self._marked(example.text, pair)[0], labels=(self._output_of(relation),))
            for example in train
            for pair, relation in self._learned(example)
        ]
        pairs = [self.pairs(example) for example in examples]
        asked = [
            Example("", self._marked(example.text, pair)[0])
            for example, some in zip(examples, pairs, strict=True)
            for pair in some
        ]
        texts = [[(one.text, None) for one in some] for some in (learned, asked)]
        names = self.output_names(labels)
        chances = baselines.label_chances(learned, asked, texts, names, several=False) if asked else None
        if chances is None:
            return self.trivial(train, examples, labels)
        rows = iter(np.log(np.maximum(chances, 1e-12)))
        return [self._prediction(some, [next(rows) for _ in some], labels) for some in pairs]


class _Strict(Findings):
    """Findings on documents to answer, of which each mistake is a refusal."""

    def reject(self, reason: str, place: str, fix: str) -> None:
        raise CellError(reason, fix)


def _relation(given: Mapping[str, Any]) -> Relation:
    head, tail = (Entity(one["start"], one["end"], one["label"]) for one in (given["head"], given["tail"]))
    return Relation(head, tail, given["label"])


def _words(label: str) -> str:
    return label.replace("_", " ").lower()


def _around(
    tokenizer: "PreTrainedTokenizerBase",
    ids: Sequence[int],
    sides: Sequence[int | None],
    starts: Sequence[int],
    marks: Sequence[int],
    room: int,
) -> Window:
    """The window of a marked text: where it is too long, the tokens nearest to a mark, which is attended globally."""
    inner = [position for position, side in enumerate(sides) if side is not None]
    at = np.searchsorted([starts[position] for position in inner], marks, side="right") - 1
    anchors = {inner[max(0, place)] for place in at.tolist()}
    if len(inner) > room:
        nearest = sorted(inner, key=lambda position: (min(abs(position - one) for one in anchors), position))
        kept = set(nearest[:room])
        inner = [position for position in inner if position in kept]
    positions = sorted({*inner, *(position for position, side in enumerate(sides) if side is None)})
    first = classification_mask(tokenizer, list(ids))
    mask = [int(first[position] or position in anchors) for position in positions]
    return Window([ids[position] for position in positions], [None] * len(positions), mask).packed()
