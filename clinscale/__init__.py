"""clinscale: pretrain, tune and register long-document clinical language models on your own cluster."""

__version__ = "0.1.0"
