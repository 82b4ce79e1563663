"""One self-contained HTML page on everything the registry knows, for people who were not there."""

from clinscale.report.page import write_report

__all__ = ["write_report"]
