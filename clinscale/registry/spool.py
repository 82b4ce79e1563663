"""Metrics that wait for the tracking server in a file, so that training never waits for it.

Each line of the file is one call: `{"step", "timestamp_ms", "metrics"}`, in the order of the calls. A thread delivers
them; `FILE.delivered` remembers to which run and how far. MLflow stores a point once for (key, timestamp, step, value),
so a delivery that is repeated after a crash changes nothing.
"""

import contextlib
import errno
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clinscale import held
from clinscale.errors import ClinscaleError, ClusterError, RegistryError
from clinscale.patience import FIRST_PAUSE_S, Patience
from clinscale.permissions import make_folder, open_private
from clinscale.registry.tags import Tag
from clinscale.registry.tracking import Tracking
from clinscale.storage import parse_json, read_json, write_json

HEARTBEAT_S = 60.0
"""Seconds between two signs of life of an open run."""

PATIENCE_S = 30.0
"""Seconds that the end of a run waits for a server that has not taken all."""

_POINTS_PER_CALL = 1000  # MLflow's limit of one log_batch

log = logging.getLogger(__name__)


class Spool:
    """The write-ahead file of one open run and the thread that empties it."""

    def __init__(
        self, tracking: Tracking, run_id: str, path: Path, *, known: Iterable[tuple[str, int]] = ()
    ) -> None:
        """Go on with `path` where an earlier process stopped; a line that it had begun is cut off.

        Args:
            tracking: the server, which may go away at any time.
            run_id: the run. One that is not the run of the last delivery gets everything from the start.
            path: of the file.
            known: (key, step) that the run has already although the file does not.
        """
        self._tracking, self._run_id, self._path = tracking, run_id, path
        make_folder(path.parent)
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()  # with the offset behind each line
        self._seen = set(known)
        self._size = 0  # of all lines; the last ones are `_unwritten` while the disk is full
        self._unwritten = b""
        self._recover()
        self._lock, self._closed = threading.Condition(), threading.Event()
        self._is_ill = False
        self._thread = threading.Thread(target=self._deliver_all, name="mlflow-spool", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> bool:
        """Keep what is new of `metrics` and return at once; False when nothing was.

        A step that is done again after a restart brings the same (key, step): the first one stays, with its time.
        """
        new = {key: float(value) for key, value in metrics.items() if (key, step) not in self._seen}
        if not new:
            return False
        self._seen.update((key, step) for key in new)
        entry = {"step": step, "timestamp_ms": time.time_ns() // 1_000_000, "metrics": new}
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            self._append(line)
            self._waiting.append((self._size, entry))
            self._lock.notify()
        return True

    def close(self) -> int:
        """Deliver what is left for at most `PATIENCE_S`; how many calls of `log` are still undelivered."""
        with self._lock:
            if self._unwritten:
                self._append(b"")
        self._closed.set()
        with self._lock:
            self._lock.notify()
        self._thread.join(PATIENCE_S)
        return len(self._waiting)

    def _recover(self) -> None:
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # the process died while it wrote
            with self._path.open("r+b") as stream:
                stream.truncate(len(whole))
        delivered = self._delivered()
        for number, line in enumerate(whole.splitlines(keepends=True), 1):
            self._size += len(line)
            entry = _entry_of(line)
            if entry is None:
                log.warning("%s line %d is damaged: its metrics are left out", self._path, number)
                continue
            self._seen.update((key, entry["step"]) for key in entry["metrics"])
            if self._size > delivered:
                self._waiting.append((self._size, entry))

    @property
    def _mark(self) -> Path:
        return self._path.with_name(f"{self._path.name}.delivered")

    def _delivered(self) -> int:
        """Number of the file's bytes that this run has delivered."""
        with contextlib.suppress(ClinscaleError, KeyError, TypeError):
            mark = read_json(self._mark)
            return int(mark["bytes"]) if mark["run_id"] == self._run_id else 0
        return 0

    def _append(self, line: bytes) -> None:
        written = self._size - len(self._unwritten)
        self._size += len(line)
        self._unwritten += line
        try:
            if held.is_away(self._path):  # training does not wait for it
                raise FileNotFoundError(errno.ENOENT, "its folder is away")
            with open_private(self._path, "ab") as stream:
                if stream.tell() > written:  # a full disk took half a line
                    stream.truncate(written)
                stream.write(self._unwritten)
            self._unwritten, self._is_ill = b"", False
        except (OSError, ClusterError) as error:
            if not self._is_ill:
                reason = error.strerror if isinstance(error, OSError) else "its folder is another one"
                log.warning("%s cannot be written (%s): metrics wait in memory alone", self._path, reason)
            self._is_ill = True

    def _deliver_all(self) -> None:
        """Deliver entries until the spool is closed and empty."""
        patience, next_beat_s, reported = Patience(), time.monotonic(), False
        while True:
            with self._lock:
                if not self._waiting and self._closed.is_set():
                    return
                if not self._waiting:
                    self._lock.wait(max(0.0, next_beat_s - time.monotonic()))
                batch = self._batch()
            try:
                with self._tracking.impatient():
                    if time.monotonic() >= next_beat_s and not self._closed.is_set():
                        self._beat()
                        next_beat_s = time.monotonic() + HEARTBEAT_S
                    if batch:
                        self._deliver([entry for _, entry in batch])
            except RegistryError as error:
                if not reported:
                    log.warning("%s; training goes on, its metrics wait in %s", error, self._path)
                    reported = True
                patience.pause(self._pause)
                continue
            patience, reported = Patience(), False
            with self._lock:
                for _ in batch:
                    self._waiting.popleft()
                written = self._size - len(self._unwritten)
            if batch and not held.is_away(self._mark):
                with contextlib.suppress(OSError, ClinscaleError):  # delivered twice is delivered once
                    write_json(self._mark, {"run_id": self._run_id, "bytes": min(batch[-1][0], written)})

    def _pause(self, pause_s: float) -> None:
        if self._closed.wait(pause_s):  # somebody waits for the end
            time.sleep(FIRST_PAUSE_S)

    def _batch(self) -> list[tuple[int, dict[str, Any]]]:
        """The first calls that wait, as many as one request holds, at least one."""
        batch: list[tuple[int, dict[str, Any]]] = []
        points = 0
        for item in self._waiting:
            points += len(item[1]["metrics"])
            if batch and points > _POINTS_PER_CALL:
                break
            batch.append(item)
        return batch

    def _deliver(self, entries: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, entry["timestamp_ms"], entry["step"])
            for entry in entries
            for key, value in entry["metrics"].items()
        ]
        with self._tracking.faults("log metrics"):
            log_points(self._tracking, self._run_id, points)

    def _beat(self) -> None:
        """Alive and RUNNING: after a long outage another host may have closed the run as an orphan."""
        with self._tracking.faults("take a heartbeat"):
            self._tracking.client.set_tag(self._run_id, Tag.ALIVE_AT, f"{time.time():.0f}")
            self._tracking.client.update_run(self._run_id, status="RUNNING")


def log_points(tracking: Tracking, run_id: str, points: Sequence[Any]) -> None:
    """Store `Metric`s of MLflow in as many requests as they take."""
    for first in range(0, len(points), _POINTS_PER_CALL):
        tracking.client.log_batch(run_id, metrics=points[first : first + _POINTS_PER_CALL])


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """Entry that `log` wrote in a line; None where the line is damaged."""
    try:
        entry = parse_json(line.decode())
        metrics = {str(key): float(value) for key, value in entry["metrics"].items()}
        return {"step": int(entry["step"]), "timestamp_ms": int(entry["timestamp_ms"]), "metrics": metrics}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
