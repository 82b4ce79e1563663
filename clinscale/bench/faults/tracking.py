"""Faults of the tracking server while a run logs and registers: each metric once, each version once."""

import contextlib
import functools
import shutil
import time
from collections.abc import Callable

from clinscale import registry, runtime
from clinscale.bench.faults.fault import Fault, Outcome, Scene
from clinscale.bench.faults.loss import check
from clinscale.bench.faults.server import TrackingServer
from clinscale.errors import RegistryError

_DEMANDED = "training unaffected, each metric delivered once, the version registered once"
_STEPS = 60
_STEP_S = 0.05
_LOGGED_WITHIN_S = 20.0
"""Most that the calls of `log` may take together; one that waited for the server would take longer."""

Ill = Callable[[TrackingServer], None]


def faults() -> list[Fault]:
    """One for each way to be ill."""
    kinds: dict[str, tuple[Ill, Ill]] = {
        "killed and restarted": (TrackingServer.kill, TrackingServer.start),
        "stopped and woken": (TrackingServer.stop, TrackingServer.go_on),
        "answering 500": (lambda server: server.answer("500"), lambda server: server.answer("fair")),
        "answering nonsense": (lambda server: server.answer("nonsense"), lambda server: server.answer("fair")),
        "slow": (lambda server: server.answer("slow"), lambda server: server.answer("fair")),
        "losing its answers": (lambda server: server.answer("cut"), lambda server: server.answer("fair")),
    }
    return [
        Fault(f"tracking server {how}", _DEMANDED, functools.partial(_attempt, falls_ill=falls_ill, heals=heals))
        for how, (falls_ill, heals) in kinds.items()
    ]


def _attempt(scene: Scene, *, falls_ill: Ill, heals: Ill) -> Outcome:
    """The server is ill within a run, and again when its model is registered."""
    model = scene.ground.base_model
    with TrackingServer(scene.folder / "server") as server:
        shutil.copy(scene.ground.database, scene.folder / "server" / "mlflow.db")
        server.start()
        with runtime.variables(MLFLOW_HTTP_REQUEST_TIMEOUT="60"):  # its first answer takes a while
            tracking = registry.connect(server.uri)
        run = scene.ground.run(tracking, scene.folder / "metrics.jsonl")
        ill_at = scene.rng.randrange(1, _STEPS)
        logging_s = 0.0
        for step in range(_STEPS):
            if step == ill_at:
                falls_ill(server)
            began_s = time.monotonic()
            run.log({"train/loss": float(step)}, step=step)
            logging_s += time.monotonic() - began_s
            time.sleep(_STEP_S)
        heals(server)
        check(logging_s < _LOGGED_WITHIN_S, f"{_STEPS} calls of log took {logging_s:.0f} s: training waited")
        run.deliver()
        falls_ill(server)
        with runtime.variables(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="10"):
            with contextlib.suppress(RegistryError):
                registry.register(tracking, run.id, model, name="base", tags={})
        heals(server)
        version = registry.register(tracking, run.id, model, name="base", tags={})
        run.end()
        points = tracking.client.get_metric_history(run.id, "train/loss")
        stored = sorted((point.step, point.value) for point in points)
        check(stored == [(step, float(step)) for step in range(_STEPS)], "metrics are missing, or there twice")
        versions = [(one.version, one.digest) for one in registry.list_versions(tracking)]
        check(versions == [(1, version.digest)], f"{len(versions)} versions are registered instead of one")
        check({one.status for one in registry.read_runs(tracking)} == {"FINISHED"}, "a run is not FINISHED")
    return Outcome()
