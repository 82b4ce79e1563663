"""`clinscale bench recipe`: tokens and device-seconds until the held-out loss that the paper's recipe ends with."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clinscale import corpus, runtime, storage
from clinscale.bench.measure import surroundings
from clinscale.bench.recipe.levers import PAPER, Lever, chosen_levers
from clinscale.bench.recipe.results import LeverResult, RecipeRecord, SeedResult
from clinscale.bench.recipe.run import Evaluation, Goal, Run, run_settings, train_to_loss
from clinscale.config import check_last_seed, differences
from clinscale.errors import ConfigError, DataError
from clinscale.pretrain import PretrainConfig, worker_task

_ASKED_TOKENS = 1.5
_DEVICES = ("cpu", "cuda")


def bench_recipe(
    config: PretrainConfig,
    *,
    levers: Sequence[str],
    together: Sequence[str] = (),
    seeds: int = 3,
    device: str = "cpu",
    record: str | Path | None = None,
    on_progress: Callable[[str], None] = lambda name: None,
) -> RecipeRecord:
    """Cost to the paper's loss, by lever: the paper's tokens and device-seconds over those of each lever.

    `config` is the paper's recipe at this size. Under each seed it is trained for its duration, and the held-out loss
    that it ends with is to be reached. Each lever then starts from the same weights, reads the same rows in the same
    order, and is trained by the same loop (`pretrain.train_worker`, one process) until an evaluation shows that loss
    or the paper's steps are used up. Held-out rows are masked by the paper's rule whatever the lever does.

    **Schedule.** A lever has the paper's number of steps and, unless it overrides it, the paper's learning-rate
    schedule over them. One that gets there early does so at a rate that has not fallen yet. A run that is planned for
    so many steps is another one: its rate is lower all the way, and it may not get there.

    **Interval.** The loss is known at every `runtime.evaluate_every_steps` only. The crossing is set by linear
    interpolation between the last evaluation above the loss and the first that is not, for the paper's run too: a
    lever that changes nothing has a ratio of exactly 1. As a loss curve sags below that line, crossings are dated
    late rather than early.

    **Not reached** is said with the loss where the lever ended, and nothing is extrapolated; a lever that got there
    under some seeds only has no ratio.

    Device-seconds are those of training steps, without evaluations and starts. Runs follow each other, so the load of
    the machine beside each is in the record.

    Args:
        config: the paper's run; name and group of workers count for nothing here.
        levers: names of `LEVERS`, or `NAME: recipe.key=value ...`.
        together: combinations as `NAME+NAME`; none is all levers at once.
        seeds: so many, from `recipe.seed` on: of initialisation, order, masks and dropout.
        device: `cpu`, in as many threads as torch has here, or `cuda`.
        record: folder in which each run is kept as it ends; what is there already is not trained again.
        on_progress: takes a sentence at each evaluation.

    Raises:
        ConfigError: a lever changes more than training, evaluations are too rare, or `record` holds other runs.
        DataError: the paper's recipe does not lower the loss, or a loss is no number.
        ClinscaleError: a lever does not start where the paper's recipe does.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}; 3 is usual")
    first = config.recipe.seed
    check_last_seed(first, seeds, of="seeds")
    _check_device(device)
    before = surroundings("recipe", device)
    config = run_settings(config, seed=first, device=device)
    paper, *chosen = Lever(PAPER, ()), *chosen_levers(levers, together)
    plan = {lever: lever.config(config) for lever in (paper, *chosen)}
    shards = corpus.open_shards(config.recipe.shards)
    found: dict[Lever, list[SeedResult]] = {lever: [] for lever in chosen}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        _check_steps(plan, paper, shards, Path(scratch))
        stack.enter_context(runtime.fork_session("clinscale.engine.preload", "clinscale.pretrain", num_cpus=1))
        runs = _Runs(str(record or scratch), shards, on_progress)
        for seed in range(first, first + seeds):
            settings = {lever: run_settings(plan[lever], seed=seed, device=device) for lever in plan}
            goal, papers = runs.of_paper(settings[paper])
            for lever in chosen:
                run = runs.get(lever.name, settings[lever], goal)
                found[lever].append(SeedResult(seed, papers, run.reached(goal.end_loss), run.last, run.load))
    results = tuple(LeverResult(lever, tuple(seeds)) for lever, seeds in found.items())
    ratios = {
        f"{result.lever.name}_{cost}": figure
        for result in results
        for cost, asked in (("tokens", _ASKED_TOKENS), ("device_s", None))
        if (figure := result.ratio(cost, asked)) is not None
    }
    details = {"recipe": config.recipe.plain(), "runtime": config.runtime.plain(), "shards": shards.fingerprint}
    return RecipeRecord(surroundings=before, ratios=ratios, levers=results, details=details)


class _Runs:
    """The runs of one bench: each is trained once, and found again in the folder of the record."""

    def __init__(self, folder: str, shards: corpus.ShardSet, on_progress: Callable[[str], None]) -> None:
        self._folder, self._shards, self._on_progress = folder, shards, on_progress
        self._threads = torch.get_num_threads()

    def of_paper(self, config: PretrainConfig) -> tuple[Goal, Evaluation]:
        """The loss to reach, and the point at which the paper's recipe first had it."""
        run = self.get(PAPER, config, None)
        goal = Goal(run.evaluations[0].loss, run.last.loss)
        reached = run.reached(goal.end_loss) if goal.end_loss < goal.start_loss else None
        if reached is None:
            raise DataError(
                f"the paper's recipe must lower the held-out loss within {run.last.step} steps, and went from "
                f"{goal.start_loss:.4f} to {goal.end_loss:.4f}; raise recipe.duration or "
                "recipe.optimizer.learning_rate"
            )
        return goal, reached

    def get(self, name: str, config: PretrainConfig, goal: Goal | None) -> Run:
        """The run of that name under the config's seed."""
        path = storage.join(self._folder, f"{name}-seed-{config.recipe.seed}.json")
        asked = {
            "recipe": config.recipe.plain() | {"shards": self._shards.fingerprint},
            "runtime": config.runtime.plain(),
            "threads": self._threads,
            "goal": asdict(goal) if goal else None,
        }
        if storage.exists(path):
            run = _read(path, asked)
        else:
            run = train_to_loss(config, name=name, goal=goal, threads=self._threads, on_progress=self._on_progress)
            storage.write_json(path, {"asked": asked, "run": run.plain()})
        return run


def _read(path: str, asked: Mapping[str, Any]) -> Run:
    """The run that is kept at `path`; ConfigError when it is not the one that is asked for."""
    values = storage.read_json(path)
    try:
        kept, run = values["asked"], Run.parse(values["run"])
        changed = differences(kept, asked)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise DataError(f"{path} holds no run of this bench; remove it, and it is trained again") from None
    if changed:
        raise ConfigError(
            f"{path} holds another run than is asked for; differing: {'; '.join(changed)}. Give another folder to "
            "--record, or the old values to go on"
        )
    return run


def _check_device(device: str) -> None:
    if device not in _DEVICES or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(
            f"device must be {' or '.join(_DEVICES)} and be there, got {device}; `clinscale doctor` shows what is"
        )


def _check_steps(
    plan: Mapping[Lever, PretrainConfig], paper: Lever, shards: corpus.ShardSet, scratch: Path
) -> None:
    """ConfigError unless all levers have the paper's number of steps, and evaluations come between."""
    steps = {lever: worker_task(config, shards, scratch).total_steps for lever, config in plan.items()}
    every = plan[paper].runtime.evaluate_every_steps
    if every >= steps[paper]:
        raise ConfigError(
            f"runtime.evaluate_every_steps must be below the {steps[paper]} steps of the paper's recipe, got {every}; "
            f"{max(1, steps[paper] // 20)} finds a crossing within a twentieth of them"
        )
    for lever, count in steps.items():
        if count != steps[paper]:
            raise ConfigError(
                f"lever {lever.name} must have the paper's {steps[paper]} steps, got {count}; write recipe.duration in "
                "steps"
            )
