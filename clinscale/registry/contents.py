"""Everything that a tracking server holds, as texts and files: for those who have to look through all of it.

Deleted runs and models are still there until `mlflow gc` removes them, so they are among them.
"""

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale.registry.tracking import Tracking

_ALL = 3  # MLflow's ViewType.ALL: the deleted ones, too


@dataclass(frozen=True)
class Text:
    """One text of MLflow."""

    owner: str
    """Owner of the text: `run 3f2a...`, `model readmission`."""
    field: str
    """`name`, `param`, `tag`, `metric`, `description`, `dataset`."""
    key: str
    """Key of a param or tag; may be text that somebody wrote."""
    value: str


@dataclass(frozen=True)
class Files:
    """A folder of artifacts."""

    owner: str
    uri: str

    @property
    def folder(self) -> Path | None:
        """Folder of the content, if this machine sees it as one."""
        path = Path(self.uri.removeprefix("file://"))
        return path if path.is_absolute() else None


def contents(tracking: Tracking) -> Iterator[Text | Files]:
    """Names, params, tags, metric keys, descriptions, data sets, traces, and where the artifacts are."""
    places: dict[str, str] = {}
    for experiment in tracking.every("list experiments", functools.partial(_search_experiments, tracking)):
        yield from _texts(f"experiment {experiment.experiment_id}", experiment.name, tag=experiment.tags)
        for run in tracking.every("list runs", functools.partial(_search_runs, tracking, experiment)):
            owner, data = f"run {run.info.run_id}", run.data
            places.setdefault(run.info.artifact_uri, owner)
            yield from _texts(
                owner, run.info.run_name, param=data.params, tag=data.tags, metric=dict.fromkeys(data.metrics)
            )
            for given in run.inputs.dataset_inputs if run.inputs else ():
                yield from _texts(owner, dataset=given.dataset.to_dictionary())
        for model in tracking.every("list models", functools.partial(_search_logged_models, tracking, experiment)):
            owner = f"logged model {model.model_id}"
            places.setdefault(model.artifact_location, owner)
            yield from _texts(owner, model.name, param=model.params, tag=model.tags)
        for trace in tracking.every("list traces", functools.partial(_search_traces, tracking, experiment)):
            yield Text(f"trace {trace.info.trace_id}", "content", "", trace.to_json())
    for model in tracking.every("list models", lambda at: tracking.client.search_registered_models(page_token=at)):
        owner = f"model {model.name}"
        yield from _texts(owner, model.name, tag=model.tags, description={"": model.description})
        for version in tracking.every("list versions", functools.partial(_search_versions, tracking, model)):
            with tracking.faults(f"find {model.name}/{version.version}"):
                uri = tracking.client.get_model_version_download_uri(model.name, version.version)
            places.setdefault(uri, f"{owner}/{version.version}")
            about = {"": version.description}
            yield from _texts(f"{owner}/{version.version}", tag=version.tags, description=about)
    yield from (Files(owner, uri) for uri, owner in places.items())


def logged_models(tracking: Tracking) -> Iterator[Any]:
    """MLflow's logged models, ready or not."""
    for experiment in tracking.every("list experiments", functools.partial(_search_experiments, tracking)):
        yield from tracking.every("list models", functools.partial(_search_logged_models, tracking, experiment))


def artifacts(tracking: Tracking, files: Files, below: str = "") -> Iterator[tuple[str, int]]:
    """Path and size in bytes of all files in a folder of artifacts; paths are relative to it."""
    for name, item in entries(tracking, files, below):
        if item.is_dir:
            yield from artifacts(tracking, files, name)
        else:
            yield name, item.file_size or 0


def entries(tracking: Tracking, files: Files, below: str = "") -> Iterator[tuple[str, Any]]:
    """Path, relative to the artifacts, and MLflow's `FileInfo` of what is directly in one folder of them."""
    import mlflow.artifacts

    with tracking.faults(f"list the artifacts of {files.owner}"):
        listed = tracking.answer(
            mlflow.artifacts.list_artifacts,
            artifact_uri=f"{files.uri}/{below}".rstrip("/"),
            tracking_uri=tracking.uri,
        )
    for item in listed:
        yield f"{below}/{item.path.rsplit('/', 1)[-1]}".lstrip("/"), item


@contextlib.contextmanager
def local_artifact(tracking: Tracking, files: Files, name: str) -> Iterator[Path]:
    """A copy of one artifact, for as long as the block lasts."""
    import mlflow.artifacts

    with tempfile.TemporaryDirectory(prefix="clinscale-artifact-") as folder:
        with tracking.faults(f"read an artifact of {files.owner}"):
            copy = tracking.answer(
                mlflow.artifacts.download_artifacts,
                artifact_uri=f"{files.uri}/{name}",
                dst_path=folder,
                tracking_uri=tracking.uri,
                moves_files=True,
            )
        yield Path(copy)


def _texts(owner: str, name: str | None = None, **fields: Mapping[str, Any] | None) -> Iterator[Text]:
    yield Text(owner, "name", "", name or "")
    for field, values in fields.items():
        yield from (Text(owner, field, key, str(value or "")) for key, value in (values or {}).items())


def _search_experiments(tracking: Tracking, token: str | None) -> Any:
    return tracking.client.search_experiments(view_type=_ALL, page_token=token)


def _search_runs(tracking: Tracking, experiment: Any, token: str | None) -> Any:
    return tracking.client.search_runs([experiment.experiment_id], "", _ALL, page_token=token)


def _search_logged_models(tracking: Tracking, experiment: Any, token: str | None) -> Any:
    return tracking.client.search_logged_models([experiment.experiment_id], page_token=token)


def _search_traces(tracking: Tracking, experiment: Any, token: str | None) -> Any:
    return tracking.client.search_traces(locations=[experiment.experiment_id], page_token=token)


def _search_versions(tracking: Tracking, model: Any, token: str | None) -> Any:
    quoted = model.name.replace("'", "''")
    return tracking.client.search_model_versions(f"name = '{quoted}'", page_token=token)
