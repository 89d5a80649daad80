"""Parts and files -> the workers of a Dask cluster, which exists or is started for the while.

Rocklin, M. Proc. 14th Python in Science Conf., 126-132 (2015), doi 10.25080/Majora-7b98e3ed-013.
"""

import importlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from crosscope.data.errors import InputError
from crosscope.data.slides import Part
from crosscope.prediction.slides import Job, Models, do_part

WAIT_S = 30.0
"""For a scheduler to answer, and for its first worker."""
ALIKE = ("crosscope", "torch", "openvino", "numpy", "zarr")
"""Packages that must be of one version everywhere: other versions may give other pixels."""
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Cluster:
    """Workers that see the same files under the same names.

    A worker that dies costs what it was doing: another does that again.
    """

    client: Any

    def run(
        self, job: Job, models: Models, parts: Sequence[Part], watch: Callable[[float], None]
    ) -> None:
        """Do parts of a slide, each written once, by the worker that did it."""
        self.do_all(_do_part, (job, models), parts, watch)

    def do_all(
        self,
        work: Callable[[Any, Item], Found],
        common: object,
        items: Sequence[Item],
        watch: Callable[[float], None],
    ) -> list[Found]:
        """Return work(common, item) of all items, in their order; `common` is sent once.

        After an error nothing more is begun, and what has begun is waited for: when the error is
        raised nobody writes any more.
        """
        distributed = importlib.import_module("distributed")
        sent = self.client.scatter([common], broadcast=True, hash=False)[0]
        begun: dict[Any, int] = {}
        found: dict[int, Found] = {}
        failed: list[Any] = []
        waiting, doing = enumerate(items), distributed.as_completed()

        def begin() -> None:
            ahead = 2 * max(1, sum(self.client.nthreads().values()))
            for n, item in itertools.islice(waiting, max(0, ahead - len(begun))):
                future = self.client.submit(work, sent, item, pure=False)
                begun[future] = n
                doing.add(future)

        begin()
        for future in doing:
            n = begun.pop(future)
            if future.status == "finished":
                found[n] = future.result()
                watch(len(found) / len(items))
            else:
                failed.append(future)
            if not failed:
                begin()
        for future in failed:
            _raise(future, distributed.KilledWorker)
        return [found[n] for n in range(len(items))]


def _raise(future: Any, killed: type[Exception]) -> None:
    """Raise the error of a part, in our words where a worker or the scheduler was lost."""
    reason = "the connection to the scheduler was lost"
    if future.status == "error":
        try:
            future.result()
        except killed as error:
            reason = f"a part has cost several workers their lives ({error})"
    remedy = "Look at the workers' logs, for memory above all, and start again: it goes on"
    raise InputError("cluster", reason, remedy)


def _do_part(common: tuple[Job, Models], part: Part) -> None:
    do_part(*common, part)


@contextmanager
def connect(address: str | None = None, *, workers: int | None = None) -> Iterator[Cluster]:
    """Connect to a Dask scheduler, or start workers on this machine, a thread each.

    Scripts that start workers need the usual `if __name__ == "__main__":`.

    Parameters
    ----------
    address : str, optional
        Of a scheduler, "tcp://name:8786".
    workers : int, optional
        How many to start where there is no address.

    Raises
    ------
    InputError
        The package is missing, no scheduler answers, it has no worker, or a worker's versions
        are others than those here.
    """
    if address and workers:
        reason = f"has its own workers, {workers} of this machine are asked for beside"
        raise InputError(address, reason, "Name a scheduler or a number of workers")
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        reason = "a cluster needs the package distributed"
        raise InputError(
            address or "workers", reason, "pip install 'crosscope[cluster]'"
        ) from error
    if address is None:
        started = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=None,  # where the memory ends, tiles are halved
            dashboard_address="127.0.0.1:0",  # else the well-known port, for all to see
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.ERROR,
        )
        with started, distributed.Client(started) as client:
            yield Cluster(client)
        return
    try:
        client = distributed.Client(address, timeout=WAIT_S)
    except (OSError, ValueError, TimeoutError) as error:
        reason = f"no Dask scheduler answers there ({type(error).__name__})"
        raise InputError(address, reason, "Start one, or check the name and the port") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT_S)
        except TimeoutError as error:
            raise InputError(address, "the scheduler has no worker", "Start some") from error
        _require_alike(client, address)
        yield Cluster(client)


def _require_alike(client: Any, address: str) -> None:
    here = list_versions()
    found: Mapping[str, Mapping[str, str]] = client.run(list_versions, on_error="return")
    for worker, there in found.items():
        if not isinstance(there, Mapping):
            reason = f"the worker {worker} cannot import crosscope ({there})"
            raise InputError(address, reason, "Install the same version of it there")
        for name in ALIKE:
            if here[name] != there[name]:
                reason = f"the worker {worker} has {name} {there[name]}, here it is {here[name]}"
                raise InputError(address, reason, "Install the same version on all machines")


def list_versions() -> dict[str, str]:
    """Return the versions of what decides on pixels; "none" where a package is missing."""

    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    return {name: of(name) for name in ALIKE}
