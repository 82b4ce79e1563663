"""`clinscale VERB`: collects the verbs, and turns every error into one sentence and an exit code."""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any, NoReturn

import typer

from clinscale import __version__
from clinscale.cli import (
    bench,
    cluster,
    corpus,
    demo,
    doctor,
    finetune,
    models,
    predict,
    pretrain,
    pull,
    report,
    submit,
    tasks,
    tune,
)
from clinscale.cli.output import VisibleFormatter, keep_stdout_clean, visible
from clinscale.errors import ClinscaleError
from clinscale.runtime import QUIET

_INTERRUPTED = 130
app = typer.Typer(
    name="clinscale",
    help="Pretrain, tune and register long-document clinical language models on your own cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(finetune.finetune)
app.command()(tune.tune)
app.command()(pull.pull)
app.command()(predict.predict)
app.command()(report.report)
app.command()(doctor.doctor)
app.command()(submit.submit)
app.add_typer(pretrain.app, name="pretrain")
app.add_typer(bench.app, name="bench")
app.add_typer(corpus.app, name="corpus")
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.add_typer(cluster.app, name="cluster")


@app.callback(invoke_without_command=True)
def options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Pretrain, tune and register long-document clinical language models on your own cluster."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; exit 0 done, 1 failed, 2 wrong usage, config or data, 130 interrupted."""
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    warnings.simplefilter("ignore")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _interrupt_again
    asks_for_help = len(sys.argv) == 1 or not {"--help", "--version"}.isdisjoint(sys.argv)
    try:
        with contextlib.nullcontext() if asks_for_help else keep_stdout_clean():
            code = app(standalone_mode=False)  # typer's own answer to Ctrl-C is to return 130
    except typer.TyperException as error:
        if message := error.format_message():
            print(visible(f"error: {message}; see --help"), file=sys.stderr)
        code = 2
    except ClinscaleError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:  # whoever reads stdout has read enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        print("interrupted: what is finished is kept; the same command continues from there", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _interrupt_again(unraisable: Any) -> None:
    """Python drops what is raised in a finaliser, a Ctrl-C too when it hits one: it is sent once more."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)
