"""Evidence on a version for the gate: read from MLflow, or judged again on the test set at hand."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from clinscale import predict, registry
from clinscale.errors import AccessError, ConfigError, DataError, RegistryError
from clinscale.finetune import stored_outcomes, stored_trivial_outcomes
from clinscale.pretrain import FALSE_ALARMS
from clinscale.promotion.gate import Evidence, Latency
from clinscale.registry import Tag
from clinscale.synthetic import new_document
from clinscale.tasks import Example, Outcomes, TaskData, baseline_outcomes, trivial

_TURNS = 5
_WARM_UP = 1


def candidate_evidence(
    tracking: registry.Tracking,
    label: str,
    folder: Path,
    outcomes: tuple[Outcomes, ...],
    tags: Mapping[str, str],
) -> Evidence:
    """Evidence on a version whose outcomes are known; `tags` are those it has or will have."""
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    kind: Literal["base", "task"] = "base" if tags.get(Tag.KIND) == "base" else "task"
    return Evidence(label, kind, outcomes, size_bytes, _memorised(tracking, tags))


def version_evidence(
    tracking: registry.Tracking,
    version: registry.ModelVersion,
    folder: Path,
    *,
    data: TaskData | None = None,
    like: Outcomes | None = None,
) -> Evidence:
    """Evidence on a registered version: outcomes that its run recorded, or those on the test set of `data`.

    With `like`, it is judged again only where what its run recorded is not of the same examples by the same rules.

    Raises:
        AccessError: this account may not read its run. RegistryError: the server fails.
    """
    recorded = _recorded(tracking, version)
    if data is None or (like and recorded and recorded[0].is_comparable(like)):
        return candidate_evidence(tracking, version.label, folder, recorded, version.tags)
    again = predict.load_predictor(folder).outcomes(data.splits["test"])
    alike = [one for one in recorded[1:] if one.is_comparable(again)]
    known = candidate_evidence(tracking, version.label, folder, (again, *alike), version.tags)
    seen = not recorded or recorded[0].keys != again.keys
    return replace(known, note="judged now, on a test set that its own training may have seen" if seen else "")


def champion_evidence(
    tracking: registry.Tracking,
    version: registry.ModelVersion,
    candidate: Evidence,
    *,
    home: str | Path,
    data: TaskData | None,
) -> tuple[Evidence, Path | None]:
    """Evidence on the present champion beside a candidate, and its folder; None where it cannot be asked.

    A champion may be anything that somebody has given the alias in MLflow: of another task, from elsewhere, damaged.

    Raises:
        AccessError: this account may not read it.
    """
    kind = version.tags.get(Tag.KIND, candidate.kind)
    unknown = Evidence(version.label, "base" if kind == "base" else "task", (), 0, None)
    try:
        folder = Path(registry.fetch_model(tracking, version.label, home=home).path)
        card = predict.TaskCard.read(folder) if unknown.kind == "task" else None
        like = candidate.outcomes[0] if candidate.outcomes else None
        if card and like and (card.task.kind, card.labels) != (like.task.kind, like.labels or card.labels):
            unfit = (
                f"{version.label} answers kind {card.task.kind} with {len(card.labels)} labels, {candidate.label} kind "
                f"{like.task.kind} with {len(like.labels)}, or with others; register under another name"
            )
            return replace(unknown, unfit=unfit), folder
        found = version_evidence(tracking, version, folder, data=data if card else None, like=like)
        return replace(found, kind=unknown.kind), folder
    except AccessError:
        raise
    except (ConfigError, DataError, RegistryError) as error:
        return replace(unknown, unfit=f"{version.label} cannot be judged: {error}"), None


def trivial_evidence(
    tracking: registry.Tracking, version: registry.ModelVersion, data: TaskData | None
) -> Outcomes | None:
    """Outcomes of the trivial baseline: on the test set of `data`, else those that the version's run recorded, if any.

    Raises:
        AccessError: this account may not read its run. RegistryError: the server fails.
    """
    if data:
        return baseline_outcomes(data, trivial)
    if not _has_run(tracking, version):
        return None
    return stored_trivial_outcomes(tracking, version.run_id)


def measure_latency(candidate: Path, champion: Path | None) -> Latency:
    """Seconds per 1,000 tokens on an invented note of each model's whole window: the least of five turns of both.

    What else the machine does can only add to a turn, so the least is nearest to what the model itself takes.
    """
    predictors = [predict.load_predictor(folder) for folder in (candidate, champion) if folder]
    asked = [_window_of_text(predictor) for predictor in predictors]
    seconds: list[list[float]] = [[] for _ in predictors]
    for turn in range(_TURNS + _WARM_UP):
        for predictor, (example, tokens), spent in zip(predictors, asked, seconds, strict=True):
            begin_s = time.perf_counter()
            predictor.predict([example])
            if turn >= _WARM_UP:
                spent.append((time.perf_counter() - begin_s) * 1000 / tokens)
    least = [min(spent) for spent in seconds]
    return Latency(least[0], least[1] if champion else None)


def _window_of_text(predictor: predict.Predictor) -> tuple[Example, int]:
    """A document that fills the model's window, and the tokens that are read of it."""
    text, _ = new_document(seed=0)
    while predictor.count_tokens(text) < predictor.card.max_tokens:
        text = f"{text}\n{text}"
    example = predictor.kind.asked_example(text)
    return example, sum(len(window.input_ids) for window in predictor.windows(example))


def _recorded(tracking: registry.Tracking, version: registry.ModelVersion) -> tuple[Outcomes, ...]:
    return stored_outcomes(tracking, version.run_id) if _has_run(tracking, version) else ()


def _has_run(tracking: registry.Tracking, version: registry.ModelVersion) -> bool:
    return bool(version.run_id) and registry.read_run(tracking, version.run_id) is not None


def _memorised(tracking: registry.Tracking, tags: Mapping[str, str]) -> bool | None:
    """Whether the base memorised canaries, as its pretraining measured.

    None where it had none or the base is not known here.
    """
    if tags.get(Tag.KIND) != "base":
        base = registry.find_base(tracking, tags)
        tags = base.tags if base else {}
    return float(tags[Tag.EXPOSURE_P_VALUE]) <= FALSE_ALARMS if Tag.EXPOSURE_P_VALUE in tags else None
