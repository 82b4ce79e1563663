"""Permissions of what clinscale writes: for its owner alone, under any umask, or a group that a folder was opened to.

A folder that was shared (`share`) has the set-gid bit, gives its group everything and others nothing. What is made in
such a folder takes after it; what is made anywhere else is for its owner: folders 0700, files 0600.
"""

import contextlib
import grp
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from clinscale import held
from clinscale.errors import ConfigError

_CONTAINERS_SECRETS = "/run/secrets"
"""Folder of Docker's secrets, which all may read: the accounts of a container are those of its one service."""

_FOR_OTHERS = 0o007
_FOR_NOT_OWNER = 0o077
_SHARED_FOLDER = 0o2770


def is_shared(folder: str | Path) -> bool:
    """Whether what is made in `folder` is for its group, too."""
    mode = os.stat(folder).st_mode  # noqa: PTH116  asked for each file that is made
    return bool(mode & stat.S_ISGID) and mode & _FOR_NOT_OWNER == 0o070


def make_folder(path: str | Path) -> Path:
    """The folder `path`, made with its parents where it is missing; one that is there stays as it is.

    A folder that is held is waited for while it is away, and never made anew: ClusterError as `held.require_there`.
    """
    path = Path(path)
    held.require_there(path)
    missing: list[Path] = []
    while not path.exists() and path != path.parent:
        if held.keep_from_making(path):
            continue
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # somebody was faster
            folder.mkdir(mode=0o700)
            folder.chmod(_SHARED_FOLDER if is_shared(folder.parent) else 0o700)
    path = missing[0] if missing else path
    if not path.is_dir():
        raise FileExistsError(17, "a file is where a folder is needed", str(path))
    return path


def open_private(path: str | Path, mode: str, *, follow: bool = True, **options: Any) -> IO[Any]:
    """`open` for writing (`w`, `a`, `x`), of a file that only its owner, or the group of a shared folder, can read.

    In a folder that is held it waits while that is away.

    Args:
        path: of the file; one of ours that is open to more than that is closed.
        mode: as of `open`.
        follow: False refuses a link and what another user has put there.
        options: of `open`.

    Raises:
        ConfigError: `follow` is False, and it is a link or another user's.
        ClusterError: as `held.require_there`.
    """
    held.require_there(path)
    return open(path, mode, opener=_opener(follow=follow), **options)


def _opener(*, follow: bool) -> Any:
    def opener(path: str, flags: int) -> int:
        wanted = 0o660 if is_shared(Path(path).parent) else 0o600
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), wanted)
        except OSError:
            if not follow and Path(path).is_symlink():
                raise _foreign(path, "is a link") from None
            raise
        found = os.fstat(descriptor)
        if not follow and found.st_uid != os.geteuid() and wanted == 0o600:
            os.close(descriptor)
            raise _foreign(path, f"belongs to user {found.st_uid}")
        if found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode) and found.st_mode & 0o777 != wanted:
            os.fchmod(descriptor, wanted)
        return descriptor

    return opener


def _foreign(path: str | Path, what: str) -> ConfigError:
    return ConfigError(f"{path} must be this user's own, and {what}; remove it, or give another folder")


def adopt(folder: str | Path) -> None:
    """Give a folder that another library has filled, and all in it, to those whom it would have if we had made it."""
    folder = Path(folder)
    shared = is_shared(folder.parent)
    for where, _, names in os.walk(folder):
        os.chmod(where, _SHARED_FOLDER if shared else 0o700)  # noqa: PTH101
        for name in names:
            path = Path(where, name)
            if not path.is_symlink():
                path.chmod(0o660 if shared else 0o600)


def own_temporary_folder(name: str) -> Path:
    """A folder below the machine's temporary one that is this user's alone: `NAME-UID`, or a new one beside it.

    Anybody may make a folder of that name first. One that is a link, another user's or open to others may hold what
    somebody has put there, and is left alone.
    """
    root = Path(tempfile.gettempdir())
    path = root / f"{name}-{os.getuid()}"
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            if not found.st_mode & _FOR_NOT_OWNER:
                return path
            with contextlib.suppress(OSError):  # ours, so that it can be put aside; what uses it goes on
                path.rename(tempfile.mkdtemp(dir=root, prefix=f"{name}-open-"))
                continue
        break
    for other in sorted(root.glob(f"{name}-{os.getuid()}-*")):  # of an earlier process in the same need
        found = other.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if ours and not found.st_mode & _FOR_NOT_OWNER:
            return other
    return Path(tempfile.mkdtemp(dir=root, prefix=f"{path.name}-"))


def read_secret(path: str | Path, what: str) -> bytes:
    """Content of the file of a password or key.

    Raises:
        ConfigError: it cannot be read, or others can read it. PostgreSQL's rule: 0600 or less of this user's, 0640 or
            less of root's.
    """
    try:
        with Path(path).open("rb") as stream:
            found = os.fstat(stream.fileno())
            if Path(path).is_relative_to(_CONTAINERS_SECRETS) and found.st_uid == 0:
                return stream.read()
            of_root = found.st_uid == 0 and os.geteuid() != 0
            if found.st_mode & (0o027 if of_root else _FOR_NOT_OWNER) or found.st_uid not in (0, os.geteuid()):
                raise ConfigError(
                    f"{what} {path} must be its owner's alone, got mode {stat.S_IMODE(found.st_mode):04o} of user "
                    f"{found.st_uid}; make a new one, or where nobody else has read it: chmod 600 {path}"
                )
            return stream.read()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read ({error.strerror}); check the path") from None


def share(folder: str | Path, group: str) -> None:
    """Open `folder` and all in it to a group, and what will be made there; others stay out.

    Raises:
        ConfigError: there is no such group, or this user is not in it or does not own the folder.
    """
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(
            f"--shared-with must name a group of this machine, got {group!r}; see: getent group"
        ) from None
    folder = make_folder(folder)
    try:
        for path in (folder, *_tree(folder)):
            os.chown(path, -1, gid)
            path.chmod(_SHARED_FOLDER if path.is_dir() else 0o660)  # after chown, which takes set-gid away
    except PermissionError as error:
        raise ConfigError(
            f"{error.filename} cannot be given to group {group}; its owner must do that, and be in the group"
        ) from None


def close_process(home: str | Path | None = None) -> None:
    """Let no library that this process uses, nor its children, make a file that others can read.

    Below a `home` that was shared, its group may. What is made through this module needs none of it.
    """
    shared = home is not None and Path(home).is_dir() and is_shared(home)
    os.umask(_FOR_OTHERS if shared else _FOR_NOT_OWNER)


def for_workers() -> Callable[[], None]:
    """A function that closes what a worker process writes to all but those whom this process writes for, or fewer.

    A worker of a cluster inherits the umask with which Ray was started on its node, which may be open. The function is
    made anew here, so that it is pickled by value: a node need not have this version of clinscale when it is called.
    """
    now = os.umask(_FOR_NOT_OWNER)
    os.umask(now)
    mask = _FOR_OTHERS if now == _FOR_OTHERS else _FOR_NOT_OWNER

    def close_worker() -> None:
        os.umask(mask)

    return close_worker


def open_paths(folder: str | Path) -> Iterator[Path]:
    """Paths in `folder` that others than its owner, or than the group it is shared with, may read or write.

    What is below a folder that nobody else may enter is out of reach, whatever its own rights.
    """
    folder = Path(folder)
    if not folder.is_dir() or (stat.S_IMODE(folder.stat().st_mode) & _FOR_NOT_OWNER) == 0:
        return
    shared = is_shared(folder)
    if not shared:
        yield folder
    forbidden = _FOR_OTHERS if shared else _FOR_NOT_OWNER
    yield from (path for path in _tree(folder, inside=forbidden) if path.lstat().st_mode & forbidden)


def close(folder: str | Path) -> int:
    """Take from all but the owner, or the group it is shared with, what `open_paths` finds; how many that were.

    Raises:
        ConfigError: a path is another user's.
    """
    found = list(open_paths(folder))
    shared = bool(found) and is_shared(folder)
    for path in found:
        try:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(_FOR_OTHERS if shared else _FOR_NOT_OWNER))
        except PermissionError:
            raise ConfigError(f"{path} is another user's, who alone can close it: chmod go= {path}") from None
    return len(found)


def _tree(folder: Path, *, inside: int = 0o7777) -> Iterator[Path]:
    """All files and folders below `folder` but links; of folders without rights of `inside`, nothing below them."""
    for where, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(where, name)
            if not path.is_symlink():
                yield path
        folders[:] = [
            name
            for name in folders
            if not Path(where, name).is_symlink() and Path(where, name).stat().st_mode & inside
        ]


def refuse_foreign(path: str | Path) -> None:
    """Raise ConfigError where `path` is a link or another user's, who could change it; in a shared folder any may be.

    Asked of what is found in a cache, which may be in a place where everybody writes. What root owns is nobody's.
    """
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        raise _foreign(path, "is a link")
    if found.st_uid not in (0, os.geteuid()) and not is_shared(Path(path).parent):
        raise _foreign(path, f"belongs to user {found.st_uid}")
