"""The hardware that a plan is for, its links and its prices."""

from dataclasses import dataclass

from clinscale.engine import Device, Hardware, Precision
from clinscale.errors import ConfigError
from clinscale.plan.probe import Probe
from clinscale.plan.step import Network, Rates, network_of, rates_of


@dataclass(frozen=True, kw_only=True)
class Site:
    """Hardware that a plan is for, and its prices."""

    hardware: Hardware
    device_name: str
    device: Device
    between: str = "ethernet-100"
    """Link between nodes."""
    devices_per_node: int = 8
    ports_per_node: int = 1
    host_bytes_per_device: float | None = None
    """Memory of the host for each worker; of a CPU the memory that there is."""
    preemptions_per_device_day: float = 1.0
    """Spot devices taken away; assumed where nobody says, as no provider publishes it."""
    restart_s: float = 180.0
    """Seconds from a preemption until training goes on: a new node, start of the workers, the checkpoint read."""
    probe: Probe | None = None
    """Measurements of the machine that it is, by which all rates are corrected."""

    def network(self) -> Network:
        """The links that collectives take."""
        network = network_of(
            self.hardware,
            self.device,
            between=self.between,
            devices_per_node=self.devices_per_node,
            ports_per_node=self.ports_per_node,
        )
        return self.probe.network(network) if self.probe else network

    def rates(self, precision: Precision, cores: float) -> Rates:
        """Work that one worker gets done in a second; ConfigError where the device lacks the precision."""
        if precision == "bf16" and not self.device.has_bf16:
            raise ConfigError(
                f"recipe.precision must be fp16 or fp32 on {self.device_name}, which has no bf16, got bf16; set "
                "recipe.precision=fp16"
            )
        rates = rates_of(self.device, precision, cores=cores)
        return self.probe.corrected(rates) if self.probe else rates

    @property
    def memory_bytes(self) -> float | None:
        """Memory that a worker may use; None where nobody says."""
        return self.device.memory_bytes or self.host_bytes_per_device
