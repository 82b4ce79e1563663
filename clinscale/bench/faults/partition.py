"""Faults of the network between the nodes of a pretraining: cut for a time, cut for ever, slow and lossy."""

import contextlib
import functools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from clinscale.bench.faults.command import Command, commands, nodes_apart, workers
from clinscale.bench.faults.fault import Fault, NotStruckError, Outcome, Scene
from clinscale.bench.faults.loss import check
from clinscale.bench.faults.network import Network, Node, network, why_no_network
from clinscale.bench.faults.pretraining import STEPS, check_end, training, undisturbed_of

_NODES = 3
"""Head, a node that is cut off, and one in its place."""

_CUT_S = 20.0
_DELAY_S, _LOSS = 0.1, 0.05
"""Delay and loss of each packet, in either direction: an answer takes 200 ms."""

_NOTICED_S = 120.0
"""Longest time until a node that is cut off is replaced, and until no worker is left on it once it is back."""

_POLL_S = 0.1

_SAME = "curve and weights as undisturbed, nothing left"
_SLOWER = f"slower, not wrong: {_SAME}"
_REPLACED = f"replaced within {_NOTICED_S:g} s, and nobody writes there any more; {_SAME}"

Strike = Callable[[Command, Network, Node], tuple[int, int | None]]
"""Steps that are lost, and the last one that was done; None where training does not stand still."""


def faults() -> list[Fault]:
    """One for each."""
    return [
        Fault(name, demanded, functools.partial(_attempt, strike=strike), why_no_network)
        for name, demanded, strike in (
            (f"network of a node cut for {_CUT_S:g} s", _SLOWER, _cut_for_a_time),
            ("network of a node cut for ever", _REPLACED, functools.partial(_cut, back=False)),
            ("network of a node cut until it is replaced", _REPLACED, functools.partial(_cut, back=True)),
            (
                f"{100 * _LOSS:g} % of packets lost between nodes, {2000 * _DELAY_S:g} ms of delay",
                _SLOWER,
                _degrade,
            ),
        )
    ]


def _attempt(scene: Scene, *, strike: Strike) -> Outcome:
    undisturbed = undisturbed_of(scene.ground)
    with (
        network(_NODES, random.Random(scene.rng.random())) as net,
        nodes_apart(net) as place,
        commands(scene.ground, scene.folder, place, steps=STEPS) as start,
    ):
        command = start()
        training(command, scene.rng)
        of_workers = [node for node in net.nodes[1:] if _on(node, command)]
        if not of_workers:
            raise NotStruckError("no worker was on a node of its own")
        struck_s = time.monotonic()
        node = scene.rng.choice(of_workers)
        struck = _on(node, command)
        lost, done_step = strike(command, net, node)
        recovery = None
        if done_step is not None and command.wait_until("a new step", lambda: command.step > done_step):
            recovery = (time.monotonic() - struck_s) / undisturbed.cold_s
        command.wait_until("the command to end", lambda: False)
        _check_idle(struck, command)
        net.mend(node)  # Ray's processes there hear only now that they are given up
        check(command.wait() == 0, f"the command failed: {command.said.strip()[-300:]}")
        check_end(command, undisturbed, lost)
    return Outcome(lost_steps=lost, recovery=recovery)


def _cut_for_a_time(command: Command, net: Network, node: Node) -> tuple[int, int]:
    net.cut(node)
    time.sleep(_CUT_S)
    done_step = command.step  # what was on its way to the driver has come
    net.mend(node)
    command.wait_until("a step", lambda: command.step > done_step or _replaced(command))
    return (command.unsaved_steps if _replaced(command) else 0), done_step


def _cut(command: Command, net: Network, node: Node, *, back: bool) -> tuple[int, int]:
    cut_off = _on(node, command)
    net.cut(node)
    command.wait_until("the node to be replaced", lambda: _replaced(command), patience_s=_NOTICED_S)
    lost, done_step = command.unsaved_steps, command.step
    if back:
        net.mend(node)
        end_s = time.monotonic() + _NOTICED_S
        while left := [process for process in cut_off if process.is_running()]:
            check(time.monotonic() < end_s, f"{len(left)} workers are left on the node after {_NOTICED_S:g} s")
            time.sleep(_POLL_S)
    return lost, done_step


def _check_idle(processes: list[Any], command: Command) -> None:
    """LossError when one of them has a file of the run open for writing."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            written = [one.path for one in process.open_files() if one.mode != "r"]
            check(
                not any(Path(path).is_relative_to(command.home) for path in written),
                "a worker on the node still writes",
            )


def _degrade(command: Command, net: Network, node: Node) -> tuple[int, None]:
    net.degrade(delay_s=_DELAY_S, loss=_LOSS)
    return 0, None


def _replaced(command: Command) -> bool:
    return "starting again" in command.said


def _on(node: Node, command: Command) -> list[Any]:
    """Train workers on the node."""
    return [process for process in workers(command) if node.has(process.pid)]
