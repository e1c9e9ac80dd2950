"""`catflap plan`: what millions of photos take."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catflap.cli.output import emit, progress_bar
from catflap.cli.output import table as as_table

HELP = "Say what so many photos take: time, memory, disk, cost and the next limit, from measured rates."
EXAMPLE = "catflap plan --photos 12e6 --machine rates.json --cores 32 --price 1.5"


def arguments(parser: argparse.ArgumentParser) -> None:
    """How many photos, and on what."""
    parser.add_argument("--photos", metavar="N", type=float, required=True, help="how many, such as 12e6")
    parser.add_argument(
        "--machine", metavar="FILE", type=Path, action="append", default=[],
        help="rates of a machine, written by -o or benchmarks/gpu.py; repeatable (default: measure this one)",
    )  # fmt: skip
    parser.add_argument(
        "--sample", metavar="PHOTOS", type=Path,
        help="measure with photos of this folder (default: drawn ones of 500 × 375 px)",
    )  # fmt: skip
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, help="write the measured rates into a file")
    parser.add_argument(
        "--cores", metavar="N", type=int, help="scale to so many cores (default: as measured)"
    )
    parser.add_argument("--machines", metavar="N", type=int, default=1, help="such machines (default: 1)")
    parser.add_argument(
        "--epochs", metavar="N", type=float, default=1.0, help="of fine-tuning; 0: a head only (default: 1)"
    )
    parser.add_argument("--price", metavar="P", type=float, help="price of one machine for an hour")


def answer(args: argparse.Namespace) -> int:
    """Measure or load the rates, and print a plan for each machine."""
    from catflap.errors import CatflapError
    from catflap.pipeline.machine_rates import load_rates, measure_rates, write_rates
    from catflap.pipeline.scale import plan_scale

    if args.machine and (args.out or args.sample):
        raise CatflapError("--out and --sample measure this machine.", "Leave out --machine.")
    rates = [load_rates(path) for path in args.machine]
    if args.out is not None and args.out.exists():
        load_rates(args.out)
    asked = {"cores": args.cores, "machines": args.machines, "epochs": args.epochs, "price": args.price}
    for each in rates:
        plan_scale(args.photos, each, **asked)
    if not rates:
        with progress_bar(args) as progress:
            rates = [measure_rates(args.sample, progress=progress)]
        if args.out is not None:
            write_rates(args.out, rates[0])
    plans = [plan_scale(args.photos, each, **asked) for each in rates]
    emit({"plans": plans}, args, "\n\n".join(plan_text(plan) for plan in plans))
    return 0


def plan_text(plan: Mapping[str, Any]) -> str:
    """A plan for people."""
    rows = [
        {
            "step": step["name"],
            "time": duration(step["seconds"]),
            "memory": amount(step["memory_mb"]),
            "disk": amount(step["disk_mb"]),
            "from": step["source"],
            "command": step["command"],
        }
        for step in plan["steps"]
    ]
    machines = "" if plan["machines"] == 1 else f"{plan['machines']} × "
    scaled = ", scaled from what was measured, not measured itself" if plan["scaled"] else ""
    lines = [
        f"{plan['photos']:,} photos on {machines}{plan['machine']}, {plan['cores']} cores{scaled}",
        as_table(rows),
        f"together {duration(plan['seconds'])}, {amount(plan['memory_mb'])} of memory, "
        f"{amount(plan['disk_mb'])} of disk beside the photos ({amount(plan['photos_mb'])})",
    ]
    if plan["not_measured"]:
        lines.append(f"not measured, so not in the sum: {', '.join(plan['not_measured'])}")
    if plan["cost"] is not None:
        lines.append(f"cost: {plan['cost']:,.2f}")
    return "\n".join([*lines, *_limit_lines(plan["limits"])])


def _limit_lines(limits: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for limit in limits:
        at = "" if limit["photos"] is None else f" ends at {limit['photos'] / 1e6:,.3g} million photos"
        lines.append(
            f"{'REACHED' if limit['reached'] else 'limit'}: {limit['what']}{at}; helps: {limit['help']}"
        )
    return lines


def duration(seconds: float | None) -> str:
    """Seconds in a unit for people."""
    if seconds is None:
        return "not measured"
    for size, unit in ((86_400 * 3, "days"), (5400, "h"), (90, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"


def amount(megabytes: float) -> str:
    """Megabytes in a unit for people."""
    if megabytes >= 1e6:
        return f"{megabytes / 1e6:.3g} TB"
    return f"{megabytes / 1e3:.3g} GB" if megabytes >= 1e3 else f"{megabytes:.3g} MB"
