"""Lineage of a version, link by link, as far as MLflow remembers it; nothing is guessed."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clinscale.errors import AccessError
from clinscale.registry.runs import RunRecord, read_run
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking
from clinscale.registry.versions import ModelVersion, list_versions

RunOf = Callable[[str], RunRecord | None]
"""The run of an id; None when it is deleted. Raises AccessError when this account may not see it."""


@dataclass(frozen=True)
class Link:
    """One step on the way from a version back to the note files."""

    what: str
    """`task version`, `trial`, `study`, `task data`, `base version`, `pretraining run`, `shards`, `note files`."""
    name: str = ""
    """Name that its owner uses; empty for what has only a fingerprint."""
    id: str = ""
    """Identity by which it can be checked: a run's id, a digest, a fingerprint."""
    facts: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    """Reason why the link is not known; empty if it is."""

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: value for key, value in vars(self).items() if value or key == "what"}


def lineage(tracking: Tracking, version: ModelVersion) -> tuple[Link, ...]:
    """Links from the version to the note files; an unknown link is included and says why.

    Raises:
        RegistryError: the server fails.
    """
    return lineage_among(version, list_versions(tracking), partial(read_run, tracking))


def lineage_among(version: ModelVersion, versions: Iterable[ModelVersion], run_of: RunOf) -> tuple[Link, ...]:
    """The links of `lineage`, for a caller that has read the registry's versions already."""
    if version.tags.get(Tag.KIND) == "base":
        return tuple(_base(version, run_of))
    return (*_task(version, run_of), *_base_of(version, versions, run_of))


def find_base(tracking: Tracking, tags: Mapping[str, str]) -> ModelVersion | None:
    """The base version that a task version's tags mean, as `base_among` finds it in the registry."""
    return base_among(list_versions(tracking), tags)


def base_among(versions: Iterable[ModelVersion], tags: Mapping[str, str]) -> ModelVersion | None:
    """The base version that a task version's tags mean, found by its digest: names move, and folders have none.

    Only where no digest is recorded, in the tags or in a folder's label `PATH#DIGEST`, its label counts.
    """
    label, digest = tags.get(Tag.BASE, ""), _base_digest(tags)
    equal = [known for known in versions if (known.digest.startswith(digest) if digest else known.label == label)]
    return next((known for known in equal if known.label == label), equal[0] if equal else None)


def _base_digest(tags: Mapping[str, str]) -> str:
    """Digest of the base, or the beginning of it that a folder's label has; empty for a base from a hub."""
    in_label = re.search(r"#([0-9a-f]{12,})$", tags.get(Tag.BASE, ""))
    return tags.get(Tag.BASE_DIGEST, "") or (in_label[1] if in_label else "")


def _task(version: ModelVersion, run_of: RunOf) -> Iterator[Link]:
    tags = version.tags
    metric = tags.get(Tag.METRIC, "")
    facts = {"task": tags.get(Tag.TASK, ""), f"test {metric}": tags.get(Tag.VALUE, "")}
    if Tag.RELEASED_FROM in tags:
        facts["released from"] = tags[Tag.RELEASED_FROM]
    yield Link("task version", version.label, version.digest, _known(facts))
    trial_id = tags.get(Tag.WINNER_RUN, "")
    if trial_id:
        yield _run("trial", trial_id, run_of, lambda run: {"dev objective": f"{run.metrics.get('objective', '')}"})
    else:
        yield Link("trial", missing=f"{version.label} names no trial")
    yield _run("study", version.run_id, run_of, _study_facts)
    if data := tags.get(Tag.DATA):
        yield Link("task data", tags.get(Tag.TASK, ""), data)
    else:
        yield Link("task data", missing=f"{version.label} names no data")


def _study_facts(run: RunRecord) -> dict[str, str]:
    return {"sweep": run.tags.get(Tag.SWEEP, ""), "trials": run.tags.get(Tag.TRIALS, "")}


def _base_of(version: ModelVersion, versions: Iterable[ModelVersion], run_of: RunOf) -> Iterator[Link]:
    label, digest = version.tags.get(Tag.BASE, ""), _base_digest(version.tags)
    if base := base_among(versions, version.tags):
        yield from _base(base, run_of)
    elif not label:
        yield Link("base version", missing=f"{version.label} names no base model")
    elif not digest:
        yield Link("base version", label, missing="from a hub, so this registry knows nothing of its training")
    else:
        yield Link("base version", label, digest, missing="no version in this registry has this digest")


def _base(version: ModelVersion, run_of: RunOf) -> Iterator[Link]:
    tags = version.tags
    yield Link("base version", version.label, version.digest, _known({"family": tags.get(Tag.FAMILY, "")}))
    yield _run("pretraining run", version.run_id, run_of, _pretraining_facts)
    for what, key in (("shards", Tag.SHARDS), ("note files", Tag.NOTES)):
        if key in tags:
            yield Link(what, id=tags[key])
        else:
            yield Link(what, missing=f"{version.label} was registered without their fingerprint")


def _pretraining_facts(run: RunRecord) -> dict[str, str]:
    start = run.params.get("model.pretrained", "None")
    perplexity = run.metrics.get("eval/perplexity")
    return {
        "continued from": "" if start == "None" else start,
        "held-out perplexity": f"{perplexity:.3f}" if perplexity else "",
    }


def _run(what: str, run_id: str, run_of: RunOf, facts: Callable[[RunRecord], dict[str, str]]) -> Link:
    if not run_id:
        return Link(what, missing="the version names no run")
    try:
        run = run_of(run_id)
    except AccessError:
        return Link(what, id=run_id, missing="this account may not read its experiment")
    if run is None:
        return Link(what, id=run_id, missing="deleted from this MLflow server")
    values = {"recipe": run.tags.get(Tag.RECIPE, ""), **facts(run), "code": run.tags.get(Tag.CODE_VERSION, "")}
    return Link(what, run.name, run.id, _known(values))


def _known(facts: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in facts.items() if value}
