"""`clinscale tasks`: the catalog, and what a task finds in a folder."""

import collections
from typing import Annotated, Any

import typer

from clinscale.cli.options import Json
from clinscale.cli.output import emit, table

app = typer.Typer()


@app.callback(invoke_without_command=True)
def tasks(context: typer.Context, json: Json = False) -> None:
    """List the tasks of the catalog; `show` one of them, or your own.

    Example: `clinscale tasks`
    """
    if context.invoked_subcommand:
        return
    from clinscale.tasks import catalog, metric_of

    rows = [{"task": task.name, "kind": task.kind, "metric": metric_of(task)} for task in catalog().values()]
    emit({"tasks": rows}, as_json=json, people=table("Tasks", rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name in the catalog, or the YAML file of your own task.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Folder to read; without it, only the definition.")
    ] = None,
    json: Json = False,
) -> None:
    """What a task is, and what is found at PATH: counts only, no text.

    Example: `clinscale tasks show tcga_organ --data path/to/reports`
    """
    from clinscale.tasks import load_task, read_task

    task = load_task(name)
    values: dict[str, Any] = {"task": task.name, "kind": task.kind, "definition": task.plain()}
    if data:
        found = read_task(task, data)
        examples = {split: len(members) for split, members in found.splits.items()}
        labels = collections.Counter(
            label
            for members in found.splits.values()
            for example in members
            for label in (*example.labels, *(entity.label for entity in example.entities))
        )
        values |= {"examples": examples, "labels": dict(labels), "counts": found.counts, "data": found.fingerprint}
    rows = [{"what": key, "value": value} for key, value in values.items()]
    emit(values, as_json=json, people=table(f"Task {task.name}", rows))
