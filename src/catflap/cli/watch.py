"""`catflap watch`: a camera, a stream, a video or a folder to events."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from catflap.cli.options import (
    error_rate_argument,
    given_options,
    log_arguments,
    log_settings,
    megabytes,
    point_argument,
    refuse_alone,
    short_help,
    signer_arguments,
    signer_of,
)
from catflap.cli.output import emit, note

HELP = "Classify a camera, a stream, a video, a folder or frames on stdin, and print a line for each event."
EXAMPLE = """catflap watch cat.catflap 0 --on cat 'pinctrl set 17 op dh' \\
    --on not_cat 'pinctrl set 17 op dl' --on unsure 'pinctrl set 17 op dl'"""
SHOWN = (  # by --help; the rest by --help-all
    "--operating-point", "--region", "--on", "--webhook", "--mqtt", "--save", "--clips", "--preview", "--log",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle, the source, how to decide, and who receives the events."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one: cat")
    add(
        "source", metavar="SOURCE",
        help="0 or /dev/video0, rtsp://… or http://…, a video, a folder of photos, or - for JPEGs on stdin",
    )  # fmt: skip
    add(
        "--variant", metavar="NAME",
        help="variant to run: int8, fp32, … (default: the bundle's own, if it can run here)",
    )  # fmt: skip
    add("--threads", type=int, metavar="N", help="threads of the network (default: one a core)")
    add(
        "--prior", action="append", default=[], metavar="LABEL=SHARE",
        help="how common a label is where the photos come from; may be repeated (default: as in training)",
    )  # fmt: skip
    add(
        "--region", metavar="L,T,R,B",
        help="classify this part: left,top,right,bottom as shares of the frame (default: the whole frame)",
    )  # fmt: skip
    add(
        "--max-fps", type=float, metavar="N",
        help="frames of a live source a second, at most (default: 1000, the maximum)",
    )  # fmt: skip
    add(
        "--fps", type=float, metavar="N",
        help="photos of a folder, or of an address that gives one photo, a second (default: 1)",
    )  # fmt: skip
    add(
        "--stalled", type=float, metavar="SECONDS",
        help="seconds without a frame after which a live source counts as frozen (default: 5)",
    )  # fmt: skip
    add(
        "--still", type=float, metavar="SECONDS",
        help="seconds of exactly the same picture after which it counts as frozen (default: 60)",
    )  # fmt: skip
    add("--every-frame", action="store_true", help="print a line for each classified frame, too")

    error_rate_argument(parser)
    point_argument(parser)
    add = parser.add_argument_group("when the decision changes").add_argument
    add(
        "--enter", type=float, metavar="P",
        help="average probability at which a label is decided (default: the bundle's threshold)",
    )  # fmt: skip
    add(
        "--leave", type=float, metavar="P",
        help="average probability below which the decided label is given up (default: a quarter of the odds "
        "of --enter, such as 0.5 for 0.8)",
    )  # fmt: skip
    add(
        "--dwell", type=float, metavar="SECONDS",
        help="seconds that the average must stay beyond --enter or --leave (default: 0.3)",
    )  # fmt: skip
    add("--min-frames", type=int, metavar="N", help="frames in a row for which it must, too (default: 3)")
    add(
        "--smoothing", type=float, metavar="SECONDS",
        help="seconds over which probabilities are averaged; 0: each frame alone (default: 0.3)",
    )  # fmt: skip

    add = parser.add_argument_group("what follows").add_argument
    add(
        "--on", nargs=2, action="append", default=[], metavar=("LABEL", "COMMAND"),
        help="run a command when LABEL, or unsure, is decided; may be repeated, once a label",
    )  # fmt: skip
    add("--webhook", metavar="URL", help="POST each event but frames as JSON to URL")
    add("--mqtt", metavar="URL", help="publish each event but frames: mqtt://HOST/TOPIC, or mqtts://…")
    add("--save", type=Path, metavar="FOLDER", help="save the frame of each decision in FOLDER")
    add("--clips", type=Path, metavar="FOLDER", help="save a video around each decision in FOLDER")
    add(
        "--clip-seconds", type=float, metavar="N",
        help="seconds of a video before the decision, and as many after it (default: 4)",
    )  # fmt: skip
    add(
        "--save-mb", type=megabytes, metavar="MB",
        help="megabytes that each of these folders may take; the oldest files go first (default: 500)",
    )  # fmt: skip
    add(
        "--preview", metavar="PORT",
        help="show the frames in a browser of this machine; HOST:PORT shows them to others, too",
    )  # fmt: skip
    signer_arguments(parser)
    log_arguments(parser)
    parser.add_argument(
        "--log-every", type=float, metavar="SECONDS",
        help="seconds between two logged frames; those that decide are logged, too (default: 10)",
    )  # fmt: skip
    short_help(parser, SHOWN)


def answer(args: argparse.Namespace) -> int:
    """Watch until the source ends or a signal comes."""
    from catflap.live.hysteresis import Rules
    from catflap.live.watch import watch
    from catflap.live.watch_settings import WatchSettings, parse_address, parse_commands, parse_region
    from catflap.runtime.decisions import parse_prior

    refuse_alone(args, "--clips videos", "--clip-seconds")
    refuse_alone(args, "--log field.log", "--log-every")
    if args.clips is None:
        refuse_alone(args, "--save frames", "--save-mb")
    rules = given_options(
        enter=args.enter, leave=args.leave, dwell=args.dwell, frames=args.min_frames, smoothing=args.smoothing
    )
    save_bytes = None if args.save_mb is None else int(args.save_mb * 1e6)
    settings = WatchSettings(
        bundle=args.bundle,
        signer=signer_of(args),
        source=args.source,
        variant=args.variant,
        threads=args.threads,
        prior=parse_prior(args.prior),
        operating_point=args.operating_point,
        error_rate=args.error_rate,
        rules=Rules(**rules),
        webhook=args.webhook,
        mqtt=args.mqtt,
        on=parse_commands(args.on),
        save=args.save,
        clips=args.clips,
        preview=None if args.preview is None else parse_address(args.preview),
        every_frame=args.every_frame,
        log=log_settings(args),
        **given_options(
            region=None if args.region is None else parse_region(args.region),
            stalled=args.stalled,
            still=args.still,
            max_fps=args.max_fps,
            fps=args.fps,
            clip_seconds=args.clip_seconds,
            save_bytes=save_bytes,
            log_every=args.log_every,
        ),
    )
    is_writing = False

    def show(event: dict[str, Any] | str) -> None:
        """Print an event or a note; both come from one thread."""
        nonlocal is_writing
        is_writing = True
        try:
            if isinstance(event, str):
                note(event)
            else:
                emit(event, args, _text(event))
        finally:
            is_writing = False

    watch(settings, show, show)
    if is_writing:
        os._exit(0)  # the reader of stdout or stderr hangs, and the interpreter would wait for it
    return 0


def _text(event: dict[str, Any]) -> str:
    """An event for people: when, what, and the details."""
    when = datetime.fromtimestamp(event["time"]).strftime("%H:%M:%S.%f")[:-3]
    hidden = ("event", "time", "probabilities", "frame_time", "label", "ms", "fix")
    details = [
        f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in event.items()
        if name not in hidden
    ]
    return f"{when}  {event['event']}: {', '.join(details)}"
