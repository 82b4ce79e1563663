"""`clinscale finetune`: one fine-tuning, test metrics once."""

from typing import Annotated

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, Overrides, TrackingUri, open_tracking
from clinscale.cli.output import Steps, emit, table


def finetune(
    task: Annotated[str, typer.Option("--task", help="Name in `clinscale tasks`, or the YAML file of your own.")],
    data: Annotated[str, typer.Option("--data", help="Folder of the task's files.")],
    model: Annotated[str, typer.Option("--model", help="Folder, registry name or hub name of the base model.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option("--name", help="Run name; the default is TASK-MODEL.")] = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Fine-tune one model on one task.

    Example: `clinscale finetune --task task.yaml --data . --model lf recipe.epochs=3 recipe.batch_size=8`
    """
    from clinscale import registry
    from clinscale.cli.names import default_name
    from clinscale.finetune import FinetuneConfig, run_finetune

    tracking = open_tracking(tracking_uri, home)
    base = registry.fetch_model(tracking, model, home=home)
    config = FinetuneConfig.load(
        None,
        overrides or [],
        base={
            "name": name or default_name(task, model),
            "task": task,
            "data": data,
            "recipe": {"model": base.path},
        },
    )
    with Steps(f"Fine-tuning {config.name}") as steps:
        result = run_finetune(
            config,
            tracking=tracking,
            home=home,
            on_progress=lambda at: steps.update(at["epoch"], config.recipe.epochs, f"loss {at['train/loss']:.4f}"),
        )
    rows = [
        {"metric": key, "test": value, "trivial": result.trivial.get(key, "")}
        for key, value in result.test.items()
    ]
    values = {
        "name": config.name,
        "path": str(result.folder),
        "metric": result.metric,
        "dev": result.dev,
        "test": result.test,
        "trivial": result.trivial,
    }
    emit(values, as_json=json, people=table(f"{config.name}: test scores", rows))
