"""Work on a stream of items by many processes: Ray Data bounds what is between readers and workers."""

import functools
import logging
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clinscale.errors import ClinscaleError, ClusterError, own_cause
from clinscale.runtime.session import ray_logs

if TYPE_CHECKING:
    import pyarrow

_RESTARTS = 3

Source = Callable[[], Iterator[Any]]
Work = Callable[[Any], Any]


def stream(
    sources: Sequence[Source],
    work: Callable[[], Work],
    *,
    read: Mapping[str, Any],
    do: Mapping[str, Any],
    num_actors: int | None = None,
    in_order: bool = False,
) -> Generator[Any]:
    """Yield the results of `work()` for each item of the sources, as they come; needs a `ray_session`.

    Args:
        sources: each is read by one task, which hands on every item at once. Items travel by pickle.
        work: makes the function that is called with each item; once in each process.
        read: Ray's options of the tasks that read: `num_cpus`, `concurrency`.
        do: Ray's options of the tasks or actors that work: `num_cpus`, `num_gpus`.
        num_actors: processes that keep what `work` has made and are started again a few times when they die; None works
            in tasks, for what is made in no time.
        in_order: items come out as they went in, one source after the other.

    Raises:
        ClinscaleError: one of ours, from a source or from the work, as it was raised there.
        ClusterError: a process failed otherwise, or died again and again.
    """
    import ray
    from ray.data import DataContext
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask
    from ray.data.exceptions import RayDataUserCodeException
    from ray.exceptions import RayError
    from ray.util.annotations import RayDeprecationWarning

    class Items(Datasource):  # type: ignore[misc]
        def get_name(self) -> str:
            return "items"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(functools.partial(_items_or_fault, source), unknown) for source in sources]

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # one item of ours is one block of Ray Data's, which so passes it on at once
    context.execution_options.preserve_order = in_order
    actors: dict[str, Any] = {}
    if num_actors:
        # Ray Data would start one that dies of what it is given for ever; Ray 2.64 takes `max_restarts` elsewhere
        actors = {"concurrency": num_actors, "fn_constructor_args": (work,), "max_restarts": _RESTARTS}
    with DataContext.current(context):
        # of `max_restarts`; Ray shows them whatever we filter
        warnings.simplefilter("ignore", RayDeprecationWarning)
        made = ray.data.read_datasource(Items(), override_num_blocks=len(sources), **read).map_batches(
            _Worker if num_actors else _Worker(work).__call__,
            batch_size=1,
            batch_format="pyarrow",
            **actors,
            **do,
        )
        try:
            for row in made.iter_rows():
                item = pickle.loads(row["item"])
                if isinstance(item, ClinscaleError):
                    raise item
                yield item
        except (RayError, RayDataUserCodeException) as error:
            raise own_cause(error) or ClusterError(
                f"a process of the cluster failed ({type(getattr(error, 'cause', None) or error).__name__}); run the "
                f"command again after a look at {ray_logs()}"
            ) from None


class _Worker:
    """The callable of a task or actor for each item.

    An error of ours is returned as an item, as Ray would add advice.
    """

    def __init__(self, work: Callable[[], Work]) -> None:
        self._make = work
        self._work: Work | None = None

    def __call__(self, batch: "pyarrow.Table") -> "pyarrow.Table":
        return _table_of(*map(self._done_or_fault, batch["item"].to_pylist()))

    def _done_or_fault(self, raw: bytes) -> Any:
        item = pickle.loads(raw)
        if isinstance(item, ClinscaleError):
            return item
        try:
            self._work = self._work or self._make()
            return self._work(item)
        except ClinscaleError as fault:
            return fault
        except Exception as error:  # noqa: BLE001  its text may quote what it was given
            return ClusterError(f"a process of the cluster failed ({type(error).__name__}); look at {ray_logs()}")


def _items_or_fault(source: Source) -> "Iterator[pyarrow.Table]":
    try:
        yield from map(_table_of, source())
    except ClinscaleError as fault:
        yield _table_of(fault)


def _table_of(*items: Any) -> "pyarrow.Table":
    """One row for each item, as Ray Data carries them."""
    import pyarrow

    return pyarrow.table({"item": pyarrow.array(map(pickle.dumps, items), pyarrow.large_binary())})
