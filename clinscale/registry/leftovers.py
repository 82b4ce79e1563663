"""Leftovers of an interrupted registration: a logged model without a version, and the files that had arrived."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from clinscale.registry.contents import Files, artifacts, logged_models
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking

_DAY_S = 86400.0


@dataclass(frozen=True)
class CutUpload:
    """A logged model of one of our runs that never became ready."""

    model_id: str
    name: str
    run_id: str
    uri: str
    """Place of the upload's files."""
    bytes: int
    """Size of the files."""


def cut_uploads(tracking: Tracking, *, older_than_s: float = _DAY_S) -> Iterator[CutUpload]:
    """Logged models of clinscale's runs that have been pending for too long to be still in upload.

    No version has one: a version is made last, from a model that is ready.
    """
    from mlflow.exceptions import MlflowException

    for model in logged_models(tracking):
        age_s = time.time() - model.creation_timestamp / 1000
        if str(model.status) != "PENDING" or age_s < older_than_s or not model.source_run_id:
            continue
        with tracking.faults(f"read run {model.source_run_id}"):
            try:
                run = tracking.client.get_run(model.source_run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                continue  # `mlflow gc` has removed it: whose it was is not known
        if Tag.KIND in run.data.tags:
            files = Files(f"logged model {model.model_id}", model.artifact_location)
            size = sum(num_bytes for _, num_bytes in artifacts(tracking, files))
            yield CutUpload(model.model_id, model.name, model.source_run_id, model.artifact_location, size)


def remove_upload(tracking: Tracking, upload: CutUpload) -> None:
    """Delete the files of a cut upload, then the logged model."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tracking.faults(f"remove logged model {upload.model_id}"):
        get_artifact_repository(upload.uri, tracking_uri=tracking.uri).delete_artifacts()
        tracking.client.delete_logged_model(upload.model_id)
