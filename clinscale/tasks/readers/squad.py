"""SQuAD JSON, version 1.1 and 2: questions on contexts, answers by character offset."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import read_json
from clinscale.tasks.example import Answer, Example
from clinscale.tasks.findings import Findings
from clinscale.tasks.readers.align import INSIDE_WORD, NOT_THERE, OFF, locate, whole_words
from clinscale.tasks.task import TaskConfig

NO_ANSWER = "question without an answer"


def read_squad(task: TaskConfig, path: str, findings: Findings) -> list[Example]:
    """One example per question. Finds `questions`, `contexts`, `unanswerable`.

    For answers whose offset is off see `answers_of`; a question all of whose answers were rejected is left out, and
    so is one without text.

    Raises:
        DataError: the file does not have SQuAD's layout.
    """
    examples = []
    for file in list_files(path, (".json",)):
        contexts = set()
        for name, context, question, fields in _questions(file):
            contexts.add(context)
            findings.find("questions")
            place = f"{file} question {name}"
            if not context or context.isspace() or not question.strip():  # a strip would copy each context
                findings.reject("empty context or question", place, "fill it")
                continue
            given = () if fields.get("is_impossible") else fields.get("answers") or ()
            answers = answers_of(context, given, place, findings)
            if answers or is_asked(task, given, answers, findings):
                examples.append(Example(name, context, question, answers=answers))
        findings.find("contexts", len(contexts))
    return examples


def answers_of(
    context: str, given: Iterable[Mapping[str, Any]], place: str, findings: Findings
) -> tuple[Answer, ...]:
    """The answers where they stand in the text: stripped, in whole words, each once.

    An answer near its offset is repaired, one that is not there is rejected.
    """
    found: list[Answer] = []
    for answer in given:
        try:
            stated, start = str(answer["text"]), int(answer["answer_start"])
        except (KeyError, TypeError, ValueError):
            findings.reject("answer without text and a whole number answer_start", place, "correct the answer")
            continue
        surface = stated.strip()
        at = locate(context, surface, start) if surface else None
        if at is None:
            findings.reject(NOT_THERE, place, "correct the answer")
            continue
        if start < 0 or not context.startswith(stated, start):
            findings.repair(OFF, place)
        start, end = whole_words(context, at, at + len(surface))
        if end - start > len(surface):
            findings.repair(INSIDE_WORD, place)
        whole = Answer(start, context[start:end])
        if whole not in found:
            found.append(whole)
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


def _questions(file: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Id, context, question, and the fields that hold the rest."""
    try:
        for article in read_json(file)["data"]:
            for paragraph in article["paragraphs"]:
                for fields in paragraph["qas"]:
                    yield str(fields["id"]), str(paragraph["context"]), str(fields["question"]), fields
    except (KeyError, TypeError):
        raise DataError(
            f"{file} is not SQuAD JSON: data[].paragraphs[] with context and qas[] of id and question; convert it"
        ) from None
