"""`clinscale submit`: a verb as a job of a running cluster."""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinscale.cli.options import Json
from clinscale.cli.output import console, emit, table
from clinscale.errors import ConfigError
from clinscale.units import format_bytes
from clinscale.visible import visible_log

if TYPE_CHECKING:
    from clinscale.launch import Job, Jobs


def submit(
    address: Annotated[
        str,
        typer.Argument(
            envvar="RAY_API_SERVER_ADDRESS",
            help="Dashboard of the head, through its tunnel: http://127.0.0.1:8265",
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- VERB ...", help="What the cluster shall do.")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="JOB", help="Show the state of a job; `all` lists all.")
    ] = None,
    logs: Annotated[
        str | None, typer.Option("--logs", metavar="JOB", help="Print a job's output, and follow it to its end.")
    ] = None,
    stop: Annotated[str | None, typer.Option("--stop", metavar="JOB", help="End a job as Ctrl-C does.")] = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder of configs to ship whole; default: the YAML files that are named.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Variable to hand on, by its name; repeat.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="The cluster's token; default where Ray looks: ~/.ray/auth_token.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="How many must be there before it begins.")] = None,
    preflight: Annotated[bool, typer.Option(help="Look at every node first.")] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job.")] = False,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Submit also where nobody is asked for a token.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a verb on a cluster; it goes on when this terminal is closed, and the same command finds it again.

    Code and the YAML files that are named travel, data never: name its path on the cluster's own storage. The exit code
    is the job's own.

    Example: `clinscale submit http://127.0.0.1:8265 -- tune --task demo_pairs --data /shared/data --model /shared/base
    --home /shared/home`
    """
    from clinscale.launch import Jobs, pack

    asked = {"--status": status, "--logs": logs, "--stop": stop}
    given = [name for name, value in asked.items() if value] + ["-- VERB"] * bool(arguments)
    if len(given) != 1:
        raise ConfigError(
            f"give one of -- VERB, --status JOB, --logs JOB and --stop JOB; got {' and '.join(given) or 'none'}"
        )
    shipment = pack(arguments, working_dir) if arguments else None
    jobs = Jobs(address, token_file=token_file, allow_open=allow_open)
    if status == "all":
        rows = [dataclasses.asdict(job) for job in jobs.list()]
        emit({"jobs": rows}, as_json=json, people=table("Jobs", rows))
        return
    if status or stop:
        _print_job(jobs.stop(stop) if stop else jobs.job(str(status)), json)
        return
    if shipment is None:
        job_id = str(logs)
    else:
        console.print(
            f"sends {len(shipment.files)} configs and clinscale's code, {format_bytes(shipment.size_bytes)}; no data"
        )
        with tempfile.TemporaryDirectory(prefix="clinscale-submit-") as scratch:
            job, is_new = jobs.submit(
                shipment,
                environment=_environment(env or []),
                preflight=_preflight(shipment.arguments, nodes) if preflight else None,
                scratch=Path(scratch),
            )
        job_id = job.id
        console.print(
            f"job {job.id} {'is handed in' if is_new else f'does this already, or has done it: {job.status}'}",
            soft_wrap=True,
        )
        if detach:
            _print_job(job, json)
            return
    _follow(jobs, job_id, json)


def _follow(jobs: "Jobs", job_id: str, json: bool) -> None:
    def write(text: str) -> None:
        sys.stderr.write(visible_log(text))
        sys.stderr.flush()

    def say(why: str) -> None:
        console.print(f"the connection is lost ({why}); the job goes on, trying again ...", soft_wrap=True)

    try:
        job = jobs.follow(job_id, write, on_lost=say)
    except KeyboardInterrupt:
        console.print(
            f"the job goes on without this terminal; clinscale submit {jobs.address} --logs {job_id} follows it, "
            f"--stop {job_id} ends it",
            soft_wrap=True,
        )
        raise
    _print_job(job, json)
    if job.status != "SUCCEEDED":
        raise typer.Exit(job.exit_code or 1)


def _print_job(job: "Job", json: bool) -> None:
    sentence = f"job {job.id}: {job.status}" + (f"; {job.message}" if job.message else "")
    emit(dataclasses.asdict(job), as_json=json, people=sentence)


def _environment(names: list[str]) -> dict[str, str]:
    """Values of the variables named: on a command line everybody on this machine would read them."""
    for name in names:
        if "=" in name:
            raise ConfigError(
                f"--env takes a name alone, got a value for {name.partition('=')[0]}, and everybody on this machine "
                "may read command lines; set it in your environment and name it"
            )
        if name not in os.environ:
            raise ConfigError(f"--env {name} is not set here; export it first")
    return {name: os.environ[name] for name in names}


def _preflight(arguments: tuple[str, ...], nodes: int | None) -> list[str]:
    """The job's home must be on storage that all nodes share, and they must reach its MLflow server."""
    options = []
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for of_verb, of_preflight in {"--home": "--shared", "--tracking-uri": "--tracking-uri"}.items():
        if of_verb in words[:-1]:
            options += [of_preflight, words[words.index(of_verb) + 1]]
    return [*options, "--nodes", str(nodes)] if nodes else options
