"""This machine and this installation: cores, memory, packages; and how glibc returns memory to the kernel."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_INSTRUCTIONS = {  # the kernel's name, on x86-64 and aarch64, to the usual name
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
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)
_LARGE = 8 << 20  # bytes; a photo of two megapixels fits, and is no slower


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement: `cores` and `memory_mb` are what this process may use.

    `instructions` are those that matter here: vnni, dotprod and i8mm speed up int8, bf16 speeds up training.
    """

    system: str
    architecture: str
    processor: str
    cores: int
    memory_mb: int
    instructions: tuple[str, ...]
    python: str

    def to_json(self) -> dict[str, Any]:
        """The machine as JSON answers have it."""
        return {**asdict(self), "instructions": list(self.instructions)}


@dataclass(frozen=True)
class Extra:
    """An extra of Catflap: the version of each installed package, and the packages that are missing."""

    name: str
    packages: dict[str, str]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The extra as `catflap doctor` prints it."""
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
    """Every extra of Catflap, "base" first, as the metadata of the package lists them."""
    from packaging.requirements import Requirement

    wanted: dict[str, list[str]] = {"base": []}
    for line in requires("catflap") or ():
        requirement = Requirement(line)
        extra = _extra_of(requirement)
        if extra != "all":
            wanted.setdefault(extra, []).extend([requirement.name] * (requirement.name != "catflap"))
    return [_extra(name, packages) for name, packages in wanted.items()]


def _extra_of(requirement: Requirement) -> str:
    """The extra that a requirement of Catflap belongs to, or "base"."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return "base"
    return str(re.findall(r"extra == ['\"]([^'\"]+)['\"]", str(requirement.marker))[0])


def installed_packages(extras: tuple[str, ...] = ()) -> dict[str, float]:
    """The packages that Catflap with these extras brings here, also indirectly: the size of each in MB."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    sizes: dict[str, float] = {}
    waiting = [("catflap", frozenset(extras))]
    visited: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in visited:
            continue
        visited.add((name, wanted))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        sizes[name] = sum(_size(Path(str(found.locate_file(file)))) for file in found.files or ()) / 1e6
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": one}) for one in (*wanted, "")):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return sizes


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package; those that are not installed are left out."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_memory_mb() -> float:
    """The peak memory of this process in MB of 10^6 bytes; NaN where the system does not report it.

    From /proc where possible: getrusage also counts the parent's memory before exec.
    """
    peak = re.search(r"^VmHWM:\s*(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    if peak is not None:
        return int(peak[1]) * 1024 / 1e6
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


# --- The C allocator


def keep_memory() -> None:
    """Stop glibc from returning memory to the kernel between steps: 1.3 to 3.7 × as fast training on a CPU.

    The same as MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ in the environment. Nothing without glibc.
    """
    _glibc("mallopt", _MMAP_THRESHOLD, 1 << 30)
    _glibc("mallopt", _TRIM_THRESHOLD, (1 << 31) - 1)


def share_memory() -> None:
    """Let all threads that start from now on take their memory from one arena, as MALLOC_ARENA_MAX does.

    A thread's own arena has pieces of 64 MB and returns each that is empty, whatever `keep_memory` says: of
    the first 340 CPU-seconds of a build with a warm-up 30 were the system's, with one arena 9.
    """
    _glibc("mallopt", _ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return free memory to the kernel now, which glibc does not do by itself: malloc_trim(3).

    Without it a server grows by a few megabytes with each of its first dozen new versions.
    """
    _glibc("malloc_trim", 0)


def give_back_large_memory() -> None:
    """Make glibc return memory to the kernel as soon as a large block is free, and only then.

    Without it a server keeps the memory of its largest photos: glibc raises its threshold to each freed size.
    """
    _glibc("mallopt", _MMAP_THRESHOLD, _LARGE)
    _glibc("mallopt", _TRIM_THRESHOLD, 2 * _LARGE)  # glibc's own, 128 KiB, costs page faults with each photo


def _glibc(name: str, *numbers: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        function = getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return
    function(*numbers)
