"""What a server may be asked to do, and its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from catflap.errors import CatflapError
from catflap.runtime.recording import LogSettings
from catflap.runtime.signature import Signer

BundlePath: TypeAlias = "str | os.PathLike[str]"

MOST = 10**9  # of any limit
SHOWN = {  # what a limit is called where a person states it, and in which unit
    "queue": ("The queue (--queue)", " photos", 1),
    "deadline": ("The deadline (--deadline)", " s", 1),
    "upload": ("The time for a body (--upload-timeout)", " s", 1),
    "body": ("The size of a body (--max-mb)", " MB", 1_000_000),
    "pixels": ("The size of a photo (--max-pixels)", " pixels", 1),
    "connections": ("The number of connections (--connections)", "", 1),
}
RANGES = {
    "threads": ("The number of threads (--threads)", 1, 1024),
    "port": ("The port (--port)", 0, 65535),
    "share": ("The canary's share (--share)", 0.0001, 1),
    "reload": ("The time between two looks (--reload)", 0.01, 1e6),
}


@dataclass(frozen=True)
class ServeLimits:
    """What one request, and all of them together, may cost.

    `queue` is how many photos may wait for a core, where an infer request of the Open Inference Protocol
    counts as one, and also how many one request may bring; `deadline` and `upload` are seconds, from the
    whole request to its answer and from its first byte to its last; `body` is bytes, `pixels` those of one
    photo, `connections` the open ones.
    """

    queue: int = 64
    deadline: float = 10.0
    upload: float = 30.0
    body: int = 32_000_000
    pixels: int = 50_000_000
    connections: int = 1000

    def __post_init__(self) -> None:
        for name, (words, unit, scale) in SHOWN.items():
            value = getattr(self, name)
            if not 0 < value <= MOST:
                raise CatflapError(
                    f"{words} is {value / scale:,.12g}{unit}.", f"Use more than 0, up to {MOST // scale:,}."
                )

    @property
    def buffered(self) -> int:
        """Bytes of request bodies that may lie in memory at once."""
        return 8 * self.body


@dataclass(frozen=True)
class ServeSettings:
    """What to serve, where, and with which limits.

    The first bundle is the default one; a second version of it may be its `canary`, which answers a `share`
    of its requests, or its `shadow`, which judges too and is only counted. `threads` are those of the network
    for one photo; `reload` is the seconds between two looks at the files; `log` records every answer;
    a bundle that `signer` did not sign is refused, and one whose variant lacks the `operating_point`.
    """

    bundles: tuple[BundlePath, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    variant: str | None = None
    prior: Mapping[str, float] | None = None
    operating_point: str | None = None
    threads: int = 1
    canary: BundlePath | None = None
    shadow: BundlePath | None = None
    share: float = 0.05
    reload: float = 1.0
    keys: Path | None = None
    signer: Signer | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    log: LogSettings | None = None
    limits: ServeLimits = field(default_factory=ServeLimits)

    def __post_init__(self) -> None:
        if not self.bundles:
            raise CatflapError("No bundle was named.", "Name a .catflap file, or cat.")
        if not self.host:  # which a socket takes for every address of the machine
            raise CatflapError("The host is empty.", "Name an address, such as 127.0.0.1.")
        for name, (words, least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise CatflapError(f"{words} is {getattr(self, name)}.", f"Use {least} to {most:g}.")
        if self.canary is not None and self.shadow is not None:
            raise CatflapError("Both a canary and a shadow were named.", "Name one of them.")
        if self.tls_key and not self.tls_certificate:
            raise CatflapError("A TLS key was given without its certificate.", "Give --tls-cert as well.")
