"""What another device is worth: the shipped bundle timed there, so that times here can be scaled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.folder import check_place, write_atomically
from catflap.artifacts.golden import read_golden
from catflap.artifacts.schema import read_json
from catflap.errors import BadArtifact, CatflapError
from catflap.machine import describe_machine
from catflap.runtime.engines.opening import open_in

KIND, REFERENCE = "device-profile", "cat"
ROUNDS, WARM_UP = 40, 5


@dataclass(frozen=True)
class DeviceProfile:
    """A device: its `machine`, the `threads` that were used, and `ms` of the shipped bundle's network."""

    machine: dict[str, Any]
    threads: int
    reference: str
    ms: float

    def name(self) -> str:
        """The device in words."""
        return f"{self.machine.get('processor', 'a device')} with {self.threads} threads"


def median_ms(step: Callable[[], object]) -> float:
    """The median milliseconds of a step, after some that do not count."""
    taken = []
    for _ in range(ROUNDS + WARM_UP):
        start = perf_counter()
        step()
        taken.append((perf_counter() - start) * 1e3)
    return float(np.median(taken[WARM_UP:]))


def profile_device(threads: int) -> DeviceProfile:
    """Time the shipped bundle's network on this machine, with so many threads."""
    bundle = load_bundle(REFERENCE)
    return DeviceProfile(describe_machine().to_json(), threads, bundle.sha256, _time(bundle, threads))


def check_profile(path: Path) -> None:
    """Raise CatflapError where no profile may be written: never over a file that is none."""
    check_place(path)
    if path.exists():
        load_profile(path)


def write_profile(path: Path, profile: DeviceProfile) -> None:
    """Write a profile for `catflap export --device-profile`, where `check_profile` has nothing against it."""
    check_profile(path)
    fields = {"catflap": KIND, "version": 1, **vars(profile)}
    write_atomically(path, (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("utf-8"))


def load_profile(path: str | os.PathLike[str]) -> DeviceProfile:
    """A profile that `catflap bench --profile` wrote; BadArtifact when the file is none."""
    fields = read_json(Path(path), KIND)
    names = set(DeviceProfile.__dataclass_fields__)
    kinds = {"machine": (dict,), "threads": (int,), "reference": (str,), "ms": (int, float)}
    whole = set(fields) == names | {"catflap", "version"}
    whole = whole and all(type(fields[name]) in allowed for name, allowed in kinds.items())
    if not whole or not (0 < fields["ms"] < 1e9 and 0 < fields["threads"] < 1e9):
        raise BadArtifact(f"{path} is not a whole device profile.", "Write it with: catflap bench --profile")
    return DeviceProfile(**{name: fields[name] for name in names})


def scale(profile: DeviceProfile) -> float:
    """How many times slower than this machine the device is, with the threads of the profile.

    Both times are of the shipped bundle's int8 network; float networks may scale somewhat differently.
    """
    bundle = load_bundle(REFERENCE)
    if bundle.sha256 != profile.reference:
        raise CatflapError(
            "The device profile was written with another Catflap.", "Write it anew: catflap bench --profile"
        )
    return profile.ms / _time(bundle, profile.threads)


def _time(bundle: Bundle, threads: int) -> float:
    frame = read_golden(bundle).frames[:1]
    model = open_in(bundle, bundle.variant(), threads)
    return median_ms(lambda: model(frame))
