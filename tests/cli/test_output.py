"""What people see: tables."""

import io

from rich.console import Console

from clinscale.cli.output import table


def test_small_numbers_are_not_rounded_away():
    written = io.StringIO()
    Console(file=written, width=100).print(
        table("Settings", [{"learning_rate": 2e-5, "dropout": 0.0, "f1": 0.8617}])
    )
    assert "2e-05" in written.getvalue()
    assert "0.0000" in written.getvalue()
    assert "0.8617" in written.getvalue()
    assert "learning rate" in written.getvalue()
