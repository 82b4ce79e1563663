"""Checkpoint files that cost training one copy in memory: the rest happens in a thread."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinscale.permissions import make_folder, open_private
from clinscale.storage import sha256

if TYPE_CHECKING:
    import torch


class Snapshot:
    """Copies of what DeepSpeed wants to save, in buffers that the next snapshot uses again.

    Fresh memory would be paid for page by page, several times the price of the copy.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._used = 0
        self._seen: dict[tuple[Any, ...], torch.Tensor] = {}
        self.files: dict[Path, Any] = {}
        """Copies of the contents of the files to write."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors in `files`."""
        return sum(buffer.nbytes for buffer in self._buffers[: self._used])

    def clear(self) -> None:
        """Forget the files, keep the buffers."""
        self.files, self._seen, self._used = {}, {}, 0

    def add(self, content: Any, path: str | Path) -> None:
        """Copy `content`, nested containers with tensors, for the file `path`."""
        self.files[Path(path)] = self._copy(content)

    def _copy(self, value: Any) -> Any:
        import torch

        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value)
        if isinstance(value, Mapping):
            # DeepSpeed's containers are dictionaries of their own kind; plain ones load the same
            return {key: self._copy(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(self._copy(inner) for inner in value)
        return value

    def _copy_tensor(self, tensor: "torch.Tensor") -> "torch.Tensor":
        import torch

        # tied weights stay one tensor
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and (known := self._seen.get(identity)) is not None:
            return known
        if self._used == len(self._buffers):
            self._buffers.append(torch.empty(0))
        buffer = self._buffers[self._used]
        if buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[self._used] = buffer
        buffer.copy_(tensor.detach())
        self._used += 1
        self._seen[identity] = buffer
        return buffer


class Writer:
    """One write at a time, in a thread; an error is raised at the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`; the one before must be over."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  whatever it is, the training thread must raise it
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written; raises what the writing raised."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error


def write_files(files: Mapping[Path, Any]) -> dict[Path, tuple[int, str]]:
    """Write each content as `torch.save` does, safely on the disk; sizes and SHA-256 by path.

    Raises:
        OSError: what the system says to a write, e.g. that the disk is full.
    """
    import torch

    torch.serialization.set_crc32_options(False)  # the manifest's SHA-256 covers more
    written = {}
    for path, content in files.items():
        make_folder(path.parent)
        with open_private(path, "wb") as stream:
            try:
                torch.save(content, stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # behind torch's complaint that its file is too short
                    raise error.__context__ from None
                raise
            stream.flush()
            os.fsync(stream.fileno())
        written[path] = (path.stat().st_size, sha256(path))
    return written
