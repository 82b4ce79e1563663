"""Options that several verbs share, and what they lead to."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinscale.cli.output import console
from clinscale.config import nearest
from clinscale.errors import ConfigError
from clinscale.permissions import close_process, is_shared, share
from clinscale.records import Quoting

if TYPE_CHECKING:
    from clinscale.config import Config
    from clinscale.registry import Tracking
    from clinscale.runtime import Cluster


def local_only(path: Path | None) -> Path | None:
    """The value of an option that names a place to write to, which no object store can be: files are locked and moved.

    Raises:
        ConfigError: it is a URL; says what works.
    """
    if path and (scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(path))):
        raise ConfigError(
            f"{path} must be a folder or file of this machine or of a shared file system, got a place of {scheme[1]}; "
            "name a local path, or one where the bucket is mounted. Shards alone may be in an object store "
            "(corpus build --out)"
        )
    if path and str(path) != str(path).strip():
        raise ConfigError(
            f"{str(path)!r} begins or ends with a blank, in which no place is meant; take the blank out"
        )
    # a shell expands ~ at the beginning of a word alone: not in --home=~/runs, nor in a service's variables
    return path and Path(os.path.expanduser(path))  # noqa: PTH111  pathlib raises for a home that nobody has


def finite(param: typer.CallbackParam, value: float | None) -> float | None:
    """The value of an option that is a number; of an infinite price, all that is planned would be infinite.

    Raises:
        ConfigError: it is infinite or no number.
    """
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{param.opts[0]} must be a finite number, got {value}; correct it")
    return value


Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout; everything else on stderr.")
]
Home = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="CLINSCALE_HOME",
        callback=local_only,
        help="Where runs, models and the default MLflow database live.",
    ),
]
SharedWith = Annotated[
    str | None,
    typer.Option(
        "--shared-with",
        metavar="GROUP",
        help="Open the folder that is written to, and all that will be in it, to a group; others stay out.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow server; the default is a SQLite file in HOME."
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="`key.path=value` overrides of the config.")]
Address = Annotated[
    str | None,
    typer.Option("--address", envvar="RAY_ADDRESS", help="Ray head to use; the default starts Ray here."),
]
Encoding = Annotated[str, typer.Option(help="Of text files, CSV, TSV and JSON, where no byte-order mark says it.")]
Delimiter = Annotated[
    str | None, typer.Option(help="Of CSV and TSV: one character, or tab; by default as the header shows.")
]
Quotes = Annotated[
    Quoting | None, typer.Option(help="Of CSV and TSV: whether quotation marks quote, or (none) are text.")
]
Sheet = Annotated[str | None, typer.Option(help="Of an Excel workbook with rows in several sheets.")]
DEFAULT_HOME = Path("clinscale-home")
_PATIENCE_S = 60.0


def open_home(home: Path, shared_with: str | None = None) -> None:
    """Let this process write below `home` for its readers: its owner alone, or the group that it is shared with.

    Raises:
        ConfigError: `shared_with` is no group, or not one that this user may give it to.
    """
    if shared_with:
        share(home, shared_with)
    if home.is_dir() and is_shared(home):
        close_process(home)


def open_tracking(tracking_uri: str | None, home: Path) -> "Tracking":
    """The MLflow server that a verb which starts runs writes to; runs that a crash left open there are closed.

    One that is away is given a minute: after a power cut or an update it starts as the jobs do.
    """
    from clinscale import registry

    tracking = registry.connect(tracking_uri, home=home, patience_s=_PATIENCE_S)
    registry.close_orphans(tracking)
    return tracking


def say_unused_gpus(cluster: "Cluster", asked: float, setting: str) -> None:
    """Say that GPUs are left idle, where the cluster has some and nothing asks for one."""
    if cluster.num_gpus and not asked:
        console.print(
            f"GPUs here: {cluster.num_gpus}, and none is used; {setting}=1 asks for them", soft_wrap=True
        )


def paths_and_overrides(words: Sequence[str], config: "type[Config]") -> tuple[list[str], list[str]]:
    """Separate a verb's words into paths and overrides of `config`; paths may hold `=`, as `year=2020/n.csv`.

    Raises:
        ConfigError: a word may be meant as either, or can be neither.
    """
    paths: list[str] = []
    overrides: list[str] = []
    for word in words:
        (overrides if _is_override(word, list(config.model_fields)) else paths).append(word)
    return paths, overrides


def _is_override(word: str, keys: Sequence[str]) -> bool:
    before, equals, _ = word.partition("=")
    if not equals or re.search(r"[/~\\]", before):
        return False
    key = before.split(".")[0].strip()
    is_key, is_path = key in keys or not key, os.path.exists(word)  # noqa: PTH110  for it, too long a name is none
    if is_key and is_path:
        raise ConfigError(f"{word} is a path here and a setting too; write ./{word} for the path")
    if not is_key and not is_path and "/" in word:
        raise ConfigError(
            f"{word} is no file or folder, nor a setting, for {key} is no key of the config; {nearest(key, keys)}"
        )
    return not is_path
