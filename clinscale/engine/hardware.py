"""Devices and links by name: what their makers say of them, with date and source; one file, which users may extend."""

import datetime
import difflib
import functools
from importlib.resources import files
from pathlib import Path

from pydantic import Field

from clinscale.config import Config, merge
from clinscale.errors import ConfigError
from clinscale.strict_yaml import read_yaml

_FIGURES = files("clinscale.engine") / "hardware.yaml"

_LEAST = 1e6
"""Bytes, bytes a second and operations a second that any device has: 80 was meant in gigabytes, 989 in teraflops."""


class Device(Config):
    """A processor that one worker computes on: a GPU, or one core of a CPU."""

    half_flops: float = Field(ge=_LEAST)
    """Dense operations per second in fp16 and, where there is bf16, in bf16."""

    fp32_flops: float = Field(ge=_LEAST)
    """Operations per second in fp32, without TF32."""

    has_bf16: bool = True
    """Whether it computes in bf16 at the speed of fp16."""

    memory_bytes: float | None = Field(default=None, ge=_LEAST)
    """Memory of the device; null where it is the host's."""

    memory_bytes_per_s: float = Field(ge=_LEAST)
    """Bandwidth of that memory."""

    is_measured: bool = False
    """Whether the rates were reached by real work; else they are peaks, of which work reaches a share."""

    watts: float | None = Field(default=None, gt=0)
    """Power of the board under load; null where nobody says."""

    link: str
    """Name of the link between the devices of a node."""

    reported_as: tuple[str, ...] = ()
    """Parts of the names by which drivers report it."""

    usd_per_hour: float | None = Field(default=None, ge=0)
    """Price of one device-hour on demand; yours to give."""

    usd_per_spot_hour: float | None = Field(default=None, ge=0)
    """Price of one device-hour that may be taken away; yours to give."""

    date: datetime.date
    """Day on which the figures were read or measured."""

    source: str
    """Place that the figures are from."""


class Link(Config):
    """A connection between devices, or between nodes."""

    bytes_per_s: float = Field(ge=_LEAST)
    """Bandwidth in one direction, of one port."""

    latency_s: float = Field(ge=0)
    """Seconds that a message of any size takes at least."""

    date: datetime.date
    """Day on which the figures were read or measured."""

    source: str
    """Place that the figures are from."""


class Hardware(Config):
    """All devices and links that are known."""

    devices: dict[str, Device]
    """Devices by name, one GPU or one core of a CPU each."""

    links: dict[str, Link]
    """Links by name."""

    def check(self) -> None:
        """Each device names a link that there is."""
        for name, device in self.devices.items():
            if device.link not in self.links:
                raise ConfigError(f"devices.{name}.link: {_unknown('link', device.link, self.links)}")

    def device(self, name: str) -> Device:
        """The device of that name, ours or its driver's; ConfigError with the nearest names where there is none."""
        if (found := self.devices.get(name.casefold()) or self.reported(name)) is None:
            raise ConfigError(_unknown("device", name, self.devices))
        return found

    def link(self, name: str) -> Link:
        """The link of that name; ConfigError with the nearest names where there is none."""
        if (found := self.links.get(name.casefold())) is None:
            raise ConfigError(_unknown("link", name, self.links))
        return found

    def reported(self, name: str) -> Device | None:
        """The device that a driver reports as `name`; None where none is known by it."""
        parts = ((part, device) for device in self.devices.values() for part in device.reported_as)
        return max(
            ((len(part), device) for part, device in parts if part in name),
            key=lambda found: found[0],
            default=(0, None),
        )[1]


def load_hardware(path: str | Path | None = None) -> Hardware:
    """The figures of the package, with those of the user's file at `path` laid over them.

    Raises:
        ConfigError: the file is not YAML of that form.
    """
    if path is None:
        return _of_package()
    return Hardware.parse(merge(read_yaml(Path(str(_FIGURES))), read_yaml(path)), source=str(path))


@functools.cache
def _of_package() -> Hardware:
    return Hardware.parse(read_yaml(Path(str(_FIGURES))), source="hardware.yaml")


def _unknown(what: str, name: str, known: "dict[str, Device] | dict[str, Link]") -> str:
    close = difflib.get_close_matches(name.casefold(), list(known), n=3, cutoff=0.5)
    close += [other for other in known if other.startswith(f"{name.casefold()}-") and other not in close]
    names = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return f"{what} must be one that is described, got {name!r}; {names} Others go into a file for --hardware"
