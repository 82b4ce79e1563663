"""SQuAD JSON, version 1.1 and 2: questions on contexts, answers by character offset."""

from collections import Counter
from typing import Any

from clinscale.errors import DataError
from clinscale.records import list_files
from clinscale.storage import read_json
from clinscale.tasks.example import Answer, Example
from clinscale.tasks.readers.align import locate
from clinscale.tasks.task import TaskConfig


def read_squad(task: TaskConfig, path: str, counts: Counter[str]) -> list[Example]:
    """One example per question. Adds to counts: `questions`, `repaired`, `rejected`, `unanswerable`, `empty`.

    An answer is stripped of white space and looked for within a few characters of its offset: found elsewhere it
    is repaired, not found it is rejected; a question all of whose answers were rejected is left out.

    Raises:
        DataError: the file does not have SQuAD's layout.
    """
    examples = []
    for file in list_files(path, (".json",)):
        for context, question, fields in _questions(file):
            place = f"{file} question {fields['id']}"
            counts["questions"] += 1
            if not context.strip() or not question.strip():
                if task.on_empty == "raise":
                    raise DataError(f"{place} has an empty context or question; fill it, or set on_empty: skip")
                counts["empty"] += 1
                continue
            answers = _answers(context, fields, counts, place)
            if answers is None:
                continue
            if not answers:
                counts["unanswerable"] += 1
                if not task.unanswerable:
                    continue
            examples.append(Example(str(fields["id"]), context, question, answers=answers))
    return examples


def _questions(file: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(context, question, the question's other fields) of the whole file; an `id` is there."""
    questions = []
    try:
        for article in read_json(file)["data"]:
            for paragraph in article["paragraphs"]:
                for fields in paragraph["qas"]:
                    questions.append(
                        (str(paragraph["context"]), str(fields["question"]), {"id": fields["id"], **fields})
                    )
    except (KeyError, TypeError):
        raise DataError(
            f"{file} is not SQuAD JSON: data[].paragraphs[] with context and qas[] of id and question; convert it"
        ) from None
    return questions


def _answers(
    context: str, question: dict[str, Any], counts: Counter[str], place: str
) -> tuple[Answer, ...] | None:
    """The located answers; none when the question has none, None when all of them had to be rejected."""
    given = [] if question.get("is_impossible") else question.get("answers") or []
    found: list[Answer] = []
    for answer in given:
        try:
            surface, start = str(answer["text"]).strip(), int(answer["answer_start"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{place}: an answer needs text and a whole number answer_start; correct it") from None
        at = locate(context, surface, start) if surface else None
        if at is None:
            counts["rejected"] += 1
            continue
        stated = context[start : start + len(str(answer["text"]))]
        counts["repaired"] += start < 0 or stated != str(answer["text"])
        found.append(Answer(at, context[at : at + len(surface)]))
    return None if given and not found else tuple(dict.fromkeys(found))
