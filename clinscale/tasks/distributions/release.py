"""Files of a release of several archives, wherever below the data folder they were unpacked."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from clinscale.errors import DataError
from clinscale.records import list_files

_PACKED = (".zip", ".tar", ".tar.gz", ".tgz")


class Release:
    """The files below a data folder; the last folders show what belongs to a part of the release."""

    def __init__(self, data: str, suffixes: Sequence[str]) -> None:
        self._data = data
        self._files = [
            file
            for file in list_files(data, (*suffixes, ".zip", ".tar", ".tgz"))
            if not file.rsplit("/", 1)[-1].startswith("._")  # macOS puts these into archives
        ]

    def files(self, *globs: str) -> list[str]:
        """The files of the first of `globs` that has any; `*` matches a part of one name."""
        for glob in globs:
            if found := [file for file in self._files if PurePosixPath(file).match(glob)]:
                return found
        return []

    def require(self, archive: str, *globs: str) -> list[str]:
        """`files`, or the DataError that says to unpack `archive`."""
        if found := self.files(*globs):
            return found
        stem = archive.removesuffix(".gz").removesuffix(".tar").removesuffix(".zip")
        packed = self.files(*(f"*{stem}{suffix}" for suffix in _PACKED))
        step = f"unpack {packed[0]}" if packed else f"unpack {archive} of the n2c2 portal there"
        raise DataError(f"{self._data} holds no {' and no '.join(globs)}; {step}")
