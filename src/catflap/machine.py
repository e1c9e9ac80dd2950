"""What this machine and this installation are: for `catflap doctor` and for every number we print."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

_INSTRUCTIONS = {  # what the kernel calls them, x86-64 and aarch64 -> what people call them
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "vnni",
    "avx_vnni": "vnni",
    "avx512_bf16": "bf16",
    "bf16": "bf16",
    "amx_int8": "amx",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?.*?(?:;.*extra == ['\"]([a-z]+)['\"])?$")


@dataclass(frozen=True)
class Machine:
    """The machine under a figure: `cores` and `memory_mb` are what this process may use.

    `instructions` are those that matter here: vnni, dotprod and i8mm speed int8 up, bf16 speeds training.
    """

    system: str
    architecture: str
    processor: str
    cores: int
    memory_mb: int
    instructions: tuple[str, ...]
    python: str

    def to_json(self) -> dict[str, Any]:
        """The machine as it stands beside measured figures."""
        return {**asdict(self), "instructions": list(self.instructions)}


@dataclass(frozen=True)
class Extra:
    """A part of Catflap: the version of each package that is installed, and the packages that are not."""

    name: str
    packages: dict[str, str]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The part as `catflap doctor` prints it."""
        return {"installed": not self.missing, "packages": self.packages, "missing": list(self.missing)}


def describe_machine() -> Machine:
    """The machine that this process runs on."""
    about = _read("/proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", about, re.MULTILINE)
    model = re.search(r"^model name\s*:\s*(.*)$", about, re.MULTILINE)
    known = {_INSTRUCTIONS[flag] for flag in (flags[1].split() if flags else ()) if flag in _INSTRUCTIONS}
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        processor=model[1] if model else platform.processor() or "unknown",
        cores=_cores(),
        memory_mb=_memory_mb(),
        instructions=tuple(sorted(known)),
        python=platform.python_version(),
    )


def installed_extras() -> list[Extra]:
    """Every extra of Catflap, "base" first, as its package metadata lists them."""
    wanted: dict[str, list[str]] = {"base": []}
    for requirement in requires("catflap") or ():
        parts = _REQUIREMENT.match(requirement)
        if parts is None or parts[3] == "all":
            continue
        packages = wanted.setdefault(parts[3] or "base", [])
        if parts[1] != "catflap":
            packages.append(parts[1])
    return [_extra(name, packages) for name, packages in wanted.items()]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package; those that are not installed are left out."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_memory_mb() -> float:
    """The most memory that this process has had at once, in MB of 10^6 bytes, as files are told.

    Not getrusage's figure where the kernel has a better one: that also counts the parent's, before exec.
    """
    peak = re.search(r"^VmHWM:\s*(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    if peak is not None:
        return int(peak[1]) * 1024 / 1e6
    import resource

    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    )


def _extra(name: str, packages: list[str]) -> Extra:
    found = versions(packages)
    return Extra(name, found, tuple(package for package in packages if package not in found))


def _cores() -> int:
    """Cores that this process may use: its affinity, cut by the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = re.match(r"(\d+) (\d+)", _read("/sys/fs/cgroup/cpu.max"))
    return max(1, min(cores, -(-int(quota[1]) // int(quota[2])))) if quota else cores


def _memory_mb() -> int:
    """Memory that this process may use, in MB of 10^6 bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return (min(total, int(limit)) if limit.isdigit() else total) // 1_000_000


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
