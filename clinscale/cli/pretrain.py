"""`clinscale pretrain`: Ray Train + DeepSpeed masked-language pretraining."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinscale.cli.options import DEFAULT_HOME, Address, Home, Json, Overrides, TrackingUri, open_tracking
from clinscale.cli.output import Steps, emit, table

if TYPE_CHECKING:
    from clinscale.pretrain import PretrainResult


def pretrain(
    config: Annotated[
        str | None, typer.Argument(help="YAML file, or the first key.path=value when there is no file.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Name of a run to continue in HOME.")] = None,
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Pretrain a base model on a ShardSet and register it.

    Example: `clinscale pretrain name=lf recipe.shards=shards recipe.model.size=tiny recipe.duration=200steps`
    """
    from clinscale.pretrain import PretrainConfig, run_config
    from clinscale.pretrain import pretrain as run
    from clinscale.runtime import ray_session

    words = [word for word in [config, *(overrides or [])] if word]
    path = words.pop(0) if words and "=" not in words[0] else None
    if resume:
        path = str(run_config(home, resume))
    settings = PretrainConfig.load(path, words)
    tracking = open_tracking(tracking_uri, home)
    with (
        ray_session(address, num_cpus=None) as cluster,
        Steps(f"Pretraining {settings.name}", "starting workers") as steps,
    ):
        cluster.require(
            processes=settings.runtime.num_workers,
            cpus=settings.runtime.cpus_per_worker,
            gpus=settings.runtime.gpus_per_worker,
        )
        result = run(settings, tracking=tracking, home=home, on_progress=lambda *at: steps.update(*told(*at)))
    row = {**base_row(result), "path": str(result.folder)}
    emit(row, as_json=json, people=table("Base model", [row]))


def base_row(result: "PretrainResult") -> dict[str, Any]:
    """How a base model is shown, here and in the demo."""
    return {
        "name": result.version.name,
        "family": result.family,
        "version": result.version.version,
        "perplexity_before": result.perplexity_before,
        "perplexity_after": result.perplexity_after,
    }


def told(done: int, total: int, metrics: dict[str, float]) -> tuple[int, int, str]:
    """How progress is shown, here and in the demo: for `Steps.update`."""
    shown = [
        f"{name} {metrics[key]:.4g}"
        for key, name in (
            ("train/loss", "loss"),
            ("eval/perplexity", "perplexity"),
            ("perf/tokens_per_second", "tok/s"),
        )
        if key in metrics
    ]
    return done, total, ", ".join(shown)
