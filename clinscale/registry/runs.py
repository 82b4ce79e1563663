"""Runs: one writer each, ended whatever happens, read back as plain records."""

import contextlib
import importlib.metadata
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from clinscale import __version__
from clinscale.errors import AccessError, RegistryError
from clinscale.registry.arrival import upload_whole
from clinscale.registry.contents import Files
from clinscale.registry.process import has_stopped, is_elsewhere, is_gone, is_look_at, look_at, owner, seems_silent
from clinscale.registry.spool import Spool, log_points
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking
from clinscale.storage import read_json

Status = Literal["FINISHED", "FAILED", "KILLED"]

_PARAMS_PER_CALL = 100  # MLflow's limit of one log_batch
_PARENT = "mlflow.parentRunId"
_PLAIN_KEY = re.compile(r"\w[\w\- .:]{0,99}")
_LIBRARIES = ("torch", "transformers", "deepspeed", "ray")


@dataclass(frozen=True)
class UsedData:
    """Data that a run read, as MLflow shows it among the run's inputs; no text."""

    name: str
    fingerprint: str
    """Equal exactly when the data are."""
    context: str
    """Purpose of the data, e.g. `pretraining`."""
    facts: Mapping[str, Any]
    """Counts and sizes."""


class Run:
    """An open run of MLflow. As a context manager it ends itself: FINISHED, FAILED, or KILLED when interrupted.

    With a spool, metrics wait in a file while the server is away: see `Spool`.
    """

    def __init__(self, tracking: Tracking, run_id: str, name: str, spool: Spool | None = None) -> None:
        self._tracking = tracking
        self._spool = spool
        self.id = run_id
        self.name = name

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> bool:
        """Store metrics of one step; whether any was new, which only a spool knows.

        Without a spool: RegistryError when the server stays away longer than MLflow's retries.
        """
        from mlflow.entities import Metric

        if self._spool:
            return self._spool.log(metrics, step or 0)

        now = time.time_ns() // 1_000_000
        points = [Metric(key, float(value), now, step or 0) for key, value in metrics.items()]
        with self._tracking.faults(f"log metrics of run {self.name}"):
            log_points(self._tracking, self.id, points)
        return True

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        from mlflow.entities import RunTag

        with self._tracking.faults(f"tag run {self.name}"):
            self._tracking.client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_inputs(self, data: Sequence[UsedData], models: Sequence[str] = ()) -> None:
        """Name the data and the LoggedModels (by id) that the run begins from, for MLflow's own pages of lineage."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        used = [
            DatasetInput(
                Dataset(
                    name=one.name,
                    digest=one.fingerprint[:36],  # the width of MLflow's column
                    source_type="clinscale",
                    source=json.dumps({"fingerprint": one.fingerprint}),
                    profile=json.dumps(one.facts),
                ),
                [InputTag("mlflow.data.context", one.context)],
            )
            for one in data
        ]
        with self._tracking.faults(f"log the inputs of run {self.name}"):
            self._tracking.client.log_inputs(
                self.id, datasets=used, models=[LoggedModelInput(model) for model in models if model]
            )

    def log_file(self, path: str | os.PathLike[str], folder: str = "") -> None:
        """Store a local file, below `folder` of the run's artifacts; RegistryError where it does not arrive whole."""
        path = Path(path)
        with self._tracking.faults(f"store {path.name} of run {self.name}"):
            client = self._tracking.client
            files = Files(f"run {self.name}", client.get_run(self.id).info.artifact_uri)
            name = f"{folder}/{path.name}".lstrip("/")
            upload_whole(
                self._tracking,
                files,
                {name: path},
                lambda: client.log_artifact(self.id, str(path), folder or None),
            )

    def log_json(self, name: str, values: Any) -> None:
        """Store `values` as the run's artifact `name`, as `log_file` does."""
        with tempfile.TemporaryDirectory(prefix="clinscale-json-") as folder:
            path = Path(folder) / name
            path.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")
            self.log_file(path)

    def deliver(self) -> None:
        """Wait until the server has what the spool holds; nothing is logged afterwards.

        Raises:
            RegistryError: it has not taken all of it within the spool's patience.
        """
        if self._spool and (left := self._spool.close()):
            raise RegistryError(
                f"tracking server {self._tracking.place} has not taken {left} steps of run {self.name}; they are kept, "
                "and the same command delivers them once it answers"
            )
        self._spool = None

    def end(self, status: Status = "FINISHED") -> None:
        """Close the run; RegistryError when the server is away or metrics are still waiting for it."""
        self.deliver()
        with self._tracking.faults(f"end run {self.name}"):
            self._tracking.client.set_terminated(self.id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.end("FINISHED")
            return
        # a signal reaches Python code as one of these two, and who sent it does not want to wait
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        try:
            with self._tracking.impatient() if interrupted else contextlib.nullcontext():
                self.end("KILLED" if interrupted else "FAILED")
        except RegistryError as second:
            error.add_note(str(second))  # the first error is the one to act on


@dataclass(frozen=True)
class RunRecord:
    """A run as MLflow remembers it."""

    id: str
    name: str
    kind: str
    """`pretrain`, `finetune`, `sweep`, `trial`, or empty for a run that clinscale did not start."""
    parent: str | None
    status: str
    start_time: float
    """Seconds since 1970."""
    end_time: float | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    """Last value of each."""


def start_run(
    tracking: Tracking,
    *,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    parent: str | None = None,
) -> Run:
    """Open a run in `experiment`; nested `params` get dotted names. RegistryError when the server fails."""
    from mlflow.entities import Param

    experiment_id = tracking.experiment_id(experiment)
    owned = {
        **tags,
        Tag.CODE_VERSION: code_version(),
        Tag.LIBRARIES: ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES),
        Tag.OWNER: owner(),
        **({_PARENT: parent} if parent else {}),
    }
    listed = [Param(key, str(value)) for key, value in _params(params)]
    with _ended_if_interrupted(tracking, experiment_id, name), tracking.faults(f"start run {name}"):
        run = Run(tracking, _created(tracking, experiment_id, name, owned), name)
        for start in range(0, len(listed), _PARAMS_PER_CALL):
            tracking.client.log_batch(run.id, params=listed[start : start + _PARAMS_PER_CALL])
    return run


def _params(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values under dotted names; a mapping with keys that MLflow takes in no name, as of labels, is JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            if all(_PLAIN_KEY.fullmatch(str(inner)) for inner in value):
                yield from _params(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
        else:
            yield f"{prefix}{key}", value


def _created(tracking: Tracking, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Id of a new run, known again by its start where the server's answer to its making is lost."""
    began_ms = time.time_ns() // 1_000_000
    plain = {key: str(value) for key, value in tags.items()}

    def find() -> list[str]:
        found = _search(tracking, [experiment_id], f"attributes.start_time = {began_ms}", "ASC")
        return [one.id for one in found if one.name == name and one.tags.get(Tag.OWNER) == tags[Tag.OWNER]]

    made: str = tracking.once(
        lambda client: client.create_run(experiment_id, began_ms, plain, name).info.run_id,
        find,
        lambda extra: tracking.client.delete_run(extra),
    )
    return made


@contextlib.contextmanager
def _ended_if_interrupted(tracking: Tracking, experiment_id: str, name: str) -> Iterator[None]:
    """End the running run of that name when the block is interrupted, as nobody else holds it yet."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # the next command tries again: `close_orphans`
        with contextlib.suppress(RegistryError), tracking.impatient():
            for record in list(_search(tracking, [experiment_id], "attributes.status = 'RUNNING'", "DESC")):
                if record.name == name and record.tags.get(Tag.OWNER) == owner():
                    Run(tracking, record.id, name).end("KILLED")
        raise


def open_run(tracking: Tracking, run_id: str) -> Run:
    """A run as it is, ended or not."""
    with tracking.faults(f"read run {run_id}"):
        return Run(tracking, run_id, tracking.client.get_run(run_id).info.run_name)


def reopen_run(tracking: Tracking, run_id: str) -> Run:
    """Continue a run that ended or was orphaned; this process becomes its owner."""
    with tracking.faults(f"reopen run {run_id}"):
        run = tracking.client.get_run(run_id)
        tracking.client.set_tag(run_id, Tag.OWNER, owner())
        if Tag.ALIVE_AT in run.data.tags:  # a run without a spool has no heart that would beat on
            tracking.client.set_tag(run_id, Tag.ALIVE_AT, f"{time.time():.0f}")
        tracking.client.update_run(run_id, status="RUNNING")
    return Run(tracking, run_id, run.info.run_name)


def resume_or_start_run(
    tracking: Tracking,
    *,
    experiment: str,
    name: str,
    kind: str,
    recipe: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    spool: Path | None = None,
) -> Run:
    """The latest run of this name, kind and recipe fingerprint reopened, else a new one.

    With `spool`, a file of the run's folder, metrics wait there while the server is away.
    """
    known = find_run(tracking, experiment=experiment, name=name, kind=kind)
    with _ended_if_interrupted(tracking, tracking.experiment_id(experiment), name):
        if known and known.tags.get(Tag.RECIPE) == recipe:
            run = reopen_run(tracking, known.id)
            run.set_tags(tags)
        else:
            identity = {Tag.KIND: kind, Tag.NAME: name, Tag.RECIPE: recipe}
            run = start_run(tracking, experiment=experiment, name=name, tags={**tags, **identity}, params=params)
        if spool is None:
            return run
        stored: list[tuple[str, int]] = []
        if known:  # by another machine, or by a file that a full disk or a power cut made shorter
            stored = [(key, step) for key in known.metrics for step, _ in metric_history(tracking, run.id, key)]
        return Run(tracking, run.id, run.name, Spool(tracking, run.id, spool, known=stored))


def find_run(tracking: Tracking, *, experiment: str, name: str, kind: str) -> RunRecord | None:
    """The latest run of that name and kind."""
    ids = [tracking.experiment_id(experiment)]
    newest_first = _search(tracking, ids, f"tags.`{Tag.KIND}` = '{kind}'", "DESC")
    return next((record for record in newest_first if record.name == name), None)


def read_run(tracking: Tracking, run_id: str) -> RunRecord | None:
    """The run of that id; None when it is deleted or was never there. AccessError when this account may not see it."""
    from mlflow.exceptions import MlflowException

    with tracking.faults(f"read run {run_id}"):
        try:
            run = tracking.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
    return _record(run) if run.info.lifecycle_stage == "active" else None


def read_runs(tracking: Tracking, *, kind: str | None = None, parent: str | None = None) -> list[RunRecord]:
    """All runs that clinscale started, oldest first; of one kind or below one parent run where given."""
    terms = [f"tags.`{Tag.KIND}` = '{kind}'" if kind else f"tags.`{Tag.KIND}` LIKE '%'"]
    if parent:
        terms.append(f"tags.`{_PARENT}` = '{parent}'")
    return list(_search(tracking, _experiment_ids(tracking), " AND ".join(terms), "ASC"))


def metric_history(tracking: Tracking, run_id: str, key: str) -> list[tuple[int, float]]:
    """`(step, value)` of one metric by step; a step replayed after a resume counts once, with its last value."""
    with tracking.faults(f"read metric {key}"):
        points = tracking.client.get_metric_history(run_id, key)
    latest = {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
    return sorted(latest.items())


def read_json_artifact(tracking: Tracking, run_id: str, name: str) -> Any:
    """The document that `Run.log_json` stored; None where the run has no such artifact."""
    with tracking.faults(f"read {name}"):
        if name not in {artifact.path for artifact in tracking.client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return read_json(tracking.client.download_artifacts(run_id, name, folder))


def orphans(tracking: Tracking) -> list[RunRecord]:
    """Running runs whose process is gone, oldest first.

    A process of this host is looked up. One of another host counts as gone when no heartbeat came between two
    looks of this host, a quarter of an hour apart or more: clocks of two hosts are not compared, as one may be wrong by
    an hour. The first look is noted on the run. A live one that is closed by mistake, because the server was away that
    long, opens again at its next heartbeat.
    """
    running = list(_search(tracking, _experiment_ids(tracking), "attributes.status = 'RUNNING'", "ASC"))
    for record in running:
        _look_again(tracking, record)
    return [record for record in running if is_orphan(record)]


def close_orphans(tracking: Tracking, *, only: str | None = None) -> list[str]:
    """End the `orphans` as KILLED, or `only` the one of that id, and return their ids."""
    closed = []
    for record in [record for record in orphans(tracking) if only in (None, record.id)]:
        with tracking.faults(f"read run {record.id}"):
            now = _record(tracking.client.get_run(record.id))
        if now.status == "RUNNING" and is_orphan(now):  # nobody ended or resumed it meanwhile
            with contextlib.suppress(AccessError):  # another user's, who will close it himself
                Run(tracking, record.id, record.name).end("KILLED")
                closed.append(record.id)
    return closed


def gone_from_here(tracking: Tracking, kind: str) -> set[str]:
    """Names of the runs of a kind whose latest process was one of this host and is gone, and that nobody else runs."""
    records = read_runs(tracking, kind=kind)
    latest = {record.name: record for record in records}
    gone = {record.id for record in records if is_gone(record.tags.get(Tag.OWNER, ""))}
    run = {
        record.name for record in records if record.status == "RUNNING" and record.id not in gone
    }  # of any start
    return {name for name, record in latest.items() if record.id in gone} - run


def _search(
    tracking: Tracking, experiment_ids: list[str], wanted: str, order: Literal["ASC", "DESC"]
) -> Iterator[RunRecord]:
    if not experiment_ids:
        return
    by_start = [f"attributes.start_time {order}"]
    yield from map(
        _record,
        tracking.every(
            "list runs",
            lambda token: tracking.client.search_runs(experiment_ids, wanted, order_by=by_start, page_token=token),
        ),
    )


def _experiment_ids(tracking: Tracking) -> list[str]:
    found = tracking.every("list experiments", lambda token: tracking.client.search_experiments(page_token=token))
    return [experiment.experiment_id for experiment in found]


def _record(run: Any) -> RunRecord:
    return RunRecord(
        id=run.info.run_id,
        name=run.info.run_name,
        kind=run.data.tags.get(Tag.KIND, ""),
        parent=run.data.tags.get(_PARENT),
        status=run.info.status,
        start_time=run.info.start_time / 1000,
        end_time=run.info.end_time / 1000 if run.info.end_time else None,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
    )


def code_version() -> str:
    """Version of clinscale, with the commit where it runs from a git checkout, e.g. `0.5.0+6d5bd2d`."""
    git = Path(__file__).parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        branch = head.removeprefix("ref: ")
        commit = (git / branch).read_text(encoding="utf-8").strip() if branch != head else head
    except OSError:  # installed, or the branch is packed away
        return __version__
    return f"{__version__}+{commit[:7]}"


def is_orphan(record: RunRecord) -> bool:
    """Whether the process of an open run is gone, by what `orphans` goes by."""
    tags = record.tags
    known, alive_at = tags.get(Tag.OWNER, ""), tags.get(Tag.ALIVE_AT)
    if alive_at is None or not is_elsewhere(known):
        return is_gone(known)
    return has_stopped(tags.get(Tag.LOOKED_AT, ""), alive_at)


def _look_again(tracking: Tracking, record: RunRecord) -> None:
    """Note on a run of another host which heartbeat was seen, where it looks old and nobody has noted it."""
    alive_at = record.tags.get(Tag.ALIVE_AT)
    if alive_at is None or not is_elsewhere(record.tags.get(Tag.OWNER, "")) or not seems_silent(alive_at):
        return
    if not is_look_at(record.tags.get(Tag.LOOKED_AT, ""), alive_at):
        with contextlib.suppress(AccessError):  # another user's, who will close it himself
            Run(tracking, record.id, record.name).set_tags({Tag.LOOKED_AT: look_at(alive_at)})
