"""Kind spans: the answer to a question, copied from a text of any length; windows overlap after the question."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from clinscale.cells import CellError, as_truth, is_missing
from clinscale.errors import DataError
from clinscale.records import Record
from clinscale.tasks.example import Answer, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.kinds import baselines
from clinscale.tasks.kinds.answer_scorers import ANSWER_SCORERS
from clinscale.tasks.kinds.kind import Kind, LongDocuments, Prediction, Window, column
from clinscale.tasks.kinds.sequence import softmax
from clinscale.tasks.kinds.windowing import overlapping
from clinscale.tasks.readers.marks import from_json
from clinscale.tasks.readers.squad import ANSWERED_IMPOSSIBLE, NOT_ANSWERED, answers_of, is_asked
from clinscale.tasks.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ANSWER = 0
"""The token whose start and end mean `not in this window`: the classification token, as in transformers."""


class SpansKind(Kind):
    """A question on a text; its answer is a span of the text, or none."""

    name = "spans"
    formats = ("records", "squad")
    scorers = tuple(ANSWER_SCORERS)
    earlier_scorer = "squad_v1"
    needs = "question"
    second_text_column = "question"
    example_is_document = False
    output_columns = (
        column("answer", "string"),
        column("start", "long", required=False),
        column("end", "long", required=False),
        column("score", "double"),
    )
    input_columns = (column("text_pair", "string"),)
    input_example: ClassVar = {"text_pair": "What dose of metoprolol was given?"}
    head: ClassVar[Literal["sequence", "tokens", "spans"]] = "spans"

    @classmethod
    def default_scorer(cls, task: TaskConfig) -> str:
        """SQuAD 2.0's; without `no answer` SQuAD 1.1's."""
        return "squad_v2" if task.unanswerable else "squad_v1"

    @property
    def scores_equal(self) -> str:
        """The script whose rules compare the answers."""
        assert self.task.scored_by is not None
        return ANSWER_SCORERS[self.task.scored_by].about

    @property
    def metrics(self) -> tuple[str, ...]:
        """SQuAD's word overlap and equality, as shares."""
        return ("f1", "exact_match")

    @property
    def default_metric(self) -> str:
        """SQuAD F1."""
        return "f1"

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Start and end."""
        return ("start", "end")

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
        """Overlapping windows; targets are the first answer's first and last token.

        In a window that shows only one end of the answer, the other target is `no answer`. In training a token that
        reaches over an end of that answer is cut there, so that the answer is learned as it is.
        """
        answer = example.answers[0] if train and example.answers else None
        windows = overlapping(
            tokenizer,
            example.text,
            question=self.second_text(example),
            max_tokens=max_tokens,
            stride_tokens=stride_tokens,
            cuts=(answer.start, answer.end) if answer else (),
        )
        if train:
            for window in windows:
                start, end = _ends(window, answer) if answer else (NO_ANSWER, NO_ANSWER)
                window.targets.update(start_positions=start, end_positions=end)
        return windows

    def decode(
        self,
        example: Example,
        windows: Sequence[Window],
        outputs: Sequence[Mapping[str, np.ndarray]],
        labels: Sequence[str],
    ) -> Prediction:
        """`answer`, its `start` and `end` characters (None: no answer), `score` (probability of its two ends).

        outputs: `start_logits`, `end_logits` (tokens,). A token is judged by how far it is above its own window's `no
        answer`, because logits of two windows are on two scales, and by the window that likes it best. So an answer
        may begin in one window and end in the next.
        """
        tokens = max(window.first_token + len(window.text_positions) for window in windows)
        margins = np.full((2, tokens), -np.inf)
        chances = np.zeros((2, tokens))
        offsets = np.zeros((tokens, 2), dtype=int)
        none_score = 1.0
        for window, output in zip(windows, outputs, strict=True):
            positions = window.text_positions
            here = slice(window.first_token, window.first_token + len(positions))
            offsets[here] = np.array([_offset(window, position) for position in positions], dtype=int).reshape(
                -1, 2
            )
            visible = offsets[here, 0] < offsets[here, 1]  # an answer neither starts nor ends on white space
            none = 1.0
            for side, name in enumerate(("start_logits", "end_logits")):
                logits = np.asarray(output[name], dtype=np.float64)[[NO_ANSWER, *positions]]
                logits[1:][~visible] = -np.inf
                chance = softmax(logits)
                none *= float(chance[0])
                better = logits[1:] - logits[0] > margins[side, here]
                margins[side, here][better] = (logits[1:] - logits[0])[better]
                chances[side, here][better] = chance[1:][better]
            none_score = min(none_score, none)
        span = _best_span(margins[0], margins[1], self.task.max_answer_tokens)
        if span is None or (self.task.unanswerable and margins[0, span[0]] + margins[1, span[1]] <= 0):
            return {"answer": "", "start": None, "end": None, "score": none_score}
        first, last = span
        start, end = int(offsets[first, 0]), int(offsets[last, 1])
        score = float(chances[0, first] * chances[1, last])
        return {"answer": example.text[start:end], "start": start, "end": end, "score": score}

    def outcomes(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> np.ndarray:
        """F1 and exact match of each question, by the task's scorer."""
        assert self.task.scored_by is not None
        measure = ANSWER_SCORERS[self.task.scored_by].measure
        return np.array(
            [
                measure(prediction["answer"], [answer.text for answer in example.answers])
                for example, prediction in zip(examples, predictions, strict=True)
            ]
        )

    def scores_of(self, outcomes: np.ndarray, metrics: Sequence[str] | None = None) -> dict[str, float]:
        """Means over questions."""
        means = dict(zip(self.metrics, outcomes.mean(axis=0).tolist(), strict=True))
        return {name: means[name] for name in metrics or self.metrics}

    def trivial(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """No answer."""
        return [{"answer": "", "start": None, "end": None, "score": 1.0} for _ in examples]

    def baseline(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """The sentence most like the question."""
        return baselines.likely_sentences(train, examples) or self.trivial(train, examples, labels)

    @property
    def gold_columns(self) -> tuple[str, ...]:
        """The answers."""
        return (self.task.columns.answers,)

    def read_gold(self, record: Record, text: str, findings: Findings) -> dict[str, Any] | None:
        """The answers of a row; None for a question that is left out."""
        given = _given_answers(record, self.task.columns.answers)
        marked = not is_missing(record.value("is_impossible"))
        if marked and record.read(as_truth, "is_impossible") == bool(given):
            raise CellError(ANSWERED_IMPOSSIBLE if given else NOT_ANSWERED, "correct its answers or is_impossible")
        answers = answers_of(text, given, record.place, findings)
        return {"answers": answers} if is_asked(self.task, given, answers, findings) else None

    def report(self, splits: Mapping[str, Sequence[Example]], findings: Findings) -> None:
        """Remark on questions whose answers are all longer than any that is given, and on those with two gold answers.

        Of a public release on the first alone, as it is what it is.
        """
        most = self.task.max_answer_tokens
        asked = [one for examples in splits.values() for one in examples if one.answers]
        long = sum(all(len(answer.text.split()) > most for answer in one.answers) for one in asked)
        if long:
            findings.remark(
                f"{long:,} of {len(asked):,} questions have no answer of at most {most:,} words, and so many tokens "
                "are the most that is answered: raise max_answer_tokens"
            )
        answers = defaultdict(set)
        for one in (one for examples in splits.values() for one in examples):
            answers[one.text, one.text_pair].add(frozenset(one.answers))
        disputed = sum(len(given) > 1 for given in answers.values())
        if disputed and self.task.format in self.formats:
            findings.remark(
                f"{disputed:,} questions have other answers in one place than in another, on the same text: give all "
                "answers to a question together"
            )

    def check_split(self, examples: Sequence[Example], place: str) -> None:
        """Refuse a split without an answer."""
        if not any(example.answers for example in examples):
            raise DataError(
                f"task {self.task.name}: no question of {place} has an answer; is it a test set whose "
                "answers are held back? Give the one with answers"
            )


def _given_answers(record: Record, name: str) -> list[dict[str, Any]]:
    """SQuAD's answers as HF datasets hold them (an object of lists), or as a list of objects."""
    given = record.value(name)
    if isinstance(given, str):  # a column of JSON in a CSV
        given = from_json(given, name)
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise CellError(f"column {name!r} must hold text and answer_start of equal length", "correct the row")
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(given, list):
        raise CellError(
            f"column {name!r} must be a list of answers", "correct the row; one without answer has an empty list"
        )
    return [answer if isinstance(answer, dict) else {} for answer in given]


def _offset(window: Window, position: int) -> tuple[int, int]:
    offset = window.offsets[position]
    assert offset is not None, "only text tokens are legal"
    return offset


def _ends(window: Window, answer: Answer) -> tuple[int, int]:
    """Positions of the answer's first and last token; NO_ANSWER for one that the window does not show."""
    visible = [
        (p, *_offset(window, p)) for p in window.text_positions if _offset(window, p)[0] < _offset(window, p)[1]
    ]
    inside = [position for position, start, end in visible if start < answer.end and end > answer.start]
    if not inside:
        return NO_ANSWER, NO_ANSWER
    starts_here, ends_here = visible[0][1] <= answer.start, visible[-1][2] >= answer.end
    return inside[0] if starts_here else NO_ANSWER, inside[-1] if ends_here else NO_ANSWER


def _best_span(starts: np.ndarray, ends: np.ndarray, max_tokens: int) -> tuple[int, int] | None:
    """(first, last) with the highest sum, first <= last, at most `max_tokens` long; exact, not a beam."""
    padded = np.concatenate([np.full(max_tokens - 1, -np.inf), starts])
    reachable = np.lib.stride_tricks.sliding_window_view(padded, max_tokens)  # row t: starts of t-max+1 .. t
    best = reachable.argmax(axis=1)
    sums = reachable[np.arange(len(ends)), best] + ends
    last = int(sums.argmax())
    if not np.isfinite(sums[last]):
        return None
    return last - (max_tokens - 1) + int(best[last]), last
