"""The batches of a scan on a Ray cluster; the one file that owns Ray.

Ray Core tasks, not Ray Data: a batch that kills its process must cost that batch only, which is then tried
photo by photo, and Ray Data can only retry or skip a whole block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import pyarrow as pa

from catflap.data.scanning.batch import PART_ROW, Batch, crashed, examine
from catflap.errors import CatflapError, first_line
from catflap.version import VERSION

Examine: TypeAlias = Callable[[pa.Table], pa.Table]

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent home
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "2",  # three tries, under 30 seconds in all
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "5",
}
AHEAD = 2  # batches a core that are under way


def run(batches: Iterable[Batch], on: str, examine: Examine = examine) -> Iterator[Batch]:
    """The rows of numbered batches, in the order in which they are ready.

    `on` is "ray" for a cluster on this machine (or the one in RAY_ADDRESS), or "ray://host:port". The nodes
    need Catflap installed and the photos under the same paths. Raises CatflapError within 30 seconds when
    the address does not answer, and when the cluster is lost.
    """
    ray = _connect(on)
    try:
        yield from _run(ray, batches, examine)
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise CatflapError(
            f"The Ray cluster {on} was lost: {first_line(error)}.",
            "Start it and run the same command again; it goes on where it stopped.",
        ) from error
    finally:
        ray.shutdown()


def _run(ray: Any, batches: Iterable[Batch], examine: Examine) -> Iterator[Batch]:
    task = ray.remote(num_cpus=1, max_retries=1)(examine)
    under_way: dict[Any, Batch] = {}
    for number, references in batches:
        under_way[task.remote(references)] = (number, references)
        while len(under_way) >= AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))):
            yield _first_ready(ray, examine, under_way)
    while under_way:
        yield _first_ready(ray, examine, under_way)


def _first_ready(ray: Any, examine: Examine, under_way: dict[Any, Batch]) -> Batch:
    """The rows of the first batch that ends; one whose process died twice is examined photo by photo."""
    (ready, *_), _ = ray.wait(list(under_way), num_returns=1)
    number, references = under_way.pop(ready)
    rows = _rows(ray, ready)
    return number, _one_by_one(ray, examine, references) if rows is None else rows


def _one_by_one(ray: Any, examine: Examine, references: pa.Table) -> pa.Table:
    task = ray.remote(num_cpus=1, max_retries=0)(examine)
    singles = [references.slice(position, 1) for position in range(references.num_rows)]
    waiting = [task.remote(single) for single in singles]
    found = [_rows(ray, ready) for ready in waiting]
    lost = [pa.Table.from_pylist([crashed(single.to_pylist()[0])], schema=PART_ROW) for single in singles]
    return pa.concat_tables(rows or crash for rows, crash in zip(found, lost, strict=True))


def _rows(ray: Any, ready: Any) -> pa.Table | None:
    """The rows of a task, or None when its process died or the memory was not enough."""
    try:
        return ray.get(ready)
    except ray.exceptions.RaySystemError:
        raise
    except ray.exceptions.RayTaskError as error:
        if not (isinstance(error.cause, ImportError) or "failed to import" in str(error.cause)):
            return None
        raise CatflapError(
            f"The nodes of the Ray cluster cannot run this Catflap: {str(error).splitlines()[-1][:200]}.",
            f"Install Catflap {VERSION} there, as it is here.",
        ) from error
    except ray.exceptions.RayError:
        return None


def _connect(on: str) -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if on == "ray":
        if not os.environ.get("RAY_ADDRESS"):
            quiet["include_dashboard"] = False
        try:
            ray.init(**quiet)
        except Exception as error:  # Ray raises a plain Exception when its processes do not start
            raise CatflapError(
                f"Ray does not start here: {first_line(error)}.", "Run: ray start --head"
            ) from error
        return ray
    if not on.startswith("ray://"):
        raise CatflapError(f"{on!r} is no place to run.", "Use ray or ray://host:port.")
    try:
        ray.init(on, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise _silent(on, first_line(error)) from error
    return ray


def _silent(on: str, why: str) -> CatflapError:
    return CatflapError(
        f"No Ray cluster answers at {on}: {why}.",
        "Check that `ray start --head` runs there, name the port of its client server (10001 by default), "
        "and have ray[client] installed here.",
    )
