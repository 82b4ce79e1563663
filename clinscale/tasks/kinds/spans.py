"""Kind spans: the answer to a question, copied from a text of any length; windows overlap after the question."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from clinscale.tasks.example import Answer, Example
from clinscale.tasks.kinds.kind import Kind, Prediction, Window
from clinscale.tasks.kinds.sequence import softmax
from clinscale.tasks.kinds.squad import exact_match, f1
from clinscale.tasks.kinds.windowing import overlapping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ANSWER = 0
"""The token whose start and end mean `not in this window`: the classification token, as in transformers."""


class SpansKind(Kind):
    """A question on a text; its answer is a span of the text, or none."""

    name = "spans"
    head: ClassVar[Literal["sequence", "tokens", "spans"]] = "spans"

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
    ) -> list[Window]:
        """Overlapping windows; targets are the first answer's first and last token where it lies within one."""
        windows = overlapping(
            tokenizer,
            example.text,
            question=self.second_text(example),
            max_tokens=max_tokens,
            stride_tokens=stride_tokens,
        )
        if train:
            for window in windows:
                place = _place(window, example.answers[0]) if example.answers else None
                start, end = place or (NO_ANSWER, NO_ANSWER)
                window.targets.update(start_positions=start, end_positions=end)
        return windows

    def decode(
        self,
        example: Example,
        windows: Sequence[Window],
        outputs: Sequence[Mapping[str, np.ndarray]],
        labels: Sequence[str],
    ) -> Prediction:
        """`answer`, its `start` and `end` characters (None: no answer), `score` (its probability in its window).

        outputs: `start_logits`, `end_logits` (tokens,). Windows are compared by how far their best span lies above
        their own `no answer`, because logits of two windows are on two scales.
        """
        best: tuple[float, int, int, float] | None = None  # margin, start, end, probability
        none_score = 1.0
        for window, output in zip(windows, outputs, strict=True):
            length = len(window.input_ids)
            logits = [np.asarray(output[f"{side}_logits"][:length], dtype=np.float64) for side in ("start", "end")]
            starts, ends = (_legal(window, side) for side in logits)
            chance = [
                softmax(np.where(np.arange(length) == NO_ANSWER, raw, legal))
                for raw, legal in zip(logits, (starts, ends), strict=True)
            ]
            none_score = min(none_score, float(chance[0][NO_ANSWER] * chance[1][NO_ANSWER]))
            span = _best_span(starts, ends, self.task.max_answer_tokens)
            if span is None:
                continue
            first, last = span
            margin = float(starts[first] + ends[last] - logits[0][NO_ANSWER] - logits[1][NO_ANSWER])
            if best is None or margin > best[0]:
                probability = float(chance[0][first] * chance[1][last])
                best = (margin, _offset(window, first)[0], _offset(window, last)[1], probability)
        if best is None or (self.task.unanswerable and best[0] <= 0):
            return {"answer": "", "start": None, "end": None, "score": none_score}
        _, start, end, score = best
        return {"answer": example.text[start:end], "start": start, "end": end, "score": score}

    def _scores(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], labels: Sequence[str]
    ) -> dict[str, float]:
        judged = [
            (prediction["answer"], [answer.text for answer in example.answers])
            for example, prediction in zip(examples, predictions, strict=True)
        ]
        return {
            "f1": float(np.mean([f1(answer, gold) for answer, gold in judged])),
            "exact_match": float(np.mean([exact_match(answer, gold) for answer, gold in judged])),
        }

    def trivial(
        self, train: Sequence[Example], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Prediction]:
        """No answer."""
        return [{"answer": "", "start": None, "end": None, "score": 1.0} for _ in examples]


def _offset(window: Window, position: int) -> tuple[int, int]:
    offset = window.offsets[position]
    assert offset is not None, "only text tokens are legal"
    return offset


def _place(window: Window, answer: Answer) -> tuple[int, int] | None:
    """First and last token of the answer; None where the window does not hold all of it."""
    visible = [
        (p, *_offset(window, p)) for p in window.text_positions if _offset(window, p)[0] < _offset(window, p)[1]
    ]
    inside = [position for position, start, end in visible if start < answer.end and end > answer.start]
    if not inside or visible[0][1] > answer.start or visible[-1][2] < answer.end:
        return None
    return inside[0], inside[-1]


def _legal(window: Window, logits: np.ndarray) -> np.ndarray:
    """The logits of visible text tokens, -inf elsewhere: an answer neither starts nor ends on white space."""
    visible = np.array([offset is not None and offset[0] < offset[1] for offset in window.offsets])
    return np.where(visible, logits, -np.inf)


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
