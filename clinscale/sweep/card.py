"""The model card of a study's winner: what was measured, and what was not."""

from collections.abc import Mapping
from pathlib import Path

from clinscale.config import flatten
from clinscale.finetune import SHORT_TOKENS, Scores
from clinscale.registry import Section, Tag, write_card
from clinscale.sweep.judged import JudgedWinner
from clinscale.tasks import Estimate, TaskData, kind_of


def write_task_card(folder: Path, winner: JudgedWinner, *, data: TaskData, tags: Mapping[str, str]) -> None:
    """README.md of a winner's HF folder, from what its study recorded.

    Args:
        folder: HF folder.
        winner: what the study wrote when it judged the winner.
        data: of the task.
        tags: of the version that it becomes.
    """
    task, scores, metric = data.task, winner.scores, winner.scores.metric
    # a setting that is newer than the winner's file is left out: a sweep that is asked again writes the same card
    recipe = winner.recipe.model_dump(mode="json", exclude_unset=True)
    sections: dict[str, Section] = {
        "Scores on the test split": _scores(winner),
        "Threshold": _threshold(winner, data),
        "Remarks": "\n".join(f"- {remark}." for remark in winner.remarks),
        "By length of the document": [
            {
                "tokens": f"{band.above_tokens + 1} to {band.up_to_tokens or 'any'}",
                "examples": band.examples,
                metric: band.score.value,
                "95 %": _interval(band.score),
            }
            for band in scores.lengths
        ],
        f"{SHORT_TOKENS} tokens against the whole window": _short(scores),
        "By label": [{"label": label, "F1": f1} for label, f1 in winner.outcomes[0].label_scores().items()],
        "Data": _data(data),
        "Recipe": [
            {"setting": key, "value": value}
            for key, value in flatten(recipe)
            if key not in ("base", "model") and value is not None
        ],
        "Origin": [
            {"what": what, "value": f"`{tags[key]}`"}
            for what, key in (
                ("base model", Tag.BASE),
                ("digest of the base", Tag.BASE_DIGEST),
                ("sweep", Tag.SWEEP),
                ("fingerprint of the study's recipe", Tag.RECIPE),
                ("run of the winning trial", Tag.WINNER_RUN),
                ("trials", Tag.TRIALS),
            )
            if tags.get(key)
        ],
        "Limits": _limits(winner, data),
        "Licence": (
            "No licence is recorded here. The licence of the base model and the terms under which the notes were given "
            "bind this model: ask for both before it leaves the place where it was trained."
        ),
    }
    write_card(
        folder,
        title=f"{task.name}: {tags[Tag.FAMILY]}",
        about=f"Answers task `{task.name}` (kind {task.kind}). {task.about}".strip(),
        sections=sections,
        metadata={"library_name": "transformers", "tags": ["clinscale", tags[Tag.FAMILY], task.kind]},
    )


def _scores(winner: JudgedWinner) -> Section:
    scores = winner.scores
    rows = [
        {
            "metric": name,
            "value": value,
            "95 %": _interval(scores.interval) if name == scores.metric else "",
            "trivial baseline": scores.trivial.get(name, ""),
            "linear baseline": winner.linear.get(name, ""),
        }
        for name, value in sorted(scores.test.items(), key=lambda item: item[0] != scores.metric)
    ]
    return rows + [
        {"metric": name, "value": value, "95 %": "", "trivial baseline": "", "linear baseline": ""}
        for name, value in scores.calibration.items()
    ]


def _threshold(winner: JudgedWinner, data: TaskData) -> str:
    task = winner.outcomes[0].task
    told = kind_of(task).reading_of_threshold(data.labels)
    if not told:
        return ""
    how = "as the task says"
    if data.task.threshold is None:
        rule = (
            f"a specificity of at least {task.sensitivity_at:g}"
            if task.alerts_per_1000 is None
            else f"at most {task.alerts_per_1000:g} alerts per 1,000 notes"
        )
        how = f"chosen on the development split for {rule} there, never on the test split"
    return f"{told[0].upper()}{told[1:]}: {how}."


def _short(scores: Scores) -> str:
    if not scores.short:
        return f"The window is {scores.max_tokens:,} tokens, so there is nothing longer to compare."
    gain, p_value = scores.short.difference, scores.short.p_value
    return (
        f"The same weights, reading {scores.max_tokens:,} instead of {SHORT_TOKENS} tokens at a time, score "
        f"{gain.value:+.4f} {scores.metric} (95 % {gain.low:+.4f} to {gain.high:+.4f}, p {p_value:.3f}). A model "
        f"that was trained on {SHORT_TOKENS} tokens may do better than these weights do there."
    )


def _data(data: TaskData) -> Section:
    counts = {f"{split} examples": len(examples) for split, examples in data.splits.items()}
    facts = {
        "fingerprint": f"`{data.fingerprint}`",
        **counts,
        "labels": ", ".join(data.labels),
        "texts in more than one split": data.duplicates_across_splits,
    }
    return [{"what": what, "value": value} for what, value in facts.items() if value != ""]


def _limits(winner: JudgedWinner, data: TaskData) -> str:
    long_documents = kind_of(data.task).reading_of_long_documents(winner.recipe.long_documents)
    seeds = len(winner.outcomes)
    return (
        f"- Longer documents than {winner.scores.max_tokens:,} tokens are {long_documents}.\n"
        f"- Judged once, on the test split above only; not tried on notes of another place or time.\n"
        f"- Its setting was trained under {seeds} seed{'s' if seeds > 1 else ''}"
        f"{'' if seeds > 1 else ', so that the noise between seeds is not known'}.\n"
        "- Scores say nothing of groups of patients that the data do not name."
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.4f} to {estimate.high:.4f}"
