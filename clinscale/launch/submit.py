"""A verb as a job of a running cluster: Ray's own job submission, with code and configs and never with data."""

import asyncio
import contextlib
import functools
import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clinscale
from clinscale.config import fingerprint, nearest
from clinscale.errors import AccessError, ClusterError, ConfigError
from clinscale.patience import Patience
from clinscale.runtime import read_token, variables
from clinscale.storage import sha256
from clinscale.units import format_bytes

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

VERBS = (
    "corpus",
    "pretrain",
    "finetune",
    "tune",
    "study",
    "tasks",
    "predict",
    "report",
    "models",
    "bench",
    "doctor",
)
"""Verbs that a cluster runs; the others are for the user's own machine."""
_CONFIGS = (".yaml", ".yml", ".toml", ".sh", ".md", ".py")  # notes come as JSON, and without any ending
_MOST_BYTES = 20 * 2**20
_MOST_FILE_BYTES = 2**20
_LEFT_OUT = {".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_ANSWER_S = 10.0
_READY_S = 60.0
_LONGEST_PAUSE_S = 2.0
"""Seconds in which a head that has just started must take jobs."""


@dataclass(frozen=True)
class Shipment:
    """Files that a job takes along from this machine."""

    arguments: tuple[str, ...]
    """Arguments of `clinscale` on the cluster, with the paths that the files have there."""
    files: Mapping[str, Path]
    """Path in the job's working directory -> file here."""
    code: Path
    """The package that is installed here: the cluster runs this code whatever is installed there."""

    @property
    def size_bytes(self) -> int:
        """Bytes of configs and code."""
        return sum(file.stat().st_size for file in (*self.files.values(), *_code(self.code).values()))

    def digest(self) -> str:
        """Digest of the command and of all files that are sent; equal submissions have equal digests."""
        files, code = (
            {name: sha256(file) for name, file in some.items()} for some in (self.files, _code(self.code))
        )
        return fingerprint({"arguments": self.arguments, "files": files, "code": code})

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Working directory and package, as they travel, below `folder`."""
        working, package = folder / "work", folder / "clinscale"
        working.mkdir(parents=True)
        for root, some in ((working, self.files), (package, _code(self.code))):
            for name, file in some.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, root / name)
        return working, package


def pack(arguments: Sequence[str], working_dir: str | Path | None = None) -> Shipment:
    """The files that the verb needs: the configs that it names, or all of `working_dir`, which may hold no data.

    Raises:
        ConfigError: no verb that a cluster runs, no home on storage that all nodes share, data among the files.
    """
    if not arguments or arguments[0] not in VERBS:
        found = f"got {arguments[0]!r}" if arguments else "none was given"
        raise ConfigError(f"the command after `--` must begin with one of {', '.join(VERBS)}; {found}")
    if arguments[0] in ("pretrain", "finetune", "tune", "study") and not any(
        word == "--home" or word.startswith("--home=") for word in arguments
    ):
        raise ConfigError(
            f"{arguments[0]} keeps runs and checkpoints in its home, and a job's own folder goes with its node; "
            "add --home FOLDER on the storage that all nodes share"
        )
    files: dict[str, Path] = {}
    words = []
    if working_dir is not None:
        folder = Path(working_dir)
        if not folder.is_dir():
            raise ConfigError(f"--working-dir {folder} is no folder here; name one, or leave it out")
        files = {str(file.relative_to(folder)): file for file in _files_below(folder)}
        _refuse_data(folder, files)
        words = list(arguments)
    else:
        for word in arguments:
            here = Path(word)
            if here.suffix in (".yaml", ".yml") and here.is_file():
                name = here.name if here.is_absolute() or ".." in here.parts else str(here)
                if files.get(name, here) != here:
                    raise ConfigError(f"{files[name]} and {here} would have one name on the cluster; rename one")
                files[name] = here
                word = name
            words.append(word)
    return Shipment(tuple(words), files, Path(clinscale.__file__).parent)


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it."""

    id: str
    status: str
    """Ray's: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    entrypoint: str = ""
    message: str = ""
    exit_code: int | None = None
    """Exit code of the command, once it has ended by itself."""

    @property
    def has_ended(self) -> bool:
        """Whether the job will not change any more."""
        return self.status in _ENDED


class Jobs:
    """The jobs of the cluster whose dashboard answers at `address`."""

    def __init__(self, address: str, *, token_file: str | Path | None = None, allow_open: bool = False) -> None:
        """Knock first: it must be Ray's dashboard, of this version, closed to strangers and open to this user.

        Args:
            address: `http://127.0.0.1:8265`; `http://` may be left out.
            token_file: of the cluster; None looks where Ray does.
            allow_open: submit also to a cluster that lets everybody in.

        Raises:
            ClusterError: nobody answers, or not a Ray head.
            AccessError: the token is missing, wrong, or nobody is asked for one.
            ConfigError: the cluster has another Ray.
        """
        self.address = address if "://" in address else f"http://{address}"
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError(
                f"{address} is not the address of a dashboard, which reads http://HOST:8265; jobs are handed in there"
            )
        self._token = read_token(token_file)
        self._check_access(allow_open)

    def _check_access(self, allow_open: bool) -> None:
        import ray
        import requests

        def status_of(path: str, **headers: str) -> Any:
            try:
                return requests.get(f"{self.address}{path}", headers=headers, timeout=_ANSWER_S)
            except requests.exceptions.RequestException as error:
                raise ClusterError(
                    f"nobody answers at {self.address} within {_ANSWER_S:g} s ({type(error).__name__}); see that the "
                    "head runs and the tunnel to its dashboard is open: `ray dashboard FILE`, or "
                    "ssh -L 8265:127.0.0.1:8265 HEAD"
                ) from None

        stranger = status_of("/api/jobs/")
        if stranger.status_code == 200 and not allow_open:
            raise AccessError(
                f"the cluster at {self.address} asks for no token: anyone who reaches it reads all its data; start "
                "it with RAY_AUTH_MODE=token, or add --allow-open where nobody else can reach it"
            )
        if stranger.status_code not in (200, 401, 403):
            raise ClusterError(
                f"{self.address} is not the dashboard of a Ray head (status {stranger.status_code}); name its address "
                "and port, 8265 by default"
            )
        headers = {}
        if stranger.status_code != 200:
            if self._token is None:
                raise AccessError(
                    f"the cluster at {self.address} asks for a token and this user has none; name its file with "
                    "--token-file, or put it at ~/.ray/auth_token"
                )
            headers = {"Authorization": f"Bearer {self._token}"}
        version = status_of("/api/version", **headers)
        if version.status_code in (401, 403):
            raise AccessError(
                f"the cluster at {self.address} refuses this token; ask for the one it was started with"
            )
        try:
            theirs = version.json()["ray_version"]
        except (ValueError, KeyError, TypeError):
            raise ClusterError(
                f"{self.address} is not the dashboard of a Ray head; name its address and port, 8265 by default"
            ) from None
        if theirs != ray.__version__:
            raise ConfigError(
                f"the cluster at {self.address} runs Ray {theirs}, this machine {ray.__version__}; both must be the "
                "same: use the environment or image that the cluster was made with"
            )

    def submit(
        self,
        shipment: Shipment,
        *,
        environment: Mapping[str, str] | None = None,
        preflight: Sequence[str] | None = (),
        scratch: Path,
    ) -> tuple[Job, bool]:
        """Hand it in, and whether it is new: the same work is not begun twice, unless it failed or was stopped.

        Args:
            shipment: from `pack`.
            environment: of the job, beside what clinscale sets; Ray's dashboard does not show it.
            preflight: options of `clinscale cluster preflight`, which runs first; None leaves it out.
            scratch: folder to lay out in what travels.

        Raises:
            ClusterError: the cluster fails.
        """
        job_id, before = self._free_id(f"{shipment.arguments[0]}-{shipment.digest()}")
        if before:
            return before, False
        working, package = shipment.write(scratch)
        run = "python -m clinscale"
        parts = [] if preflight is None else [f"{run} cluster preflight {shlex.join(preflight)}".rstrip()]
        parts.append(f"exec {run} {shlex.join(shipment.arguments)}")
        job = {
            "entrypoint": " && ".join(parts),
            "submission_id": job_id,
            "runtime_env": {
                "working_dir": str(working),
                "py_modules": [str(package)],
                "env_vars": dict(environment or {}),
            },
            "metadata": {"clinscale": clinscale.__version__, "user": os.environ.get("USER", "")},
        }
        patience = Patience(_READY_S, longest_pause_s=_LONGEST_PAUSE_S)
        with self._asked("submit"):
            while True:
                try:
                    self._client.submit_job(**job)
                    break
                except RuntimeError as error:  # a head that has just started says so in words only
                    if "No available agent" not in str(error):
                        raise
                    if not patience.pause():
                        raise ClusterError(
                            f"the cluster at {self.address} has no agent on its head that takes jobs; see whether its "
                            "port, 52365 by default, is taken there by another Ray, and restart the head"
                        ) from None
        return self.job(job_id), True

    def _free_id(self, job_id: str) -> tuple[str, Job | None]:
        """The first id of this work that is free, or the job that does it or has done it."""
        known = {job.id: job for job in self.list()}
        number, free = 1, job_id
        while job := known.get(free):
            if job.status not in ("FAILED", "STOPPED"):
                return free, job
            number += 1
            free = f"{job_id}-{number}"
        return free, None

    def list(self) -> list[Job]:
        """All jobs that were handed in, the newest last."""
        with self._asked("list its jobs"):
            found = sorted(self._client.list_jobs(), key=lambda job: job.start_time or 0)
        return [_job(details) for details in found if details.submission_id]

    def job(self, job_id: str) -> Job:
        """The job in its present state; ConfigError that names the nearest for an id that is not there."""
        known = self.list()
        for job in known:
            if job.id == job_id:
                return job
        names = [job.id for job in known]
        hint = nearest(job_id, names) if names else "it has no jobs"
        raise ConfigError(f"no job {job_id!r} on {self.address}; {hint}")

    def stop(self, job_id: str, *, wait_s: float = 60.0) -> Job:
        """Ask the job to end, as Ctrl-C does, and return its state after at most `wait_s`; finished work is kept."""
        self.job(job_id)
        with self._asked("stop a job"):
            self._client.stop_job(job_id)
        end = time.monotonic() + wait_s
        while not (job := self.job(job_id)).has_ended and time.monotonic() < end:
            time.sleep(0.5)
        return job

    def logs(self, job_id: str) -> str:
        """All that it has written so far."""
        self.job(job_id)
        with self._asked("read logs"):
            text: str = self._client.get_job_logs(job_id)
        return text

    def follow(
        self,
        job_id: str,
        write: Callable[[str], None],
        *,
        on_lost: Callable[[str], None] = lambda why: None,
        patience_s: float = 600.0,
    ) -> Job:
        """Write what the job writes until it ends; a connection that is lost is taken up again where it broke off.

        Raises:
            ClusterError: nobody answered for `patience_s`; the job goes on.
        """
        written = 0
        patience: Patience | None = None
        while True:
            try:
                text = self._client.get_job_logs(job_id)
                write(text[written:])
                written = len(text)
                patience = None
                if (job := self.job(job_id)).has_ended:
                    text = self._client.get_job_logs(job_id)
                    write(text[written:])
                    return job
                written += asyncio.run(self._tail(job_id, written, write))
            except (ClusterError, OSError, RuntimeError) as error:
                if patience is None:
                    patience = Patience(patience_s, longest_pause_s=_LONGEST_PAUSE_S)
                    on_lost(type(error).__name__)
                if not patience.pause():
                    raise ClusterError(
                        f"{self.address} has not answered for {patience_s:g} s; the job goes on without this "
                        f"terminal: clinscale submit {self.address} --logs {job_id}"
                    ) from None

    async def _tail(self, job_id: str, written: int, write: Callable[[str], None]) -> int:
        """Write what comes after `written` characters while the connection holds; how much that was."""
        seen, new = 0, 0
        async for text in self._client.tail_job_logs(job_id):
            seen += len(text)
            fresh = text[-(seen - written) :] if seen > written else ""
            if fresh:
                write(fresh)
                new += len(fresh)
                written = seen
        return new

    @functools.cached_property
    def _client(self) -> "JobSubmissionClient":
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        # from the environment Ray takes another address than the one that it is given, RAY_ADDRESS if need be
        with variables(RAY_API_SERVER_ADDRESS=self.address):
            client = JobSubmissionClient(self.address, headers=headers)
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("ray.")]:
            logging.getLogger(name).setLevel(logging.WARNING)  # it logs every package that it sends
        return client

    @contextlib.contextmanager
    def _asked(self, action: str) -> Iterator[None]:
        """ClusterError in one sentence when the cluster cannot `action`."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"the cluster at {self.address} did not {action} ({type(error).__name__}); see `ray status` on its head"
            ) from None


def _job(details: Any) -> Job:
    return Job(
        details.submission_id,
        str(details.status.value),
        details.entrypoint,
        (details.message or "").partition(", last available logs")[0],
        details.driver_exit_code,
    )


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _LEFT_OUT.intersection(path.relative_to(folder).parts):
            yield path


def _code(package: Path) -> dict[str, Path]:
    """Path inside the package -> file; search spaces are beside an editable install and inside any other."""
    found = {str(file.relative_to(package)): file for file in _files_below(package) if file.suffix != ".pyc"}
    beside = package.parent / "search_spaces"
    if not (package / "search_spaces").is_dir() and beside.is_dir():
        found |= {f"search_spaces/{file.name}": file for file in sorted(beside.glob("*.yaml"))}
    return found


def _refuse_data(folder: Path, files: Mapping[str, Path]) -> None:
    """ConfigError where a working directory holds what looks like data; its names only, never its text."""
    data = [
        name
        for name, file in files.items()
        if file.suffix.lower() not in _CONFIGS or file.stat().st_size > _MOST_FILE_BYTES or file.is_symlink()
    ]
    if data:
        more = f" and {len(data) - 3} more" if len(data) > 3 else ""
        raise ConfigError(
            f"--working-dir {folder} holds {', '.join(data[:3])}{more}: only code and configs travel with a job, each "
            f"below {format_bytes(_MOST_FILE_BYTES)}, because what travels stays readable on the head; put data on the "
            "cluster's own storage and name its path there"
        )
    total = sum(file.stat().st_size for file in files.values())
    if total > _MOST_BYTES:
        raise ConfigError(
            f"--working-dir {folder} holds {format_bytes(total)}, more than {format_bytes(_MOST_BYTES)}; name a folder "
            "with the job's configs alone"
        )
