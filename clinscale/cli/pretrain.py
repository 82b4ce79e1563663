"""`clinscale pretrain`: Ray Train + DeepSpeed masked-language pretraining, and the proof that it resumes exactly."""

import dataclasses
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from clinscale.cli.options import (
    DEFAULT_HOME,
    Address,
    Home,
    Json,
    Overrides,
    SharedWith,
    TrackingUri,
    open_home,
    open_tracking,
    paths_and_overrides,
    say_unused_gpus,
)
from clinscale.cli.output import Steps, emit, table
from clinscale.permissions import make_folder

if TYPE_CHECKING:
    from clinscale.pretrain import PretrainConfig, PretrainResult


class _RunByDefault(typer.core.TyperGroup):
    """`pretrain ...` is `pretrain run ...` unless another command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


app = typer.Typer(cls=_RunByDefault, help="Masked-language pretraining on Ray Train and DeepSpeed.")

Config = Annotated[
    str | None,
    typer.Argument(help="YAML file, a recipe of the package, or the first key.path=value when there is neither."),
]


@app.command()
def run(
    config: Config = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Name of a run to continue in HOME.")] = None,
    home: Home = DEFAULT_HOME,
    shared_with: SharedWith = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Pretrain a base model on a ShardSet and register it; the same name resumes, on any number of workers.

    Recipes of the package: `clinical-longformer`, `clinical-longformer-fast`, `clinical-bigbird`. `clinscale pretrain
    verify-resume` proves on your cluster that a killed run ends as the undisturbed one.

    Example: `clinscale pretrain name=lf recipe.shards=shards recipe.model.size=tiny recipe.duration=200steps`
    """
    open_home(home, shared_with)
    from clinscale.plan import check_launch
    from clinscale.pretrain import pretrain, run_config
    from clinscale.runtime import ray_session

    settings = settings_of(config, overrides, resumed=run_config(home, resume) if resume else None)
    if not address:  # workers will be on this machine
        check_launch(settings)
    tracking = open_tracking(tracking_uri, home)
    with (
        ray_session(address, num_cpus=None) as cluster,
        Steps(f"Pretraining {settings.name}", "starting workers") as steps,
    ):
        say_unused_gpus(cluster, settings.runtime.gpus_per_worker, "runtime.gpus_per_worker")
        result = pretrain(
            settings,
            tracking=tracking,
            home=home,
            on_progress=lambda *at: steps.update(*progress_of(*at)),
            on_event=steps.say,
        )
    row = {**base_row(result), "path": str(result.folder)}
    emit(row, as_json=json, people=table("Base model", [row]))


@app.command()
def verify_resume(
    config: Config = None,
    overrides: Overrides = None,
    stage: Annotated[
        list[int] | None, typer.Option("--stage", min=0, max=3, help="ZeRO stage; repeat. Default: the config's.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each run.")] = 12,
    checkpoint_every_steps: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 3,
    kills: Annotated[int, typer.Option(min=1, help="Workers killed with SIGKILL, at random steps.")] = 5,
    seed: Annotated[
        int | None, typer.Option(help="Of the steps to kill at; by default new ones each time.")
    ] = None,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    json: Json = False,
) -> None:
    """Train a few steps undisturbed, then again with workers killed at random; compare losses and weights bit by bit.

    Takes the config of the run that you are about to start, leaves nothing behind and exits 1 when anything differs.

    Example: `clinscale pretrain verify-resume lf.yaml --stage 0 --stage 1 --stage 2 --stage 3`
    """
    from clinscale.plan import check_launch
    from clinscale.pretrain import verify_resume as verify
    from clinscale.runtime import ray_session

    settings = settings_of(config, overrides)
    if not address:
        check_launch(settings)
    found = []
    make_folder(home)
    with ray_session(address, num_cpus=None), Steps("Verifying") as shown:
        for number in stage or [settings.runtime.zero.stage]:
            values = settings.plain()
            values["runtime"]["zero"]["stage"] = number
            # below HOME, because all workers must see it
            with tempfile.TemporaryDirectory(dir=home, prefix=".verify-resume-") as folder:
                found.append(
                    verify(
                        settings.parse(values, source="options"),
                        Path(folder),
                        steps=steps,
                        checkpoint_every_steps=checkpoint_every_steps,
                        kills=kills,
                        seed=random.randrange(2**32) if seed is None else seed,
                        on_event=lambda sentence, number=number: shown.say(f"ZeRO {number}: {sentence}"),  # type: ignore[misc]
                    )
                )
    rows = [dataclasses.asdict(one) for one in found]
    people = [
        {
            "ZeRO": one.stage,
            "workers": one.num_workers,
            "steps": one.steps,
            "killed at": ", ".join(map(str, one.killed_at)),
            "done again": one.replayed_steps,
            "most lost at once": one.most_lost_steps,
            "losses": "identical" if one.losses_identical else f"differ by {one.loss_difference:.3g}",
            "weights": "identical" if one.weights_identical else f"differ by {one.weight_difference:.3g}",
        }
        for one in found
    ]
    identical = all(one.identical for one in found)
    emit({"identical": identical, "runs": rows}, as_json=json, people=table("Killed against undisturbed", people))
    if not identical:
        raise typer.Exit(1)


def base_row(result: "PretrainResult") -> dict[str, Any]:
    """The row that shows a base model, here and in the demo."""
    from clinscale.pretrain import memorised

    row = {
        "name": result.version.name,
        "family": result.family,
        "version": result.version.version,
        "perplexity_before": result.perplexity_before,
        "perplexity_after": result.perplexity_after,
    }
    if result.exposures:
        row |= {"exposure_max": max(result.exposures), "memorised": memorised(result.exposures)}
    return row


def progress_of(done: int, total: int | None, metrics: dict[str, float]) -> tuple[int, int | None, str]:
    """Arguments of `Steps.update` that show progress, here, in the demo and in a study."""
    shown = [
        f"{name} {metrics[key]:{form}}"
        for key, name, form in (
            ("train/loss", "loss", ".4g"),
            ("train/skipped_loss", "skipped a spike of", ".4g"),
            ("eval/perplexity", "perplexity", ".4g"),
            ("perf/tokens_per_second", "tok/s", ",.0f"),
            ("perf/mfu", "MFU", ".1%"),
        )
        if key in metrics
    ]
    return done, total, ", ".join(shown)


def settings_of(
    config: str | None,
    overrides: list[str] | None,
    *,
    resumed: Path | None = None,
    base: Mapping[str, Any] | None = None,
) -> "PretrainConfig":
    """The config of the run that is resumed, or else of the YAML file or recipe that the first word may name."""
    from clinscale.pretrain import PretrainConfig

    words = [word for word in [config, *(overrides or [])] if word]
    if resumed is not None:
        return PretrainConfig.load(resumed, words)
    named, _ = paths_and_overrides(words[:1], PretrainConfig)
    return PretrainConfig.load(named[0] if named else None, words[len(named) :], base=base)
