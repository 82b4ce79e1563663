"""The contract of a distribution: files as their publisher ships them, read into examples by split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clinscale.config import Config
from clinscale.tasks.example import Example
from clinscale.tasks.findings import Findings

Splits = Mapping[str, list[Example]]
"""`train`, `dev` and `test`; or `all`, which the task's `split_ratios` split by `Example.group` and equal texts."""


class NoOptions(Config):
    """Options of a distribution that leaves nothing open."""


@dataclass(frozen=True)
class Distribution:
    """Reader of one data set as it is on disk after unpacking."""

    read: Callable[[str, Any, Findings], Splits]
    """(data folder, options, findings) -> examples by split."""
    options: type[Config] = NoOptions
    """Every choice that the data set or the paper leaves open; the docstring of each field says why its default."""
