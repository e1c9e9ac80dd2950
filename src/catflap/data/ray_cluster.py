"""The batches of a scan on a Ray cluster; the one file that owns Ray.

Ray Core tasks, not Ray Data: Ray Data retries or skips a whole block. A task gives its batch to a worker
process of its own on the node (workers.py), so that crashes and deadlines are handled as on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from catflap.data.examine import Batch
from catflap.data.workers import COMMAND, DEADLINE, Worker
from catflap.errors import CatflapError, first_line
from catflap.version import VERSION

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent home
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "2",  # three tries, under 30 seconds in all
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "5",
}
AHEAD = 2  # batches a core that are submitted
TRIES = 3  # of a batch whose node is lost


def run(
    batches: Iterable[Batch], on: str, *, deadline: float = DEADLINE, command: Sequence[str] | None = None
) -> Iterator[Batch]:
    """The rows of numbered batches, in the order in which they are ready.

    `on` is "ray" for a cluster on this machine (or the one in RAY_ADDRESS), or "ray://host:port". The nodes
    need Catflap installed and the photos under the same paths. Raises CatflapError within 30 seconds when
    the address does not answer, and when the cluster is lost.
    """
    ray = _connect(on)
    task = ray.remote(num_cpus=1, max_retries=TRIES - 1)(examine_on_node)
    submitted: dict[Any, int] = {}

    def first_ready() -> Batch:
        (ready, *_), _ = ray.wait(list(submitted), num_returns=1)
        return submitted.pop(ready), ray.get(ready)

    try:
        for number, references in batches:
            submitted[task.remote(references, deadline, command)] = number
            while len(submitted) >= AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))):
                yield first_ready()
        while submitted:
            yield first_ready()
    except ray.exceptions.RayTaskError as error:
        raise CatflapError(
            f"The nodes of the Ray cluster cannot run this Catflap: {str(error).splitlines()[-1][:200]}.",
            f"Install Catflap {VERSION} there, as it is here.",
        ) from error
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise CatflapError(
            f"The Ray cluster {on} was lost: {first_line(error)}.",
            "Start it and run the same command again; it goes on where it stopped.",
        ) from error
    finally:
        ray.shutdown()


def examine_on_node(references: pa.Table, deadline: float, command: Sequence[str] | None) -> pa.Table:
    """The rows of a batch, examined by the worker process that belongs to this Ray process."""
    return _worker(deadline, command).examine(references)


@lru_cache(maxsize=1)
def _worker(deadline: float, command: Sequence[str] | None) -> Worker:
    return Worker(COMMAND if command is None else command, deadline)


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
        raise CatflapError(f"{on!r} is not the address of a Ray cluster.", "Use ray or ray://host:port.")
    try:
        ray.init(on, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise CatflapError(
            f"No Ray cluster answers at {on}: {first_line(error)}.",
            "Check that `ray start --head` runs there, name the port of its client server (10001 by "
            "default), and have ray[client] installed here.",
        ) from error
    return ray
