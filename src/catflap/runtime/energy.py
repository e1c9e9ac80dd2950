"""Joules, where the processor counts them and the kernel lets us read: Intel and AMD's RAPL on Linux."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts the energy of the whole machine's processors since it was made, other programs' included."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = sorted(root.glob("intel-rapl:?"))  # packages; their parts are counted in them
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


def _counter(zone: Path) -> int | None:
    return _number(zone / "energy_uj")


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
