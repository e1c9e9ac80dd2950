"""What every benchmark says before its figures, and how it takes them.

A figure without its machine, versions and n means nothing, and on a busy machine only ratios within
one run do: so what is compared is timed in turns. `python benchmarks/machine.py` prints the machine.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

from catflap.machine import describe_machine, versions

PACKAGES = ("catflap", "numpy", "onnxruntime", "pillow", "torch", "timm", "pyarrow", "simplejpeg")


def header(**facts: Any) -> None:
    """Print one line of JSON: the machine, the versions, the command, and facts such as n."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    machine = describe_machine().to_json()
    print(json.dumps({"machine": machine, "versions": versions(PACKAGES), "command": command, **facts}))


def need_photos(place: Path) -> None:
    """End here, and say so, where the photos of a benchmark are not: not every clone has them."""
    if not place.exists():
        print(json.dumps({"skipped": f"There are no photos at {place}: name some with --photos."}))
        sys.exit(0)


def in_turns(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each step, p50, p10, p90 and n: one of each a round; the first does not count."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = perf_counter()
            step()
            if number:
                taken[name].append((perf_counter() - start) * 1e3)
    return {name: _summary(times) for name, times in taken.items()}


def _summary(times: list[float]) -> dict[str, float]:
    tenths = quantiles(times, n=10, method="inclusive")
    return {
        "p50": round(tenths[4], 3),
        "p10": round(tenths[0], 3),
        "p90": round(tenths[8], 3),
        "n": len(times),
    }


if __name__ == "__main__":
    header()
