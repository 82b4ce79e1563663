"""`clinscale VERB`: collects the verbs, and turns every error into one sentence and an exit code."""

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import typer

from clinscale import __version__, interrupts
from clinscale.cli import (
    bench,
    cluster,
    corpus,
    demo,
    doctor,
    finetune,
    guide,
    models,
    plan,
    predict,
    pretrain,
    pull,
    report,
    study,
    submit,
    tasks,
    tune,
    ui,
)
from clinscale.cli.output import VisibleFormatter, keep_stdout_clean
from clinscale.errors import ClinscaleError, exhausted_disk, was_interrupted
from clinscale.permissions import close_process
from clinscale.runtime import QUIET
from clinscale.visible import visible

TRACEBACK = "CLINSCALE_TRACEBACK"
"""The variable that shows the whole of an error that is a fault of clinscale."""
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
app.command()(study.study)
app.command()(pull.pull)
app.command()(predict.predict)
app.command()(report.report)
app.command()(ui.ui)
app.command()(doctor.doctor)
app.command()(submit.submit)
app.command()(guide.guide)
app.add_typer(pretrain.app, name="pretrain")
app.add_typer(plan.app, name="plan")
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
    interrupts.listen()
    close_process()
    sys.unraisablehook = _interrupt_again
    _refuse_odd_arguments()
    asks_for_help = len(sys.argv) == 1 or not {"--help", "--version"}.isdisjoint(sys.argv)
    try:
        with contextlib.nullcontext() if asks_for_help else keep_stdout_clean():
            code = app(standalone_mode=False)  # typer's own answer to Ctrl-C is to return 130
    except typer.TyperException as error:
        if message := error.format_message():
            _print_error(f"{message.rstrip('.')}; see --help")
        code = 2
    except ClinscaleError as error:
        _print_error(str(error))
        code = interrupts.EXIT_CODE if was_interrupted(error) else error.exit_code
    except BrokenPipeError:  # the reader of stdout has read enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except KeyboardInterrupt:
        code = interrupts.EXIT_CODE
    except Exception as error:  # noqa: BLE001  the last net: what falls into it is a fault of ours
        code = interrupts.EXIT_CODE if was_interrupted(error) else _foreign(error)
    interrupts.listen_no_more()
    if code == interrupts.EXIT_CODE:
        print(f"interrupted: what is finished is kept; {interrupts.GO_ON}", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse_odd_arguments() -> None:
    for number, argument in enumerate(sys.argv[1:], 1):
        if argument.encode("utf-8", "replace").decode() != argument:
            _print_error(f"argument {number} is not UTF-8; rename the file, or fix the argument")
            sys.exit(2)


def _foreign(error: Exception) -> int:
    """Print an error that is not of our family, and return its exit code.

    Of a file, the system's own words are enough. Of anything else, where it happened, but not its message, which may
    quote notes.
    """
    if disk := exhausted_disk(error):
        place = getattr(error, "filename", None)
        _print_error(
            f"{place or 'a file'} cannot be written ({disk}); make room or fix the disk, then run the same command "
            "again: what is finished is kept"
        )
        return 1
    if isinstance(error, OSError) and error.filename and error.strerror:
        _print_error(f"{error.filename}: {error.strerror}; check the path, its permissions and the disk")
        return 2
    if os.environ.get(TRACEBACK):
        print(visible("".join(traceback.format_exception(error))), file=sys.stderr)
        return 1
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    _print_error(
        f"clinscale failed where it should not ({type(error).__name__}), at "
        f"{' < '.join(f'{Path(frame.filename).name}:{frame.lineno}' for frame in reversed(frames))}; please report it. "
        f"{TRACEBACK}=1 shows all, and may show what the files hold"
    )
    return 1


def _print_error(sentence: str) -> None:
    print(visible(f"error: {sentence}"), file=sys.stderr)


def _interrupt_again(unraisable: Any) -> None:
    """Python drops what is raised in a finaliser, a Ctrl-C too when it hits one: it is sent once more."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        interrupts.forget()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)
