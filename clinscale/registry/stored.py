"""Stored content of a version in MLflow: names, sizes, and the bytes of one file at a time. Nothing is loaded.

MLflow's own download takes whatever the store sends, and begins anew when it is cut. Here a file goes on where it
stopped (MLflow's proxied route knows HTTP ranges), and never beyond what it is said to hold.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from clinscale.errors import RegistryError
from clinscale.permissions import open_private
from clinscale.registry.cache import clear_scratch, scratch
from clinscale.registry.tracking import Tracking
from clinscale.registry.versions import ModelVersion
from clinscale.storage import Sha256Beside

_CHUNK_BYTES = 2**20


class StoredFiles:
    """The artifacts of one version."""

    def __init__(self, tracking: Tracking, version: ModelVersion) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        self._action = f"download {version.label}"
        self._label = version.label
        self._tracking = tracking
        with tracking.faults(self._action):
            uri = tracking.client.get_model_version_download_uri(version.name, str(version.version))
            found = get_artifact_repository(uri, tracking_uri=tracking.uri, registry_uri=tracking.uri)
        self._repository = getattr(found, "repo", found)  # what a `runs:/` or `models:/` URI points to
        self._is_http = isinstance(self._repository, HttpArtifactRepository)
        self._is_local = isinstance(self._repository, LocalArtifactRepository)
        if self._is_http and _host(self._repository.artifact_uri) != _host(tracking.uri):
            raise RegistryError(  # it would be sent the user's password
                f"{self._label}: its files are on another server than {tracking.place}, "
                f"{_host(self._repository.artifact_uri)}; ask its owner to register it here"
            )

    def sizes(self, folder: str = "") -> dict[str, int | None]:
        """Size in bytes of each file directly in `folder`, by name; None for a subfolder.

        Raises:
            RegistryError: the server is away or says no, or a link is there.
        """
        with self._tracking.faults(self._action):
            listed = self._tracking.answer(self._repository.list_artifacts, folder or None)
        if self._is_local:  # a server sends what a link leads to, and here too it would be followed
            for path in (Path(self._repository.artifact_dir, item.path) for item in listed):
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise RegistryError(
                        f"{self._label}: {path.name} is a link; a model folder holds plain files only: register the "
                        "model again"
                    )
        # MLflow leaves a size of zero out
        return {PurePosixPath(item.path).name: None if item.is_dir else item.file_size or 0 for item in listed}

    def fetch(
        self, path: str, target: Path, limit_bytes: int, on_bytes: Callable[[int], None] = lambda _: None
    ) -> str | None:
        """Download the rest of the file at `path` into `target`, at most one byte more than `limit_bytes`.

        `on_bytes` is called with the number of bytes in `target`. The answer is the SHA-256 of what has come, as hex;
        None where `target` had a beginning.

        Raises:
            RegistryError: the server is away or says no; what has come stays in `target`.
        """
        begun_bytes = have_bytes = target.stat().st_size if target.exists() else 0
        try:
            with (
                Sha256Beside() as digest,
                open_private(target, "ab", follow=False) as written,
                contextlib.closing(self._read(path, have_bytes, target)) as chunks,
            ):
                for chunk in chunks:
                    wanted = chunk[: limit_bytes + 1 - have_bytes]
                    digest.add(wanted)
                    written.write(wanted)
                    have_bytes += len(chunk)
                    on_bytes(min(have_bytes, limit_bytes))
                    if have_bytes > limit_bytes:
                        break
                return None if begun_bytes else digest.hexdigest()
        except OSError as error:
            error.filename = error.filename or str(target)  # a write does not say of what
            raise

    def _read(self, path: str, start: int, target: Path) -> Generator[bytes]:
        """The bytes of a stored file from `start` on."""
        with self._tracking.faults(self._action):
            if self._is_local:
                yield from self._read_local(Path(self._repository.get_local_path(path)), start)
            elif self._is_http:
                yield from self._read_http(path, start)
            else:  # an object store that this machine may read itself: MLflow's own drivers know how
                clear_scratch(target.parent.parent / "object")
                with scratch(target.parent.parent / "object") as temporary:
                    whole = temporary / "object"
                    # not `download_artifacts`, which makes one text of whatever is raised
                    self._tracking.answer(self._repository._download_file, path, str(whole), moves_files=True)
                    yield from self._read_local(whole, start)

    def _read_local(self, file: Path, start: int) -> Iterator[bytes]:
        with file.open("rb") as stream:
            stream.seek(start)
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def _read_http(self, path: str, start: int) -> Iterator[bytes]:
        import requests
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        credentials = get_default_host_creds(self._repository.artifact_uri)

        def ask(wanted: dict[str, str]) -> requests.Response:
            response: requests.Response = http_request(
                credentials, f"/{path}", "GET", stream=True, extra_headers=wanted
            )
            if response.ok and response.headers.get("Content-Type", "").startswith("text/html"):
                response.close()  # no file of a model is one, and MLflow sends them as what they are
                raise requests.exceptions.ContentDecodingError("a page in place of a file", response=response)
            return response

        while True:
            begun = start
            # a range counts the bytes that are sent, which compression would change
            wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
            response = self._tracking.answer(ask, wanted, moves_files=True)
            with contextlib.closing(response):
                response.raise_for_status()
                # a server that knows no ranges sends all of it again
                known = 0 if response.status_code == requests.codes.partial else start
                try:
                    for chunk in response.iter_content(_CHUNK_BYTES):
                        if new := chunk[known:]:
                            start += len(new)
                            yield new
                        known = max(0, known - len(chunk))
                    return
                except requests.RequestException:  # cut: worth another try as long as more comes each time
                    if start == begun:
                        raise


def _host(uri: str) -> str:
    return urlsplit(uri).netloc.rpartition("@")[2]
