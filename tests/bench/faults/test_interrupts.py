"""Interrupted verbs: each verb of the command line is tried, or it is written down why not."""

import typer

from clinscale.bench.faults.verbs import INTERRUPTED_VERBS, NOT_INTERRUPTED
from clinscale.cli.main import app


def verbs_of(command, *words: str) -> list[str]:
    if not hasattr(command, "commands"):
        return [" ".join(words)]
    own = [" ".join(words)] if words and command.invoke_without_command else []
    return own + [verb for name, one in command.commands.items() for verb in verbs_of(one, *words, name)]


def test_each_verb_is_interrupted_or_has_a_reason_why_not():
    assert sorted([*INTERRUPTED_VERBS, *NOT_INTERRUPTED]) == sorted(verbs_of(typer.main.get_command(app)))
