"""clinscale: pretrain, tune and register long-document clinical language models on your own cluster."""

from clinscale.telemetry import switch_off

__version__ = "0.1.0"

switch_off()  # here, because every process that runs any of our code comes by: drivers, Ray's workers, servers
