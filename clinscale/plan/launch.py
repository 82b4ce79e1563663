"""The question that a launch asks before Ray starts: whether it can fit at all."""

from dataclasses import replace
from pathlib import Path

from clinscale.engine import Device, load_hardware
from clinscale.errors import CapacityError, ConfigError
from clinscale.plan.estimate import Shape, as_configured, memory_of
from clinscale.plan.pretrain import nearest_that_fit
from clinscale.plan.run import Run
from clinscale.plan.site import Site
from clinscale.pretrain import PretrainConfig
from clinscale.units import format_bytes

_DRIVER = Path("/proc/driver/nvidia/gpus")


def check_launch(config: PretrainConfig, *, machine_bytes: float | None = None) -> None:
    """Raise CapacityError where not even one row of a run fits into the memory of this machine's workers.

    Counted is what the tensors of a rank need at least, so that nothing is refused that might run. Hardware that is not
    known is not judged, nor is a model whose shape is not here: the run itself will say it.

    Args:
        config: of a run whose workers will be on this machine.
        machine_bytes: memory of the host or of each GPU; None asks this machine.
    """
    runtime = config.runtime
    on_gpu = runtime.gpus_per_worker > 0
    total = machine_bytes or (gpu_bytes_here() if on_gpu else _host_bytes())
    if runtime.ignore_plan or not total:
        return
    try:
        run = Run.of(config)
    except ConfigError:
        return
    for workers in sorted({runtime.least_workers, runtime.most_workers}):
        limit = total * min(1.0, runtime.gpus_per_worker) if on_gpu else total / workers
        site = replace(site_here(on_gpu=False), host_bytes_per_device=limit)
        asked = replace(as_configured(run, workers), micro_rows=1)
        memory = memory_of(run, site, asked)
        if memory.total - memory.slack <= limit:
            return
    raise CapacityError(_sentence(run, site, asked))


def gpu_bytes_here() -> float | None:
    """Memory of the largest GPU that the driver reports here; None without one that is known."""
    found = _gpus_here()
    if any(device is None or device.memory_bytes is None for device in found):
        return None
    return max((device.memory_bytes or 0.0 for device in found if device), default=None)


def site_here(*, on_gpu: bool) -> Site:
    """The site of work on this machine: its GPU where one is known, else an H100 by its data sheet, or its CPUs."""
    known = load_hardware()
    if not on_gpu:
        return Site(hardware=known, device_name="cpu", device=known.device("cpu"))
    gpu = next((device for device in _gpus_here() if device), None)
    return Site(hardware=known, device_name="GPU here" if gpu else "h100", device=gpu or known.device("h100"))


def _gpus_here() -> list[Device | None]:
    """GPUs as the driver reports them, None for one that is not known; nothing of CUDA is started to hold memory."""
    known = load_hardware()
    return [known.reported(one.read_text(encoding="utf-8")) for one in sorted(_DRIVER.glob("*/information"))]


def _host_bytes() -> float:
    import psutil  # type: ignore[import-untyped]

    return float(psutil.virtual_memory().total)


def _sentence(run: Run, site: Site, asked: Shape) -> str:
    memory, limit = memory_of(run, site, asked), site.memory_bytes or 0.0
    parts = {name: part for name, part in memory.plain().items() if name not in ("total", "slack", "host")}
    largest = max(parts, key=lambda name: parts[name])
    advice = "a smaller model, shorter rows or larger machines"
    if nearest := nearest_that_fit(run, site, asked, [asked.workers]):
        advice = " ".join(f"{key}={str(value).lower()}" for key, value in nearest[0].shape.plain().items())
    return (
        f"run {run.config.name}: one row of {run.row_tokens} tokens must fit into the {format_bytes(limit)} of a "
        f"worker here, got at least {format_bytes(memory.total - memory.slack)}, most of it {largest}; use {advice}, "
        "or runtime.ignore_plan=true to try it"
    )
