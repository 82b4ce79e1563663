"""`clinscale report`: one self-contained HTML page from MLflow alone."""

from pathlib import Path
from typing import Annotated

import typer

from clinscale.cli.options import DEFAULT_HOME, Home, Json, TrackingUri, local_only
from clinscale.cli.output import emit
from clinscale.cli.outputs import check_new, is_report


def report(
    out: Annotated[Path, typer.Option("--out", callback=local_only, help="HTML file to write.")] = Path(
        "report.html"
    ),
    home: Home = DEFAULT_HOME,
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Winners beside trivial baselines, learning and search curves, lineage.

    Example: `clinscale report --out report.html`
    """
    from clinscale import registry
    from clinscale.report import write_report

    place = check_new(out, is_report)
    path = write_report(registry.connect(tracking_uri, home=home), place)
    emit({"report": str(path)}, as_json=json, people=str(path))
