"""Plan of a study: what its pretrainings and searches need, one after the other, before anything is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinscale import models, registry
from clinscale.errors import ClinscaleError
from clinscale.plan import Estimate, Run, Site, TunePlan, plan_pretrain, plan_tune
from clinscale.study.grid import cells_of, read_tasks
from clinscale.study.protocol import Protocol
from clinscale.sweep import read_inputs


@dataclass(frozen=True, kw_only=True)
class ProtocolPlan:
    """The answer: needs of each pretraining and of each task's search, and the sum of both."""

    name: str
    site: Site
    pretrainings: Mapping[str, Estimate]
    """Needs by base."""
    searches: Mapping[str, TunePlan]
    """Needs by task."""
    failures: Mapping[str, str]
    """Reason by base, task or cell that no sum includes."""

    @property
    def device_hours(self) -> float | None:
        """Hours of all devices, of all that could be planned; None where nothing could."""
        return self._sum([one.device_hours for one in self.pretrainings.values()], "device_hours")

    @property
    def hours(self) -> float | None:
        """Hours from start to end, as a study does one thing at a time; None where nothing could be planned."""
        days = [one.days for one in self.pretrainings.values()]
        return self._sum([None if one is None else 24 * one for one in days], "hours")

    def _sum(self, pretrainings: list[float | None], of_search: str) -> float | None:
        searches = [float(getattr(one.work, of_search)) for one in self.searches.values() if one.work]
        known = [*(one for one in pretrainings if one is not None), *searches]
        return sum(known) if known else None

    @property
    def kwh(self) -> float | None:
        """Energy at the boards' power; None where nobody says it."""
        watts = self.site.device.watts
        return None if watts is None or self.device_hours is None else self.device_hours * watts / 1000

    @property
    def usd(self) -> float | None:
        """Money on demand; None without a price."""
        price = self.site.device.usd_per_hour
        return None if price is None or self.device_hours is None else self.device_hours * price

    @property
    def usd_spot(self) -> float | None:
        """Money on spot devices, preemptions included; None without a price."""
        if self.site.device.usd_per_spot_hour is None:
            return None
        parts = [one.usd_spot for one in self.pretrainings.values()]
        parts += [one.usd_spot for one in self.searches.values()]
        return sum(part or 0.0 for part in parts)

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "device": {"name": self.site.device_name, **self.site.device.plain()},
            "pretrainings": {name: one.plain() for name, one in self.pretrainings.items()},
            "searches": {name: one.plain() for name, one in self.searches.items()},
            "failures": dict(self.failures),
            **{key: getattr(self, key) for key in ("hours", "device_hours", "kwh", "usd", "usd_spot")},
        }


def plan_study(
    protocol: Protocol,
    *,
    tracking: registry.Tracking,
    home: str | Path,
    site: Site,
    devices: float,
    corpus_tokens: int | None = None,
) -> ProtocolPlan:
    """The plan of a study on so many devices; makes and trains nothing.

    A base that is still to be made counts with the tokenizer of what it begins from and the shape that it will have.

    Args:
        protocol: of the study.
        tracking: of the registry that base models may be in.
        home: where their copies are.
        site: hardware and prices, of pretrainings and searches alike.
        devices: GPUs, or cores, that the trials of a search share.
        corpus_tokens: training tokens, where the shards are not built yet.
    """
    tasks, failures = read_tasks(protocol)
    pretrainings, shapes, known = {}, {}, {}
    for name, base in protocol.bases.items():
        try:
            if base.convert_to is not None or base.pretrain is not None:
                shapes[name] = models.shape_of(base.model)
            if base.pretrain is not None:
                run = Run.of(protocol.pretraining(name, protocol.shards or ""), corpus_tokens=corpus_tokens)
                pretrainings[name] = plan_pretrain(run, site, sizes=()).asked
                if run.total_steps is None:
                    failures[f"base {name}"] = "; ".join(run.notes)  # its searches are planned all the same
        except ClinscaleError as error:
            failures[f"base {name}"] = str(error)
        else:
            known[name] = base.pretrained
    searches = {}
    for task in tasks:
        cells = cells_of(protocol, task, known, seen=False)
        if task.data is None or not cells:
            continue
        search = protocol.sweep(cells, task.config.name)
        base_of = {cell.name: protocol.models[str(cell.arm)].base for cell in cells}
        made = {cell: shapes[source] for cell, source in base_of.items() if source in shapes}
        try:
            inputs = read_inputs(search, tracking=tracking, home=home, loads_weights=False)
            found = plan_tune(search, inputs, site, devices=devices, shapes=made)
        except ClinscaleError as error:
            failures[f"task {task.name}"] = str(error)
            continue
        searches[task.name] = found
        failures |= {f"cell {name}": why for name, why in found.failures.items()}
    return ProtocolPlan(
        name=protocol.name, site=site, pretrainings=pretrainings, searches=searches, failures=failures
    )
