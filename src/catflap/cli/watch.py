"""`catflap watch`: a camera, a stream, a video or a folder to events."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, log_arguments, log_settings, note, signer_arguments, signer_of

HELP = "Judge a camera, a stream, a video, a folder or frames on stdin, and tell a line an event."
EXAMPLE = "catflap watch cat.catflap 0 --on cat 'pinctrl set 17 op dh'"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle, the source, how to decide, and whom to tell."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one: cat")
    add(
        "source", metavar="SOURCE",
        help="0 or /dev/video0, rtsp://… or http://…, a video, a folder of photos, or - for JPEGs on stdin",
    )  # fmt: skip
    add("--variant", metavar="NAME", help="int8, fp32, … (default: the bundle's)")
    add("--threads", type=int, metavar="N", help="of the network (default: every core)")
    add("--prior", action="append", default=[], metavar="LABEL=SHARE", help="as catflap predict takes it")
    add(
        "--region", default="0,0,1,1", metavar="L,T,R,B",
        help="judge this part: left,top,right,bottom as shares of the frame",
    )  # fmt: skip
    add("--max-fps", type=float, default=1000.0, metavar="N", help="judge at most so many a second")
    add("--fps", type=float, default=1.0, metavar="N", help="photos of a folder that make a second (1)")
    add("--stalled", type=float, default=5.0, metavar="SECONDS", help="without a frame is frozen (5)")
    add("--still", type=float, default=60.0, metavar="SECONDS", help="of one picture are frozen too (60)")
    add("--frames", action="store_true", help="tell every judged frame too")
    decide = parser.add_argument_group("deciding")
    decide.add_argument("--enter", type=float, metavar="P", help="a label is entered at (0.8)")
    decide.add_argument("--leave", type=float, metavar="P", help="and left below (0.5)")
    decide.add_argument("--dwell", type=float, metavar="SECONDS", help="if that lasts so long (0.3)")
    decide.add_argument("--least", type=int, metavar="N", help="and for so many frames (3)")
    decide.add_argument("--memory", type=float, metavar="SECONDS", help="of the average (0.3)")
    tell = parser.add_argument_group("telling")
    tell.add_argument(
        "--on", nargs=2, action="append", default=[], metavar=("LABEL", "COMMAND"),
        help="run a command when LABEL, or unsure, is decided; may be repeated",
    )  # fmt: skip
    tell.add_argument("--webhook", metavar="URL", help="POST each event as JSON")
    tell.add_argument("--mqtt", metavar="URL", help="publish each event: mqtt://HOST/TOPIC, or mqtts://…")
    tell.add_argument("--save", type=Path, metavar="FOLDER", help="save each frame that decided")
    tell.add_argument("--clips", type=Path, metavar="FOLDER", help="save a film around each decision")
    tell.add_argument("--clip-seconds", type=float, default=4.0, metavar="N", help="before, and after (4)")
    tell.add_argument("--save-mb", type=float, default=500, metavar="MB", help="keep the newest (500)")
    tell.add_argument("--preview", metavar="PORT", help="show it in a browser; or HOST:PORT")
    signer_arguments(parser)
    log_arguments(parser)
    add("--log-every", type=float, default=10.0, metavar="SECONDS", help="log a frame that often (10)")


def answer(args: argparse.Namespace) -> int:
    """Watch until the source ends or somebody stops it."""
    from catflap.live.settings import Settings, parse_address, parse_region
    from catflap.live.smoothing import Rules
    from catflap.live.watch import watch
    from catflap.runtime.classifier import parse_prior

    stated = {"enter": args.enter, "leave": args.leave, "dwell": args.dwell, "frames": args.least}
    stated["memory"] = args.memory
    settings = Settings(
        bundle=args.bundle,
        signer=signer_of(args),
        source=args.source,
        variant=args.variant,
        threads=args.threads,
        prior=parse_prior(args.prior),
        region=parse_region(args.region),
        rules=Rules(**{name: value for name, value in stated.items() if value is not None}),
        stalled=args.stalled,
        still=args.still,
        max_fps=args.max_fps,
        fps=args.fps,
        webhook=args.webhook,
        mqtt=args.mqtt,
        on=dict(args.on),
        save=args.save,
        save_bytes=int(args.save_mb * 1e6),
        clips=args.clips,
        clip_seconds=args.clip_seconds,
        preview=None if args.preview is None else parse_address(args.preview),
        every_frame=args.frames,
        log=log_settings(args),
        log_every=args.log_every,
    )
    watch(settings, lambda event: emit(event, args, _text(event)), note)
    return 0


def _text(event: dict[str, object]) -> str:
    """An event for people: when, what, and what belongs to it."""
    from datetime import datetime

    when = datetime.fromtimestamp(float(str(event["time"]))).strftime("%H:%M:%S.%f")[:-3]
    hidden = ("event", "time", "probabilities", "frame_time", "label", "ms", "fix")
    words = [
        f"{name.replace('_', ' ')} {value:.3g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in event.items()
        if name not in hidden
    ]
    return f"{when}  {event['event']}: {', '.join(words)}"
