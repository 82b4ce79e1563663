"""`clinscale tasks`: the catalog, what a task finds in a folder, and whether a task of your own is in order."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import Json
from clinscale.cli.output import emit, table

if TYPE_CHECKING:
    from clinscale.tasks import TaskData

app = typer.Typer()

Changes = Annotated[
    list[str] | None, typer.Argument(help="Changes to the task: unit=line, options.criterion=creatinine_urine.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option("--model", help="HF folder or hub name whose tokenizer counts lengths; words without it."),
]
PLACES_SHOWN = 20

_NEAR, _LEAST_WORDS = 0.7, 25
"""Share of phrases that makes two texts versions of one, and words below which texts have them in common anyway."""
_MOST_CHARACTERS = 100_000_000
"""Text beyond which near copies are not looked for: this much takes about half a minute."""


@app.callback(invoke_without_command=True)
def tasks(context: typer.Context, json: Json = False) -> None:
    """List the tasks of the catalog; `show` one of them, or `check` your own.

    Example: `clinscale tasks`
    """
    if context.invoked_subcommand:
        return
    from clinscale.tasks import catalog, metric_of

    rows = [
        {"task": task.name, "kind": task.kind, "metric": metric_of(task), "about": task.about}
        for task in catalog().values()
    ]
    emit({"tasks": rows}, as_json=json, people=table("Tasks", rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name in the catalog, or the YAML file of your own task.")],
    changes: Changes = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Folder to read; without it, only the definition.")
    ] = None,
    model: Tokenizer = None,
    json: Json = False,
) -> None:
    """Show a task, every choice that it leaves open, and what `--data` holds: counts only, no text.

    Example: `clinscale tasks show tcga_organ --data path/to/reports`
    """
    from clinscale.tasks import (
        Findings,
        NoExamplesError,
        counts_of,
        load_task,
        metric_of,
        options_of,
        read_task,
        scores_equal,
    )

    task = load_task(name, changes or [])
    values: dict[str, Any] = {
        "task": task.name,
        "kind": task.kind,
        "about": task.about,
        "metric": metric_of(task),
        "scorer": task.scored_by or "scikit-learn",
        "scores_equal": scores_equal(task),
        "label_set": list(task.labels or ()),
        "options": options_of(task),
        "definition": task.plain(),
    }
    people = [table(f"Task {task.name}", _rows(values, leave_out=("options", "definition")))]
    if values["options"]:
        rows = [
            {"option": one["option"], "value": _chosen(one["value"], one["default"]), "why": one["why"]}
            for one in values["options"]
        ]
        people.append(table("Options (change one with options.NAME=VALUE, or kind_options.NAME=VALUE)", rows))
    if not data:
        emit(values, as_json=json, people=people)
        return
    findings = Findings(task.on_error)
    nothing_left: NoExamplesError | None = None
    try:
        read = read_task(task, data, findings=findings)
        found = {"metric": metric_of(read.task), **_surveyed(read, model)}
    except NoExamplesError as error:  # what was found, such as the exclusions of a cohort, is shown all the same
        nothing_left = error
        empty: dict[str, Any] = {"examples": {}, "labels": {}, "lengths": {}}
        found = {"documents": findings.found["documents"], **empty, **counts_of(findings), "error": str(error)}
    people.append(table(f"Found at {data}", _rows(found, leave_out=("task", "kind"))))
    emit(values | found, as_json=json, people=people)
    if nothing_left:
        raise nothing_left


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="YAML file of your own task, or a name in the catalog.")],
    changes: Changes = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Folder of the task's files; the YAML file's own by default.")
    ] = None,
    model: Tokenizer = None,
    json: Json = False,
) -> None:
    """Read a task to the end and report all that is wrong with its files, by file and position; no text.

    Exits with 2 when something is broken that the task does not skip.

    Example: `clinscale tasks check readmission.yaml --data notes`
    """
    from clinscale.errors import DataError
    from clinscale.tasks import Findings, NoExamplesError, counts_of, load_task, read_task

    task = load_task(file, changes or [])
    findings, nothing_left = Findings("skip"), ""
    try:
        found = _surveyed(read_task(task, data or str(Path(file).absolute().parent), findings=findings), model)
    except DataError as error:  # why nothing is left, or why that cannot be used, is what was asked
        if not (findings.places or isinstance(error, NoExamplesError)):
            raise
        nothing_left = str(error)
        found = {"documents": findings.found["documents"], **counts_of(findings), "error": nothing_left}
    problems = [
        {"what": reason, "where": place, "then": "repaired" if reason in findings.repaired else "rejected"}
        for reason, places in findings.places.items()
        for place in places
    ]
    refused = task.on_error == "raise" and any(problem["then"] == "rejected" for problem in problems)
    verdict = "refused: fix what is rejected, or set on_error: skip" if refused else nothing_left or "in order"
    people = [table(f"Task {task.name}: {verdict}", _rows(found, leave_out=("task", "kind")))]
    if problems:
        shown = problems[:PLACES_SHOWN]
        people.append(table(f"{len(shown)} of {len(problems)} places (all of them with --json)", shown))
    if findings.fixes:
        fixes = [{"what": reason, "fix": fix} for reason, fix in findings.fixes.items()]
        people.append(table("What to do about what is rejected", fixes))
    in_order = not (refused or nothing_left)
    values = {**found, "in_order": in_order, "problems": problems, "fixes": findings.fixes}
    emit(values, as_json=json, people=people)
    if not in_order:
        raise typer.Exit(2)


@app.command()
def baseline(
    name: Annotated[str, typer.Argument(help="Name in the catalog, or the YAML file of your own task.")],
    changes: Changes = None,
    data: Annotated[str, typer.Option("--data", help="Folder of the task's files.")] = ".",
    json: Json = False,
) -> None:
    """Test scores without a neural model: not reading at all, and a linear model that takes minutes on a CPU.

    Example: `clinscale tasks baseline tcga_organ --data path/to/reports`
    """
    from clinscale.tasks import baseline_outcomes, classical, estimate, kind_of, load_task, read_task, trivial

    read = read_task(load_task(name, changes or []), data)
    kind = kind_of(read.task)
    rows = []
    for which, predict in (("trivial", trivial), ("classical", classical)):
        outcomes = baseline_outcomes(read, predict)
        score = estimate(outcomes)
        found = {"low": score.low, "high": score.high, **outcomes.scores()}
        rows.append({"baseline": which, kind.metric: score.value, **found})
    values = {
        "task": read.task.name,
        "metric": kind.metric,
        "test_examples": len(read.splits["test"]),
        "baselines": rows,
    }
    emit(values, as_json=json, people=table(f"{read.task.name}: test scores without a neural model", rows))


def _surveyed(read: "TaskData", model: str | None) -> dict[str, Any]:
    from clinscale.tasks import survey

    read.findings.remarks += _near_copies(read)
    if model is None:
        return survey(read)
    from clinscale.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(model)
    return survey(read, lambda text: len(tokenizer(text, verbose=False)["input_ids"]))


def _near_copies(read: "TaskData") -> list[str]:
    """Remarks on texts of dev and test that are nearly those of an earlier split: corrected, continued, templates."""
    from clinscale.corpus import NearDuplicatesConfig, near_earlier

    sides = {
        split: {one.text for one in examples if not one.is_part and len(one.text.split()) >= _LEAST_WORDS}
        for split, examples in read.splits.items()
    }
    if (characters := sum(len(text) for texts in sides.values() for text in texts)) > _MOST_CHARACTERS:
        return [f"near copies between splits were not looked for in {characters:,} characters, which takes long"]
    near = near_earlier(list(sides.values()), NearDuplicatesConfig(threshold=_NEAR))
    return [
        f"{number:,} of {len(texts):,} texts of {split} share about {_NEAR:.0%} or more of their phrases with one of "
        "an earlier split: are they versions of one note, or of one patient?"
        for (split, texts), number in zip(sides.items(), near, strict=True)
        if number
    ]


def _rows(values: Mapping[str, Any], *, leave_out: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"what": key, "value": _lines(value)} for key, value in values.items() if key not in leave_out]


def _chosen(value: Any, default: Any) -> str:
    shown = _lines(value)
    return shown if value == default else f"{shown}\n(default: {_lines(default)})"


def _lines(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [
            f"{key}: {number:,}" if isinstance(number, int) else f"{key}: {number}"
            for key, number in value.items()
        ]
    return ("\n".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
