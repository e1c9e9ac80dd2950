"""The verb `plan`: time, memory, disk and cost of the line for millions of photos, from measured rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from catflap.data.roles import SHARES
from catflap.errors import CatflapError
from catflap.pipeline.machine_rates import MachineRates

# Measured for twelve million photos, benchmarks/README.md#scale, on 2 cores of an AMD EPYC.
SERIAL_SECONDS = 34e-6  # a photo, in the one process that lists, commits and judges
NEAR_SECONDS = 121 / 12e6  # a photo, where hashes are correlated
ROLES_SECONDS = (98 + 24) / 12e6  # a photo, for roles and index
SCAN_BYTES, PREPARE_BYTES, TRAIN_BYTES = 150.0, 900.0, 400.0  # of memory a photo
MANIFEST_BYTES, INDEX_BYTES = 67.0, 55.0  # of disk a photo: those of 500 photos, each over 500
BASE_MB = 1000.0  # of a process with torch, before any photo
VARIANTS = 2  # int8 and fp32 are measured at export
MAX_PHOTOS = 1e12
BENCHMARKS = "benchmarks/README.md"


@dataclass(frozen=True)
class Step:
    """A step of the line: None where its rate was not measured on such a machine.

    `source` says where the figure comes from, `serial` that more cores do not help.
    """

    name: str
    command: str
    seconds: float | None
    memory_mb: float
    disk_mb: float
    source: str
    serial: bool = False

    def to_json(self) -> dict[str, Any]:
        """The step as JSON."""
        return dict(vars(self))


def plan_scale(
    photos: float,
    rates: MachineRates,
    *,
    cores: int | None = None,
    machines: int = 1,
    epochs: float = 1.0,
    price: float | None = None,
) -> dict[str, Any]:
    """What the line takes for so many photos on machines with these rates; docs/reference/json.md.

    `cores` other than the measured ones scale what runs on each core, `machines` divide what they can share;
    such figures are marked as scaled. `price` is of one machine for an hour, in any currency.
    Raises CatflapError for numbers that make no sense.
    """
    for name, value, most in (
        ("photos", photos, MAX_PHOTOS),
        ("machines", machines, 1e5),
        ("cores", cores or 1, 1e5),
    ):
        if not 1 <= value <= most:
            raise CatflapError(f"{name} is {value:g}.", f"Use 1 to {most:g}.")
    if not 0 <= epochs <= 1000 or (price is not None and not 0 <= price < 1e9):
        raise CatflapError(f"epochs is {epochs:g} and price {price}.", "Use numbers of 0 or more.")
    here = int(rates.machine["cores"])
    count = cores or here
    steps = _steps(photos, rates, count, machines, epochs)
    known = [step for step in steps if step.seconds is not None]
    seconds = sum(step.seconds or 0.0 for step in known)
    missing = [step.name for step in steps if step.seconds is None]
    return {
        "photos": int(photos),
        "machine": rates.name,
        "cores": count,
        "machines": machines,
        "scaled": count != here or machines != 1,
        "steps": [step.to_json() for step in steps],
        "seconds": seconds,
        "not_measured": missing,
        "memory_mb": max(step.memory_mb for step in steps),
        "disk_mb": sum(step.disk_mb for step in steps),
        "photos_mb": photos * rates.photo_bytes / 1e6,
        "cost": None if price is None else machines * price * seconds / 3600,
        "limits": _limits(photos, rates, steps, machines),
    }


def _steps(photos: float, rates: MachineRates, cores: int, machines: int, epochs: float) -> list[Step]:
    per, here = rates.rates, int(rates.machine["cores"])
    train, judged = SHARES["train"] + SHARES["validation"], SHARES["calibration"] + SHARES["test"]
    learnt = photos * train * epochs
    features_mb = photos * train * rates.width * 4 / 1e6
    measured = f"measured, {rates.photos} photos"
    on_cpu = rates.device == "cpu"

    def each_core(name: str, count: float) -> float | None:
        rate = per.get(name)
        return None if rate is None else count / (rate * cores * machines)

    def whole_device(name: str, count: float) -> float | None:
        """On a processor more cores help as well; a GPU is what it is."""
        rate = per.get(name)
        if rate is None:
            return None
        faster = (cores / here if on_cpu else 1.0) * machines * _efficiency(rates, machines, on_cpu)
        return count / (rate * faster)

    decode, network = each_core("decode", photos * train), whole_device("features", photos * train)
    features = None if decode is None or network is None else _shared(decode, network, on_cpu)
    scan = each_core("scan", photos)
    finetune = _shared(each_core("decode", learnt), whole_device("finetune", learnt), on_cpu)
    head_rate, near_rate = per.get("head"), per.get("duplicates")
    # Half a million hashes take less time each than twelve million do.
    near = None if near_rate is None else max(photos / near_rate, photos * NEAR_SECONDS)
    by = "measured on one core, random frames" if on_cpu else "measured, random frames"
    predict = each_core("predict", photos)
    return [
        Step("scan", "catflap scan", None if scan is None else max(scan, photos * SERIAL_SECONDS),
             photos * SCAN_BYTES / 1e6, photos * MANIFEST_BYTES / 1e6, measured),
        Step("near-duplicates", "catflap scan", near,
             photos * SCAN_BYTES / 1e6, 0.0, f"drawn hashes; {BENCHMARKS} for 12 million", True),
        Step("roles and index", "catflap prepare", photos * ROLES_SECONDS, photos * PREPARE_BYTES / 1e6,
             photos * INDEX_BYTES / 1e6, BENCHMARKS, True),
        Step("packing", "catflap prepare", each_core("pack", photos), photos * PREPARE_BYTES / 1e6,
             photos * rates.photo_bytes / 1e6, measured),
        Step("features", "catflap train", features, BASE_MB + photos * TRAIN_BYTES / 1e6,
             features_mb, measured),
        Step("head", "catflap train", None if head_rate is None else photos * train / head_rate,
             BASE_MB + photos * TRAIN_BYTES / 1e6, 0.0, "measured, 4,000 drawn photos", True),
        *([Step("fine-tuning", f"catflap train --recipe finetune --epochs {epochs:g}", finetune,
                BASE_MB + photos * TRAIN_BYTES / 1e6, 100.0, by)] * (epochs > 0)),
        Step("export and evaluation", "catflap export",
             None if predict is None else predict * judged * VARIANTS, BASE_MB, 20.0, measured),
    ]  # fmt: skip


def _efficiency(rates: MachineRates, machines: int, on_cpu: bool) -> float:
    """The share of n-fold speed that n GPUs reach, where it was measured; without it 1."""
    return 1.0 if machines == 1 or on_cpu else rates.ddp_efficiency or 1.0


def _shared(decode: float | None, network: float | None, on_cpu: bool) -> float | None:
    """Seconds of decoding and computing: one after the other on a processor, at once beside a GPU."""
    if decode is None or network is None:
        return None
    return decode + network if on_cpu else max(decode, network)


def _limits(photos: float, rates: MachineRates, steps: list[Step], machines: int) -> list[dict[str, Any]]:
    """What ends first when photos become more, the nearest first: {"what", "photos", "reached", "help"}."""
    disk = sum(step.disk_mb for step in steps) / photos
    found = [
        {
            "what": f"memory: {rates.machine['memory_mb'] / 1e3:.0f} GB",
            "photos": rates.machine["memory_mb"] / (PREPARE_BYTES / 1e6),
            "help": "a machine with more memory for `prepare`",
        },
        {
            "what": f"free disk: {rates.disk_free_mb / 1e3:.0f} GB",
            "photos": rates.disk_free_mb / disk,
            "help": "catflap prepare --shrink 256, or a larger disk",
        },
    ]
    timed = [step for step in steps if step.seconds]
    if timed:
        longest = max(timed, key=lambda step: step.seconds or 0.0)
        share = (longest.seconds or 0.0) / sum(step.seconds or 0.0 for step in timed)
        serial = sum(step.seconds or 0.0 for step in timed if step.serial)
        what = (
            f"time: {longest.name} takes {100 * share:.0f} %; cores do not help {serial / 3600:.2g} h of it"
        )
        helps = "a faster processor" if longest.serial else "more cores" if machines == 1 else "more machines"
        found.append({"what": what, "photos": None, "help": helps})
    for entry in found:
        entry["reached"] = entry["photos"] is not None and entry["photos"] < photos
    return sorted(found, key=lambda entry: entry["photos"] or math.inf)
