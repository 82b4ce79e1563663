"""Faults of the tracking server at the start, within a run and within a registration: all of it once."""

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clinscale import registry, runtime
from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.loss import check
from clinscale.bench.faults.server import TrackingServer
from clinscale.errors import RegistryError

_DEMANDED = "training unaffected, each metric delivered once, the version registered once"
_STEPS = 60
_STEP_S = 0.05
_LOGGED_WITHIN_S = 20.0
"""Most that the calls of `log` may take together; one that waited for the server would take longer."""
_TOO_LATE = "the registration was over before the moment"
_ILL_S = 3.0
_STOPPED_S = 60.0
_LATE_S = 20.0
_START_S = 300.0
"""Time that the server may take to start, on a busy machine."""

Ill = Callable[[TrackingServer], None]


def faults() -> list[Fault]:
    """One for each way to be ill, and those of a server that is down at the start or stopped for long."""
    kinds: dict[str, tuple[Ill, Ill]] = {
        "killed and restarted": (TrackingServer.kill, TrackingServer.start),
        "stopped and woken": (TrackingServer.stop, TrackingServer.go_on),
        "answering 500": (lambda server: server.answer("500"), lambda server: server.answer("fair")),
        "answering nonsense": (lambda server: server.answer("nonsense"), lambda server: server.answer("fair")),
        "slow": (lambda server: server.answer("slow"), lambda server: server.answer("fair")),
        "losing its answers": (lambda server: server.answer("cut"), lambda server: server.answer("fair")),
    }
    return [
        Fault("tracking server down at start", "said at once, waited for where asked, nothing left behind", _late),
        *(
            Fault(
                f"tracking server {how}", _DEMANDED, functools.partial(_attempt, falls_ill=falls_ill, heals=heals)
            )
            for how, (falls_ill, heals) in kinds.items()
        ),
        Fault(f"tracking server stopped for {_STOPPED_S:.0f} s", _DEMANDED, _stopped),
        Fault(
            "tracking server stopped until the command has ended",
            "reported within a stated time, and the same command goes on",
            _stopped_for_good,
        ),
    ]


def _late(scene: Scene) -> Outcome:
    """A server that starts after the work that needs it."""
    with _server(scene, started=False) as server:
        with contextlib.suppress(RegistryError):
            registry.connect(server.direct_uri)
            check(False, "a server that is down was found")
        with ThreadPoolExecutor(1) as beside:
            late_s = scene.rng.uniform(0, _LATE_S)
            starts = beside.submit(_after, late_s, server.start)
            tracking = registry.connect(server.direct_uri, patience_s=_START_S)
            starts.result()
        run = scene.ground.run(tracking, scene.folder / "metrics.jsonl")
        _log(run, at=0, then=lambda: None)
        versions = [registry.register(tracking, run.id, scene.ground.base_model, name="base", tags={})]
        _check(tracking, run, versions)
    return Outcome()


def _attempt(scene: Scene, *, falls_ill: Ill, heals: Ill) -> Outcome:
    """The server is ill within a run, before its model is registered, and while a second one is."""
    with _server(scene) as server:
        tracking = _connect(server)
        run = scene.ground.run(tracking, scene.folder / "metrics.jsonl")
        _log(run, at=scene.rng.randrange(1, _STEPS), then=lambda: falls_ill(server))
        heals(server)
        run.deliver()
        falls_ill(server)
        with runtime.variables(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="10"):
            with contextlib.suppress(RegistryError):
                registry.register(tracking, run.id, scene.ground.base_model, name="base", tags={})
        heals(server)
        versions, took_s = _registered(tracking, run, scene.ground.base_model)
        with _ill_for(_ILL_S, server, falls_ill, heals, after_s=scene.rng.uniform(0, took_s)):
            versions += _registered(tracking, run, _other(scene))[0]
        _check(tracking, run, versions)
    return Outcome()


def _stopped(scene: Scene) -> Outcome:
    """The server does nothing for a minute within a registration, while metrics are logged."""
    stop, wake = TrackingServer.stop, TrackingServer.go_on
    with _server(scene) as server:
        tracking = _connect(server)
        run = scene.ground.run(tracking, scene.folder / "metrics.jsonl")
        versions, took_s = _registered(tracking, run, scene.ground.base_model)
        after_s = scene.rng.uniform(0, took_s)
        with ThreadPoolExecutor(1) as beside, _ill_for(_STOPPED_S, server, stop, wake, after_s=after_s):
            logged = beside.submit(_log, run, at=0, then=lambda: time.sleep(after_s))
            versions += _registered(tracking, run, _other(scene))[0]
            logged.result()
        _check(tracking, run, versions)
    return Outcome()


def _stopped_for_good(scene: Scene) -> Outcome:
    """The server does nothing from a moment of a registration on, until that has been given up."""
    with _server(scene) as server:
        tracking = _connect(server)
        run = scene.ground.run(tracking, scene.folder / "metrics.jsonl")
        _log(run, at=0, then=lambda: None)
        versions, took_s = _registered(tracking, run, scene.ground.base_model)
        with ThreadPoolExecutor(1) as beside, tracking.impatient():
            after_s = scene.rng.uniform(0, took_s)
            stops = beside.submit(_after, after_s, server.stop)
            began_s = time.monotonic()
            other = _other(scene)
            given_up = False
            try:
                registry.register(tracking, run.id, other, name="base", tags={})
            except RegistryError:
                given_up = True
            took_s = time.monotonic() - began_s
            stops.result()
        if not given_up:
            raise NotStruckError(_TOO_LATE)
        check(took_s < _LOGGED_WITHIN_S, f"a server that is silent was given up after {took_s:.0f} s alone")
        server.go_on()
        versions += _registered(tracking, run, other)[0]
        _check(tracking, run, versions)
    return Outcome()


@contextlib.contextmanager
def _server(scene: Scene, *, started: bool = True) -> Iterator[TrackingServer]:
    """A server on an empty database."""
    with TrackingServer(scene.folder / "server") as server:
        shutil.copy(scene.ground.database, scene.folder / "server" / "mlflow.db")
        if started:
            server.start()
        yield server


def _connect(server: TrackingServer) -> registry.Tracking:
    with runtime.variables(MLFLOW_HTTP_REQUEST_TIMEOUT="60"):  # its first answer takes a while
        return registry.connect(server.uri)


def _log(run: registry.Run, *, at: int, then: Callable[[], None]) -> None:
    """Log every step, with something that happens at one of them; LossError when training would have waited."""
    logging_s = 0.0
    for step in range(_STEPS):
        if step == at:
            then()
        began_s = time.monotonic()
        run.log({"train/loss": float(step)}, step=step)
        logging_s += time.monotonic() - began_s
        time.sleep(_STEP_S)
    check(logging_s < _LOGGED_WITHIN_S, f"{_STEPS} calls of log took {logging_s:.0f} s: training waited")


def _after(pause_s: float, act: Callable[[], None]) -> None:
    time.sleep(pause_s)
    act()


@contextlib.contextmanager
def _ill_for(
    ill_s: float, server: TrackingServer, falls_ill: Ill, heals: Ill, *, after_s: float
) -> Iterator[None]:
    """Have the server ill for that long from a moment of the block on; NotStruckError when that was over before it."""
    struck_s: list[float] = []

    def illness() -> None:
        time.sleep(after_s)
        falls_ill(server)
        struck_s.append(time.monotonic())
        time.sleep(ill_s)
        heals(server)

    with ThreadPoolExecutor(1) as beside:
        ends = beside.submit(illness)
        yield
        over_s = time.monotonic()
        ends.result()
    if over_s < struck_s[0]:
        raise NotStruckError(_TOO_LATE)


def _registered(
    tracking: registry.Tracking, run: registry.Run, folder: Path
) -> tuple[list[registry.ModelVersion], float]:
    """The version, and seconds that its registration took."""
    began_s = time.monotonic()
    version = registry.register(tracking, run.id, folder, name="base", tags={})
    return [version], time.monotonic() - began_s


def _other(scene: Scene) -> Path:
    """A second model folder."""
    folder = shutil.copytree(scene.ground.base_model, scene.folder / "other")
    (folder / "README.md").write_text("another", encoding="utf-8")
    return folder


def _check(tracking: registry.Tracking, run: registry.Run, versions: list[registry.ModelVersion]) -> None:
    """End the run; LossError unless it is the only one, with each metric, and each version is there, all once."""
    run.end()
    points = tracking.client.get_metric_history(run.id, "train/loss")
    stored = sorted((point.step, point.value) for point in points)
    check(stored == [(step, float(step)) for step in range(_STEPS)], "metrics are missing, or there twice")
    found = [(one.version, one.digest) for one in registry.list_versions(tracking)]
    wanted = [(number, one.digest) for number, one in enumerate(versions, 1)]
    check(found == wanted, f"{len(found)} versions are registered instead of {len(wanted)}")
    runs = [(one.id, one.status) for one in registry.read_runs(tracking)]
    check(runs == [(run.id, "FINISHED")], f"of the run there are {len(runs)}, or it is not FINISHED")
