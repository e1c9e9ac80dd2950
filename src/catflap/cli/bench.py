"""`catflap bench`: how fast a Bundle answers on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import as_text, emit, progress_bar, table

HELP = (
    "Time a Bundle on this machine: latency by stage, photos a second by threads, memory, joules, cold start."
)
EXAMPLE = "catflap bench cat --threads 1"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle and how to time it."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one: cat")
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="variant to run: int8, fp32, … (default: the bundle's own, if it can run here)",
    )
    parser.add_argument(
        "--photo", type=Path, help="time on this photo (default: a drawn one of 500 × 375 px)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the network (default: one a core)"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="also write how fast this device is, with --threads or 1, for `catflap export --device-profile`",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="N",
        help="seconds to ask for, one photo after another, at least 64 times (default: 3)",
    )  # fmt: skip


def answer(args: argparse.Namespace) -> int:
    """Time and print."""
    from catflap.runtime.bench import bench, check_profile, profile_device, write_profile

    if args.profile is not None:
        check_profile(args.profile)
    with progress_bar(args) as progress:
        fields = bench(
            args.bundle,
            variant=args.variant,
            photo=args.photo,
            threads=args.threads,
            seconds=args.seconds,
            progress=progress,
        )
    if args.profile is not None:
        write_profile(args.profile, profile_device(args.threads or 1))
    emit(fields, args, _text(fields))
    return 0


def _text(fields: dict) -> str:  # type: ignore[type-arg]
    """The figures as text: a table of stages, one of threads, and the rest."""
    stages = [{"ms": stage, **times} for stage, times in fields["milliseconds"].items()]
    rest = {name: value for name, value in fields.items() if name not in ("milliseconds", "throughput")}
    return "\n\n".join([table(stages), table(fields["throughput"]), as_text(rest)])
