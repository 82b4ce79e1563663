"""The command line: one thin file per verb."""

from clinscale.cli.main import main

__all__ = ["main"]
