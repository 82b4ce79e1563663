"""Object stores that are away for a while: waited for by one policy, whatever the library that asks them.

Drivers repeat a request for a few seconds and then raise what their library has for it.
"""

import errno
import io
from collections.abc import Callable
from typing import IO, Any, TypeVar

from clinscale.errors import ClusterError, with_causes
from clinscale.patience import PATIENCE_S, ask_again

_AWAY = {
    "botocore": ("ConnectionError", "HTTPClientError", "ResponseParserError"),
    "boto3": ("RetriesExceededError",),
    "s3transfer": ("RetriesExceededError",),
    "aiohttp": ("ClientConnectionError", "ClientPayloadError", "ServerTimeoutError"),
    "azure": ("ServiceRequestError", "ServiceResponseError"),
    "google": ("ServerError", "TransportError"),
    "urllib3": ("HTTPError",),
}
"""Names of the exceptions, or of their bases, by which a library says that it got no answer, or nonsense."""

_BUSY = (429, 500, 502, 503, 504)
_LIBRARIES = {*_AWAY, "s3fs", "gcsfs", "adlfs"}

_Answer = TypeVar("_Answer")


def why_away(error: BaseException | None) -> str | None:
    """Reason, in a word, why a store gave no answer; None for an error that is one."""
    for one in with_causes(error):
        if isinstance(one, FileNotFoundError | PermissionError | ClusterError) or is_of_certificate(one):
            return None
        if why := why_away_itself(one):
            return why
    return None


def why_away_itself(error: BaseException) -> str | None:
    """The reason as `why_away`, by this error alone and not by what it came from."""
    for kind in type(error).__mro__:
        if kind.__name__ in _AWAY.get(kind.__module__.partition(".")[0], ()):
            return type(error).__name__
    if isinstance(error, ConnectionError | TimeoutError):
        return type(error).__name__
    if isinstance(error, OSError) and error.errno == errno.EBUSY:  # s3fs's word for 503
        return "busy"
    status = _said(error, "ResponseMetadata", "HTTPStatusCode")
    return f"HTTP {status}" if status in _BUSY else None


def is_of_certificate(error: BaseException) -> bool:
    """Whether a server's certificate is not trusted, which it will not be later."""
    return any(word in type(error).__name__ for word in ("SSL", "Certificate"))


def refusal(error: BaseException) -> str | None:
    """A store's answer in a word, of an error that its library raised; None where the error is another's."""
    if type(error).__module__.partition(".")[0] not in _LIBRARIES:
        return None
    for one in with_causes(error):
        code = _said(one, "Error", "Code")
        if isinstance(code, str) and code.isalnum():
            return code
    return type(error).__name__


def _said(error: BaseException, part: str, name: str) -> object:
    """A value of the answer that botocore keeps with an error; None where it keeps none."""
    response = getattr(error, "response", None)
    found = response.get(part) if isinstance(response, dict) else None
    return found.get(name) if isinstance(found, dict) else None


def answered(uri: str, ask: Callable[[], _Answer]) -> _Answer:
    """The store's answer to what may be asked again.

    Args:
        uri: names the store in messages.
        ask: asks it.

    Raises:
        ClusterError: it gives none for `PATIENCE_S`.
    """
    store = f"object store {'/'.join(uri.split('/')[:3])}"
    try:
        return ask_again(ask, why_away, what=store, total_s=PATIENCE_S)
    except Exception as error:
        if not (why := why_away(error)):
            raise
        raise ClusterError(
            f"{store} has not answered for {PATIENCE_S:g} s ({why}); check the network and the store's address, then "
            "run the same command again, which goes on from what is there"
        ) from None


class PatientReads(io.RawIOBase):
    """A file of a store, each of whose reads waits while that is away: a driver's place in it moves with what came."""

    def __init__(self, uri: str, stream: IO[bytes]) -> None:
        self._uri, self._stream = uri, stream

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new place in bytes."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """The place in bytes."""
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        """Number of bytes that came."""
        block = answered(self._uri, lambda: self._stream.read(len(buffer)))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        """Close it and the store's file."""
        self._stream.close()
        super().close()
