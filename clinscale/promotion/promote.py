"""The move of an alias after a decision: champions move for a reason that is kept, and go back with one call."""

import contextlib
import getpass
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clinscale import predict, registry
from clinscale.cells import is_blank
from clinscale.config import fingerprint
from clinscale.errors import AccessError, ConfigError, RegistryError
from clinscale.promotion.evidence import (
    candidate_evidence,
    champion_evidence,
    measure_latency,
    trivial_evidence,
    version_evidence,
)
from clinscale.promotion.gate import Decision, Evidence, GateRules, Latency, decide
from clinscale.promotion.turns import decisions, take_number, wait_for_turn
from clinscale.registry import CHAMPION, Experiment, ModelVersion, Tag, Tracking
from clinscale.tasks import Outcomes, TaskData, baseline_outcomes, metric_of, read_task, trivial

CHALLENGER = "challenger"
"""The newest version that the gate refused."""
PREVIOUS = "previous-champion"

_DECISION_FILE = "decision.json"


@dataclass(frozen=True)
class Move:
    """One decision about the champion of a model, as MLflow remembers it."""

    action: str
    """`promote`, `refuse`, `force` or `rollback`."""
    before: str
    """`NAME/VERSION` of the champion before, or empty."""
    after: str
    by: str
    why: str
    at_s: float
    """Seconds since 1970."""


def register_judged(
    tracking: Tracking,
    run_id: str,
    folder: Path,
    *,
    name: str,
    tags: Mapping[str, str],
    outcomes: tuple[Outcomes, ...],
    data: TaskData,
    home: str | Path,
    rules: GateRules | None = None,
) -> tuple[ModelVersion, Decision]:
    """Register a task model that was judged on the test set of `data`; champion where the gate lets it pass.

    A first champion must beat the trivial baseline; a champion that was judged on other examples is judged again on
    these. The version is in the release experiment when it is promoted, else in its run's, as `challenger`. An
    account that may not promote leaves the candidate for one that may.

    Raises:
        RegistryError: the server fails, or the folder is not safe to hand on.
    """
    champion = registry.find_version(tracking, f"{name}@{CHAMPION}")
    if champion and champion.digest == registry.folder_digest(folder):
        return champion, Decision(champion.label, champion.label, False, "this version is the champion already")
    pyfunc = predict.as_pyfunc(folder)
    evidence = candidate_evidence(tracking, name, folder, outcomes, tags)
    if champion is None:
        evidence = replace(evidence, trivial=baseline_outcomes(data, trivial))
    label = champion.label if champion else None
    try:
        decision = _decide(tracking, evidence, folder, champion, rules or GateRules(), home=home, data=data)
        if decision.promoted:
            version = registry.register(
                tracking, run_id, folder, name=name, tags=tags, pyfunc=pyfunc, experiment=Experiment.RELEASES
            )
            return _move(tracking, version, champion, decision, "promote", "")
    except AccessError:
        because = (
            "this account may not read the champion or not promote; ask one that may (clinscale models promote)"
        )
        decision = Decision(name, label, False, because)
    version = registry.register(tracking, run_id, folder, name=name, tags=tags, pyfunc=pyfunc)
    decision = replace(decision, candidate=version.label)
    if version.tags.get(Tag.DECISION) == _refused(decision):  # a sweep that is asked again decides nothing anew
        return version, decision
    with contextlib.suppress(AccessError):  # an account that may only train leaves no record of decisions
        version, decision = _refuse(tracking, version, champion, decision)
    return version, decision


def promote(
    tracking: Tracking,
    reference: str,
    *,
    home: str | Path,
    rules: GateRules | None = None,
    data: str | Path | None = None,
    force: str | None = None,
) -> tuple[ModelVersion, Decision]:
    """Make a version champion where the gate lets it pass, or for a reason of one's own.

    A version that was registered elsewhere is copied to the release experiment: its files as they were verified, with
    the code of this installation, whatever is beside them.

    Args:
        tracking: where.
        reference: `NAME/3`, or `NAME@challenger`.
        home: where pulled models are kept.
        rules: of the gate.
        data: folder of the task's files; the version is judged on its test set now, and so is a champion that was
            judged on others.
        force: why it becomes champion whatever the gate says.

    Raises:
        AccessError: the account may not promote. RegistryError: no such version, or the server fails.
        ConfigError: `force` says nothing.
        DataError: no task data at `data`.
    """
    if force is not None:
        _check_reason(force)
    version = registry.resolve(tracking, reference)
    champion = registry.find_version(tracking, f"{version.name}@{CHAMPION}")
    if champion and champion.is_equal(version):
        return champion, Decision(version.label, champion.label, False, "this version is the champion already")
    folder = Path(registry.fetch_model(tracking, version.label, home=home).path)
    judged_on = _read_again(predict.TaskCard.read(folder), data) if data else None
    evidence = version_evidence(tracking, version, folder, data=judged_on)
    if champion is None and evidence.kind == "task":
        evidence = replace(evidence, trivial=trivial_evidence(tracking, version, judged_on))
    decision = _decide(tracking, evidence, folder, champion, rules or GateRules(), home=home, data=judged_on)
    if not decision.promoted and force is None:
        return _refuse(tracking, version, champion, decision)
    return _move(
        tracking,
        _released(tracking, version, folder),
        champion,
        replace(decision, promoted=True),
        "promote" if decision.promoted else "force",
        force or "",
    )


def rollback(tracking: Tracking, name: str, *, why: str) -> tuple[ModelVersion, ModelVersion]:
    """Give the alias back to the champion before; the champion that goes, and the one that returns.

    Raises:
        RegistryError: the model has no champion, or none before it.
        ConfigError: `why` says nothing.
    """
    _check_reason(why)
    champion = registry.resolve(tracking, f"{name}@{CHAMPION}")
    runs = [run for run in decisions(tracking, name) if run.tags.get(Tag.ACTION) in ("promote", "force")]
    moves = [_as_move(run) for run in runs if run.status == "FINISHED"]
    came = next((move for move in reversed(moves) if move.after == champion.label), None)
    if came is None:  # a move that was cut off after the alias had moved; nothing else leaves both aliases so
        previous = registry.find_version(tracking, f"{name}@{PREVIOUS}")
        pair = (previous.label if previous else "", champion.label)
        came = next((move for move in map(_as_move, reversed(runs)) if (move.before, move.after) == pair), None)
    if came is None or not came.before:
        raise RegistryError(
            f"model {name}: no champion before {champion.label} is on record; name a version with "
            f"`clinscale models promote {name}/VERSION`"
        )
    before = registry.resolve(tracking, came.before)
    decision = Decision(before.label, champion.label, True, f"back from {champion.label}")
    returned, _ = _move(tracking, before, champion, decision, "rollback", why)
    return champion, returned


def _check_reason(why: str) -> None:
    if is_blank(why):
        raise ConfigError("--why must give the reason, which is kept on record, got none; say it in a few words")


def history(tracking: Tracking, name: str) -> list[Move]:
    """All decisions about the champion of a model, in the order in which they were made."""
    return [_as_move(run) for run in decisions(tracking, name) if run.status == "FINISHED"]


def _as_move(run: registry.RunRecord) -> Move:
    return Move(
        action=run.tags.get(Tag.ACTION, ""),
        before=run.tags.get(Tag.CHAMPION_BEFORE, ""),
        after=run.tags.get(Tag.CHAMPION_AFTER, ""),
        by=run.tags.get(Tag.BY, ""),
        why=run.tags.get(Tag.WHY, ""),
        at_s=run.start_time,
    )


def _read_again(card: predict.TaskCard, data: str | Path) -> TaskData:
    """A model's task on other data, by the metric that chose the model, and of the labels that it knows."""
    task = card.task.model_copy(update={"metric": metric_of(card.task)})
    if card.labels and not (task.labels or task.columns.labels):
        task = task.model_copy(update={"labels": card.labels})
    return read_task(task, str(data))


def _decide(
    tracking: Tracking,
    candidate: Evidence,
    folder: Path,
    champion: ModelVersion | None,
    rules: GateRules,
    *,
    home: str | Path,
    data: TaskData | None,
) -> Decision:
    """Gather what is known of the champion, measure what must be measured side by side, and ask the gate."""
    theirs, champion_folder = None, None
    if champion:
        theirs, champion_folder = champion_evidence(tracking, champion, candidate, home=home, data=data)
    latency: Latency | None = None
    if candidate.outcomes and (
        rules.max_latency_s_per_1000_tokens is not None
        or (champion_folder and rules.max_latency_ratio is not None)
    ):
        beside = champion_folder if theirs and theirs.kind == "task" else None
        latency = measure_latency(folder, beside)
    return decide(candidate, theirs, rules, latency=latency)


def _released(tracking: Tracking, version: ModelVersion, folder: Path) -> ModelVersion:
    """The version in the release experiment: itself, or a copy made from its verified files."""
    if registry.experiment_of(tracking, version) == tracking.experiment_id(Experiment.RELEASES):
        return version
    return registry.register(
        tracking,
        version.run_id,
        folder,
        name=version.name,
        tags={**version.tags, Tag.RELEASED_FROM: version.label},
        pyfunc=predict.as_pyfunc(folder) if version.tags.get(Tag.KIND) == "task" else None,
        experiment=Experiment.RELEASES,
    )


def _refuse(
    tracking: Tracking, version: ModelVersion, champion: ModelVersion | None, decision: Decision
) -> tuple[ModelVersion, Decision]:
    label = champion.label if champion else ""
    with _recorded(tracking, version.name, decision, "refuse", before=label, after=label, why=decision.because):
        registry.set_alias(tracking, version, CHALLENGER)
        registry.set_version_tags(tracking, version, {Tag.DECISION: _refused(decision)})
    return registry.resolve(tracking, version.label), decision


def _refused(decision: Decision) -> str:
    return f"refused: {decision.because}"


def _move(
    tracking: Tracking,
    version: ModelVersion,
    champion: ModelVersion | None,
    decision: Decision,
    action: str,
    why: str,
) -> tuple[ModelVersion, Decision]:
    """Champion to `version`; the record is opened first, so that no alias moves without one."""
    decision = replace(decision, candidate=version.label)
    before = champion.label if champion else ""
    why = why or decision.because
    with _recorded(tracking, version.name, decision, action, before=before, after=version.label, why=why):
        now = registry.find_version(tracking, f"{version.name}@{CHAMPION}")
        if (now.label if now else "") != before:
            raise RegistryError(
                f"model {version.name}: the champion changed from {before or 'none'} to {now.label if now else 'none'} "
                "while this was decided; decide again"
            )
        if champion:
            registry.set_alias(tracking, champion, PREVIOUS)
        registry.set_alias(tracking, version, CHAMPION)
        for alias in (CHALLENGER, PREVIOUS):
            registry.remove_alias(tracking, version, alias)
        registry.set_version_tags(tracking, version, {Tag.DECISION: f"{action}: {why}"})
    return registry.resolve(tracking, version.label), decision


@contextlib.contextmanager
def _recorded(
    tracking: Tracking, name: str, decision: Decision, action: str, *, before: str, after: str, why: str
) -> Iterator[None]:
    """A run in the release experiment that says who decided what, and why; FAILED when it was not carried out."""
    run = registry.start_run(
        tracking,
        experiment=Experiment.RELEASES,
        name=f"{action} {decision.candidate}",
        tags={
            Tag.KIND: "promotion",
            Tag.NAME: name,
            Tag.RECIPE: fingerprint(decision.plain()),
            Tag.ACTION: action,
            Tag.CHAMPION_BEFORE: before,
            Tag.CHAMPION_AFTER: after,
            Tag.BY: os.environ.get("MLFLOW_TRACKING_USERNAME") or f"{getpass.getuser()}@{socket.gethostname()}",
            Tag.WHY: why,
        },
        params={},
    )
    with run:
        number = take_number(tracking, name, run)
        if action != "refuse":  # which moves no champion
            wait_for_turn(tracking, name, run, number)
        run.log_json(_DECISION_FILE, decision.plain())
        if decision.difference:
            run.log(
                dict(zip(("difference", "difference_low", "difference_high"), decision.difference, strict=True))
            )
        yield
