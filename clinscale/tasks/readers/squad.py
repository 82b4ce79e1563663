"""SQuAD JSON, version 1.1 and 2: questions on contexts, answers by character offset."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clinscale.cells import CellError, as_id, as_text, as_truth, as_whole_number, is_missing, is_short_name
from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import read_json
from clinscale.tasks.example import Answer, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import NOT_THERE, OFF, Mark, Span, locate
from clinscale.tasks.task import TaskConfig

NO_ANSWER = "question without an answer"
ANSWERED_IMPOSSIBLE = "question with answers that is marked impossible"
NOT_ANSWERED = "question without answers that is not marked impossible"


def read_squad(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """One example per question. Finds `questions`, `contexts`, `unanswerable`.

    For answers whose offset is off see `answers_of`. Left out are a question all of whose answers were rejected, one
    without text, and one that neither has answers nor is marked impossible (they may be held back), or both.

    Raises:
        DataError: the file does not have SQuAD's layout.
    """
    examples = []
    for file in list_files(path, (".json",)):
        contexts = set()
        for context, asked in itertools.groupby(questions(file, task.encoding), key=lambda question: question[1]):
            contexts.add(context)
            kept = [one for one in asked if _is_complete(*one, file, findings)]
            given = [(_given_answers(fields), place_of(file, name)) for name, _, _, fields in kept]
            for (name, _, question, _), (stated, _), answers in zip(
                kept, given, answers_of_questions(context, given, findings), strict=True
            ):
                if answers or is_asked(task, stated, answers, findings):
                    examples.append(Example(name, context, question, answers=answers))
        findings.find("contexts", len(contexts))
    return examples


def _is_complete(
    name: str, context: str, question: str, fields: Mapping[str, Any], file: str, findings: Findings
) -> bool:
    """Whether a question has all that it needs; if not it is rejected."""
    findings.find("questions")
    place = place_of(file, name)
    if not name:
        findings.reject("question without an id", f"{file} question {findings.found['questions']}", "give it one")
        return False
    if not context or context.isspace() or not question.strip():  # a strip would copy each context
        findings.reject("empty context or question", place, "fill it")
        return False
    try:
        given = fields.get("is_impossible")
        impossible = not is_missing(given) and as_truth(given, "is_impossible")
    except CellError as error:
        findings.reject(error.reason, place, error.fix)
        return False
    if impossible and fields.get("answers"):
        findings.reject(ANSWERED_IMPOSSIBLE, place, "remove the one or the other")
        return False
    if not impossible and not fields.get("answers"):
        findings.reject(NOT_ANSWERED, place, "give its answers, or is_impossible: true where there is none")
        return False
    return True


def place_of(file: str, name: str) -> str:
    """The place of a question for findings, with its id where that is surely none of the text."""
    return f"{file} question {name if is_short_name(name) else 'whose id is no short name'}"


def _given_answers(fields: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    given = fields.get("answers") or ()
    return given if isinstance(given, list | tuple) else [{}]


def answers_of(
    context: str, given: Iterable[Mapping[str, Any]], place: str, findings: Findings
) -> tuple[Answer, ...]:
    """The answers to one question where they are in the text: stripped, each once.

    A mark that is elsewhere than its offset says is found by `locate` and counted; what is not there is rejected.
    """
    return answers_of_questions(context, [(given, place)], findings)[0]


def answers_of_questions(
    context: str, asked: Iterable[tuple[Iterable[Mapping[str, Any]], str]], findings: Findings
) -> list[tuple[Answer, ...]]:
    """The same for all questions on one text, each with its place: their offsets are wrong together."""
    marks = [[mark for answer in given if (mark := _mark(answer, place, findings))] for given, place in asked]
    spans = iter(locate(context, [mark for of_one in marks for mark in of_one]))
    return [_answers(context, of_one, spans, findings) for of_one in marks]


def _mark(answer: Mapping[str, Any], place: str, findings: Findings) -> Mark | None:
    """The mark that an answer states; None when it was rejected."""
    try:
        stated, start = answer["text"], as_whole_number(answer["answer_start"], "answer_start")
    except (KeyError, TypeError, CellError):
        stated, start = None, None
    if start is None or not isinstance(stated, str | int | float):
        findings.reject("answer without text and a whole number answer_start", place, "correct the answer")
        return None
    return Mark("", start, start + len(str(stated)), str(stated), place)


def _answers(
    context: str, marks: Iterable[Mark], spans: Iterator[Span | None], findings: Findings
) -> tuple[Answer, ...]:
    found: dict[Answer, None] = {}
    for mark in marks:
        span = next(spans)
        if span is None:
            findings.reject(NOT_THERE, mark.place, "correct the answer")
            continue
        if span.is_moved or not context.startswith(mark.surface or "", mark.start):
            findings.repair(OFF, mark.place)
        found[Answer(span.start, context[span.start : span.end])] = None
    return tuple(found)


def is_asked(task: TaskConfig, given: Iterable[Any], answers: tuple[Answer, ...], findings: Findings) -> bool:
    """Whether a question stays: not when its answers were all rejected, nor without one where the task wants one."""
    if answers:
        return True
    if any(True for _ in given):
        return False
    findings.find("unanswerable")
    if not task.unanswerable:
        findings.leave_out(NO_ANSWER)
    return task.unanswerable


def questions(file: str, encoding: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Id, context and question, each empty where it is missing, and the fields that hold the rest."""
    try:
        for article in read_json(file, encoding)["data"]:
            for paragraph in article["paragraphs"]:
                context = _text_at(paragraph, "context")
                for fields in paragraph["qas"]:
                    yield as_id(fields["id"], "id") or "", context, _text_at(fields, "question"), fields
    except (KeyError, TypeError, AttributeError, CellError):
        raise DataError(
            f"{file} is not SQuAD JSON: data[].paragraphs[] with context and qas[] of id and question; convert it"
        ) from None


def _text_at(fields: Mapping[str, Any], key: str) -> str:
    """The text at a key, which must be there; empty where it is missing, as a table's blank cell is."""
    return as_text(fields[key], key) or ""
