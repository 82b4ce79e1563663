"""One self-contained HTML page on everything the registry knows, for people who were not there."""

from clinscale.report.league import League, league_markdown, leagues
from clinscale.report.page import write_report

__all__ = ["League", "league_markdown", "leagues", "write_report"]
