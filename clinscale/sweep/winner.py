"""The winner of a study's ledger: chosen on the development split, judged once on the test split, registered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clinscale import models, promotion, registry
from clinscale.config import fingerprint
from clinscale.engine import describe_precision
from clinscale.errors import ClinscaleError, ClusterError, ConfigError, DataError
from clinscale.finetune import (
    OUTCOMES_BY_SEED_FILE,
    OUTCOMES_FILE,
    TRIVIAL_OUTCOMES_FILE,
    FinetuneRecipe,
    Judgement,
    check_judged,
    judge,
    task_tags,
)
from clinscale.predict import load_predictor
from clinscale.promotion import Decision
from clinscale.registry import Tag
from clinscale.storage import read_json, write_json
from clinscale.sweep.card import write_task_card
from clinscale.sweep.choose import Candidate, Finalist, choose_winner, flat_remark
from clinscale.sweep.config import SweepConfig
from clinscale.sweep.inputs import Study, registered_name, study_recipe
from clinscale.sweep.judged import WINNER_FILE, JudgedWinner
from clinscale.sweep.ledger import Trial
from clinscale.sweep.offers import OFFERS_FILE, Offer, best_offer, make_offers
from clinscale.sweep.plots import draw
from clinscale.sweep.policy import finalists
from clinscale.sweep.record import TrialLogger
from clinscale.sweep.space import MODEL
from clinscale.sweep.trial import trial_folder
from clinscale.tasks import TaskData, baseline_outcomes, baseline_remark, classical

CONFIRMATION_FILE = "confirmation.json"
"""Artifact of a study's run: the finalists' development scores by seed."""


@dataclass(frozen=True)
class StudyResult:
    """A study's winner, judged on the test split and registered."""

    name: str
    task: str
    kind: str
    family: str
    metric: str
    value: float
    """Value of the metric on the test split."""
    trivial: float
    """Value of the trivial baseline on the test split."""
    linear: float | None
    """Value of the linear baseline there; None for what an earlier version of clinscale judged."""
    remarks: tuple[str, ...]
    """Sentences that everybody who sees the score must know: a baseline that it does not beat beyond noise, scores
    that are flat over all trials. Usually none."""
    test: dict[str, float]
    interval: tuple[float, float]
    """95 % of `value`, by bootstrap over documents."""
    max_tokens: int
    """Window that the winner reads."""
    trials: int
    device_seconds: float
    """Spent on the study."""
    finalists: tuple[Finalist, ...]
    """The settings that were compared at the end."""
    offers: tuple[Offer, ...]
    """Averages of weights, judged on the development split; empty unless `recipe.soup` asks for them."""
    recipe: FinetuneRecipe
    """The winner's own fine-tuning recipe."""
    version: registry.ModelVersion
    decision: Decision
    folder: Path
    """HF folder of the winner."""
    plots: tuple[Path, ...]
    """Pictures of the search."""


def finish_study(
    study: Study,
    config: SweepConfig,
    trials: Sequence[Trial],
    folder: Path,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    logger: TrialLogger,
) -> StudyResult:
    """Choose, judge, draw and register; what an earlier start has done already is not done again.

    Raises:
        ClusterError: no trial has a score; says why the first one failed.
        RegistryError: the server fails.
    """
    if not (folder / WINNER_FILE).exists():
        _choose_and_judge(study, config, trials, folder, logger)
    return _register(study, config, folder, tracking, home, logger.run)


def check_winner(folder: Path) -> None:
    """Check that the winner in a study's folder, where there is one, is the model that was judged.

    Raises:
        DataError: it is not there. ChangedDataError: it is another one by now.
    """
    if (folder / WINNER_FILE).exists():
        winner = JudgedWinner.read(folder)
        check_judged(trial_folder(folder, winner.id), winner.model, of=folder / WINNER_FILE)


def _choose_and_judge(
    study: Study,
    config: SweepConfig,
    trials: Sequence[Trial],
    folder: Path,
    logger: TrialLogger,
) -> None:
    compared = compare_finalists(trials)
    if not compared:
        raise _without_score(study.name, trials)
    winner = choose_winner(compared)
    kept = winner.best_seed
    data, attention, run = study.data, config.runtime.attention, logger.run
    base = int(kept.params.get(MODEL, 0))
    point = {key: value for key, value in kept.params.items() if key != MODEL}
    recipe = study.space.recipe(study.bases[base].path, point, kept.seed)
    offers: list[Offer] = []
    if config.recipe.soup:
        offers = make_offers(folder, trials, kept, data, epochs=recipe.epochs, attention=attention)
        write_json(folder / OFFERS_FILE, [offer.plain() for offer in offers])
        run.log_json(OFFERS_FILE, [offer.plain() for offer in offers])
    taken = best_offer(offers) if config.recipe.soup == "take" else None
    shipped = trial_folder(folder, taken.id if taken else kept.id)
    judged = judge(shipped, data, attention=attention)
    # the winner under other seeds says nothing of an average
    others = [
        load_predictor(trial_folder(folder, trial.id), attention=attention).outcomes(data.splits["test"])
        for trial in (() if taken else winner.seeds)
        if trial.id != kept.id
    ]
    linear, remarks = _beside_baselines(judged, data)
    remarks.append(flat_remark(trials, judged.metric, len(data.splits["dev"])))
    if taken:
        remarks.append(f"{taken.sentence(judged.metric)}: what is shipped is the average")
    found = JudgedWinner(
        id=taken.id if taken else kept.id,
        dev=taken.dev if taken else winner.mean,
        recipe=recipe,
        base=base,
        trials=sum(trial.searched for trial in trials),
        device_seconds=sum(trial.seconds for trial in trials),
        finalists=tuple(candidate.finalist() for candidate in compared),
        winner_run=logger.run_id(kept),
        outcomes=(judged.outcomes, *others),
        linear=linear,
        remarks=tuple(remark for remark in remarks if remark),
        scores=judged,
        model=models.model_fingerprint(shipped),
    )
    _log(run, found, judged, data.task.name)
    pictures = draw(
        folder / "plots",
        name=study.name,
        trials=trials,
        space=study.space,
        objectives=config.recipe.objectives,
        metric=judged.metric,
    )
    for picture in pictures:
        run.log_file(picture, "plots")
    found.write(folder)


def _without_score(study: str, trials: Sequence[Trial]) -> ClinscaleError:
    """The error about a study none of whose trials has a score; says why the first one failed."""
    failed = next((trial for trial in trials if trial.state == "failed"), None)
    why = f"; the first failed trial ({failed.reason}): {failed.message}" if failed else ""
    if any(trial.looked for trial in trials):
        why = "; none came to the end of its first epoch: raise recipe.budget" + why
    error = ConfigError if failed and failed.reason in ("not_a_number", "over_time") else ClusterError
    return error(f"study {study}: no trial ended with a score{why}")


def _log(run: registry.Run, winner: JudgedWinner, judged: Judgement, task: str) -> None:
    """The winner's outcomes, scores and tags in the run of its study."""
    run.log_json(OUTCOMES_FILE, judged.outcomes.plain())
    run.log_json(OUTCOMES_BY_SEED_FILE, [one.plain() for one in winner.outcomes[1:]])
    run.log_json(TRIVIAL_OUTCOMES_FILE, judged.trivial_outcomes.plain())
    run.log(judged.as_metrics(task, winner.dev))
    run.log({f"linear/{task}/{name}": value for name, value in winner.linear.items()})
    run.log_json(CONFIRMATION_FILE, [row.plain() for row in winner.finalists])
    recipe = winner.recipe
    run.set_tags(
        {
            Tag.MAX_TOKENS: str(judged.max_tokens),
            Tag.PRECISION: describe_precision(recipe.precision, models.stored_precision(recipe.model)),
            Tag.TRIALS: str(winner.trials),
            Tag.WINNER_RUN: winner.winner_run,
            Tag.DEVICE_SECONDS: f"{winner.device_seconds:.1f}",
        }
    )


def _read_offers(folder: Path) -> tuple[Offer, ...]:
    file = folder / OFFERS_FILE
    try:
        return tuple(Offer(**one) for one in read_json(file)) if file.exists() else ()
    except TypeError:
        raise DataError(f"{file} holds no offers of a study; delete it to go on without them") from None


def _beside_baselines(judged: Judgement, data: TaskData) -> tuple[dict[str, float], list[str]]:
    """The linear baseline's test scores, and a remark on each baseline, empty where the winner beats it."""
    remarks = [baseline_remark(judged.outcomes, judged.trivial_outcomes, "trivial")]
    try:
        linear = baseline_outcomes(data, classical)
    except (MemoryError, ValueError) as error:  # a figure to compare with is not worth the winner of a long search
        return {}, [*remarks, f"the linear baseline could not be trained here ({type(error).__name__})"]
    remarks.append(baseline_remark(judged.outcomes, linear, "linear"))
    return linear.scores(), remarks


def compare_finalists(trials: Sequence[Trial]) -> list[Candidate]:
    """Winner, runner-up and first trial of the search, each with the seeds under which its setting was trained."""
    found = []
    best = finalists(trials)
    for place, trial in enumerate(best):
        role = "winner" if place == 0 else "runner-up" if place == 1 and len(best) > 1 else "first trial"
        again = [
            one for one in trials if one.of == trial.number and one.objective is not None and one.state != "failed"
        ]
        found.append(Candidate(role, (trial, *again)))
    return found


def _register(
    study: Study,
    config: SweepConfig,
    folder: Path,
    tracking: registry.Tracking,
    home: str | Path,
    run: registry.Run,
) -> StudyResult:
    """The winner as a version of the task's model; champion where the gate lets it pass."""
    winner = JudgedWinner.read(folder)
    data, scores, metric = study.data, winner.scores, winner.scores.metric
    hf_folder = trial_folder(folder, winner.id)
    tags = _tags(study, config, winner, family=models.family_of(models.check_hf_folder(hf_folder)["model_type"]))
    write_task_card(hf_folder, winner, data=data, tags=tags)
    version, decision = promotion.register_judged(
        tracking,
        run.id,
        hf_folder,
        name=registered_name(study.config, data.task),
        tags=tags,
        outcomes=winner.outcomes,
        data=data,
        home=home,
        rules=config.gate,
    )
    return StudyResult(
        name=study.name,
        task=data.task.name,
        kind=data.task.kind,
        family=tags[Tag.FAMILY],
        metric=metric,
        value=scores.test[metric],
        trivial=scores.trivial[metric],
        linear=winner.linear.get(metric),
        remarks=winner.remarks,
        test=scores.test,
        interval=(scores.interval.low, scores.interval.high),
        max_tokens=scores.max_tokens,
        trials=winner.trials,
        device_seconds=winner.device_seconds,
        finalists=winner.finalists,
        offers=_read_offers(folder),
        recipe=winner.recipe,
        version=version,
        decision=decision,
        folder=hf_folder,
        plots=tuple(sorted((folder / "plots").glob("*.png"))),
    )


def _tags(study: Study, config: SweepConfig, winner: JudgedWinner, *, family: str) -> dict[str, str]:
    """Tags of the winner's version: where it comes from, and its score beside the baselines'."""
    scores, metric, base = winner.scores, winner.scores.metric, study.bases[winner.base]
    tags = {
        **task_tags(study.data),
        Tag.KIND: "task",
        Tag.NAME: study.name,
        Tag.SWEEP: config.name,
        Tag.FAMILY: family,
        Tag.VALUE: repr(scores.test[metric]),
        Tag.TRIVIAL: repr(scores.trivial[metric]),
        Tag.TRIALS: str(winner.trials),
        Tag.MAX_TOKENS: str(scores.max_tokens),
        Tag.WINNER_RUN: winner.winner_run,
        Tag.BASE: base.label,
        Tag.BASE_DIGEST: base.digest,
        Tag.RECIPE: fingerprint(study_recipe(config, study)),
    }
    if metric in winner.linear:
        tags[Tag.LINEAR] = repr(winner.linear[metric])
    if winner.remarks:
        tags[Tag.REMARK] = ". ".join(winner.remarks)
    return tags
