"""WatchSettings: defaults and limits of a watch (clip seconds, rates, a stalled camera), and the options."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from catflap.errors import CatflapError
from catflap.live.hysteresis import Rules
from catflap.runtime.recording import LogSettings
from catflap.runtime.signature import Signer

Region = tuple[float, float, float, float]
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
DAY = 86_400  # seconds
LIMITS: Mapping[str, tuple[str, str, float, int]] = MappingProxyType(
    {  # field -> the option that sets it, its unit, the divisor to that unit, and the maximum
        "stalled": ("--stalled", "seconds", 1, 3600),
        "still": ("--still", "seconds", 1, DAY),
        "max_fps": ("--max-fps", "frames a second", 1, 1000),
        "fps": ("--fps", "photos a second", 1, 1000),
        "save_bytes": ("--save-mb", "megabytes", 1e6, 10**9),
        "log_every": ("--log-every", "seconds", 1, DAY),
        "clip_seconds": ("--clip-seconds", "seconds", 1, 30),
    }
)


@dataclass(frozen=True)
class WatchSettings:
    """What to watch, how to decide, and who receives the events.

    `region` is the part that is classified: left, top, right, bottom as shares of the frame. A live source
    counts as frozen after `stalled` seconds without a frame, or `still` seconds with exactly the same
    picture; after `stalled` seconds without a readable frame the decision becomes unsure. At most `max_fps`
    frames of a live source are classified a second; `fps` is how many photos of a folder make a second, or
    are fetched a second from an address that gives one. `on` maps a label, or "unsure", to a command. `save`
    is a folder for the frames that changed the decision, `clips` one for videos of `clip_seconds` before and
    after each decision, each of at most `save_bytes`. `every_frame` also reports each classified frame. `log`
    records a frame every `log_every` seconds, and each one that changed the decision. At an `operating_point`
    of the bundle the decisions of frames are averaged instead of their probabilities. `error_rate` is
    another of the bundle's curve. A bundle that `signer` did not sign is refused.
    """

    bundle: str | os.PathLike[str]
    source: str
    variant: str | None = None
    threads: int | None = None
    prior: Mapping[str, float] | None = None
    operating_point: str | None = None
    error_rate: float | None = None
    region: Region = WHOLE
    rules: Rules = field(default_factory=Rules)
    stalled: float = 5.0
    still: float = 60.0
    max_fps: float = 1000.0
    fps: float = 1.0
    webhook: str | None = None
    mqtt: str | None = None
    on: Mapping[str, str] = field(default_factory=dict)
    save: Path | None = None
    save_bytes: int = 500_000_000
    clips: Path | None = None
    clip_seconds: float = 4.0
    preview: tuple[str, int] | None = None
    every_frame: bool = False
    log: LogSettings | None = None
    log_every: float = 10.0
    signer: Signer | None = None

    def __post_init__(self) -> None:
        left, top, right, bottom = self.region
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise CatflapError(
                f"The region {self.region} is not inside the frame.",
                "Use left,top,right,bottom as shares, such as 0.25,0,0.75,1.",
            )
        for name, (option, unit, divisor, most) in LIMITS.items():
            value = getattr(self, name) / divisor
            if not 0 < value <= most:
                raise CatflapError(
                    f"{option} is {value:g} {unit}.", f"Use more than 0 and at most {most:,} {unit}."
                )


def check_unused(settings: WatchSettings, source: str, *, live: bool, paced: bool) -> None:
    """Raise CatflapError for a setting that is not the default one and has no effect on this source."""
    unused = [*([] if paced else ["fps"]), *([] if live else ["max_fps", "still"])]
    for name in unused:
        if getattr(settings, name) != getattr(WatchSettings, name):
            option = LIMITS[name][0]
            raise CatflapError(f"{option} has no effect on {source}.", f"Leave {option} out.")


def pixel_box(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    """A region in pixels of a frame: left, top, right, bottom; at least one pixel."""
    left, top = int(region[0] * width), int(region[1] * height)
    return left, top, max(left + 1, int(region[2] * width)), max(top + 1, int(region[3] * height))


def parse_region(text: str) -> Region:
    """The region written as LEFT,TOP,RIGHT,BOTTOM."""
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError as error:
        raise CatflapError(
            f"The region {text!r} is not four numbers.", "Use: --region 0.25,0,0.75,1"
        ) from error
    return left, top, right, bottom


def parse_commands(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The command of each label, from pairs of LABEL and COMMAND; each label once."""
    for label, times in Counter(label for label, _ in pairs).items():
        if times > 1:
            raise CatflapError(
                f"{label!r} has {times} commands.", "Give it one, such as: --on cat 'sh -c \"first; second\"'"
            )
    return dict(pairs)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port, written as PORT or HOST:PORT; a port alone is for this machine only."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise CatflapError(f"The address {text!r} has no port.", "Use: --preview 8080")
    return host.strip("[]") or "127.0.0.1", int(port)
