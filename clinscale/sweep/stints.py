"""Ray Tune runs stints, the uninterrupted pieces of trials.

A trial that pauses at a rung ends its stint, and its promotion is another stint that goes on from its checkpoint. So a
pause holds no process and no placement group, and processes are reused by whatever comes next.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clinscale.errors import ClusterError
from clinscale.runtime import ray_logs
from clinscale.sweep.conductor import Conductor


def run_stints(
    conductor: Conductor,
    trainable: Callable[..., None],
    *,
    folder: Path,
    resources: Mapping[str, float],
    reuse_actors: bool = True,
    **parameters: Any,
) -> None:
    """Let Ray Tune run `trainable(config, **parameters)` for each stint until the conductor has no more.

    Needs a `ray_session`. Tune's own files lie in `folder/tune` meanwhile and are never read.

    Raises:
        ClusterError: Tune gave up.
    """
    from ray import tune
    from ray.tune import TuneError

    from clinscale.sweep.tune_hooks import RungScheduler, SweepSearch  # they are Ray's own classes

    if not conductor.work_left():
        return
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours to handle: runs must be closed
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"  # the ledger is the state
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its tracebacks may quote data
    scratch = folder / "tune"
    shutil.rmtree(scratch, ignore_errors=True)
    bound = tune.with_parameters(trainable, **parameters) if parameters else trainable
    try:
        tune.Tuner(
            tune.with_resources(bound, {kind: amount for kind, amount in resources.items() if amount}),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the policy says when it is enough
                search_alg=SweepSearch(conductor),
                scheduler=RungScheduler(conductor),
                reuse_actors=reuse_actors,
            ),
            run_config=tune.RunConfig(
                name=scratch.name,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=0),  # the ledger counts losses
                verbose=0,
            ),
        ).fit()
    except TuneError as error:
        raise ClusterError(
            f"sweep {conductor.name}: Ray Tune gave up ({type(error).__name__}); {ray_logs()}; run the same command to "
            "resume it"
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
