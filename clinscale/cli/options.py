"""Options that several verbs share, and what they lead to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinscale.records import Quoting

if TYPE_CHECKING:
    from clinscale.registry import Tracking

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout; everything else on stderr.")
]
Home = Annotated[
    Path,
    typer.Option(
        "--home", envvar="CLINSCALE_HOME", help="Where runs, models and the default MLflow database live."
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


def open_tracking(tracking_uri: str | None, home: Path) -> "Tracking":
    """The MLflow server that a verb which starts runs writes to; runs that a crash left open there are closed."""
    from clinscale import registry

    tracking = registry.connect(tracking_uri, home=home)
    registry.close_orphans(tracking)
    return tracking
