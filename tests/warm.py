"""Runs `clinscale` commands, each in a process of its own that has its libraries imported: the fork of this one.

Reads one JSON document a line: `arguments`, `cwd`, `environment` (whole), `stdout` and `stderr` (paths). Answers each
with the exit code. Run by the fixture `clinscale`; most of a short command's seconds are spent in these imports.
"""

import gc
import json
import os
import sys
import traceback

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import optuna  # noqa: F401
import pandas  # noqa: F401
import ray  # noqa: F401
import torch  # noqa: F401
import transformers.models.big_bird.modeling_big_bird
import transformers.models.longformer.modeling_longformer  # noqa: F401
import typer.rich_utils  # noqa: F401

from clinscale import registry, sweep  # noqa: F401
from clinscale.cli import main


def run(arguments, cwd, environment, stdout, stderr):
    """In the child: what `python -m clinscale` does; never returns."""
    for path, number in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["clinscale", *arguments]
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - as Python itself would print it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


gc.collect()
gc.freeze()  # a command would spend half a second on looking at it
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
