"""Joules, where the processor counts them and the kernel lets us read: Intel and AMD's RAPL on Linux."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts the energy of the whole machine's processors since it was made, other programs' included."""

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = (zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._zones = sorted(zone for zone in zones if not _is_platform(zone))
        self._before = [_counter(zone) for zone in self._zones]
        self._total = 0

    def joules(self) -> float | None:
        """The joules so far; None where they cannot be read. Read it more often than the counter wraps.

        It wraps after about an hour of full load.
        """
        for number, zone in enumerate(self._zones):
            before, now = self._before[number], _counter(zone)
            if before is None or now is None:
                return None
            reach = _number(zone / "max_energy_range_uj") or 0
            self._total += now - before if now >= before else now - before + reach
            self._before[number] = now
        return self._total / 1e6 if self._zones else None


def _is_platform(zone: Path) -> bool:
    """Whether a zone is the whole machine, screen and memory included: it counts its processors again.

    The others are packages; the zones of their parts have a second colon in their names.
    """
    with suppress(OSError, ValueError):
        return (zone / "name").read_text().strip() == "psys"
    return False


def _counter(zone: Path) -> int | None:
    return _number(zone / "energy_uj")


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
