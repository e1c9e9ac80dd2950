"""The settings of a server, and the limits of a request and of all of them together."""

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

LARGEST = 10**9  # any limit
LIMITS = {  # name -> what a message calls it, its unit, and how many of ours one of that unit is
    "queue": ("The queue (--queue)", " photos", 1),
    "deadline": ("The deadline (--deadline)", " s", 1),
    "upload": ("The upload timeout (--upload-timeout)", " s", 1),
    "body": ("The size of a body (--max-mb)", " MB", 1_000_000),
    "pixels": ("The size of a photo (--max-pixels)", " pixels", 1),
    "connections": ("The number of connections (--connections)", "", 1),
}
RANGES = {
    "threads": ("The number of threads (--threads)", 1, 1024),
    "port": ("The port (--port)", 0, 65535),
    "share": ("The canary's share (--share)", 0.0001, 1),
    "reload": ("The reload interval (--reload)", 0.01, 1e6),
}


@dataclass(frozen=True)
class ServeLimits:
    """The limits of one request, and of all of them together.

    `queue` is how many photos may wait for a core (an infer request of the Open Inference Protocol counts as
    one), and how many one request may contain. `deadline` is the seconds from the complete request to its
    response, `upload` those from the first byte of its body to the last. `body` is in bytes, `pixels` is for
    one photo, `connections` is how many may be open.
    """

    queue: int = 64
    deadline: float = 10.0
    upload: float = 30.0
    body: int = 32_000_000
    pixels: int = 50_000_000
    connections: int = 1000

    def __post_init__(self) -> None:
        for name, (words, unit, scale) in LIMITS.items():
            value = getattr(self, name)
            if not 0 < value <= LARGEST:
                raise CatflapError(
                    f"{words} is {value / scale:,.12g}{unit}.",
                    f"Use more than 0, up to {LARGEST // scale:,}.",
                )

    @property
    def buffered(self) -> int:
        """Bytes of request bodies that may be in memory at once."""
        return 8 * self.body


@dataclass(frozen=True)
class ServeSettings:
    """What to serve, at which address, and with which limits.

    The first bundle is the default. Another version of it may be its `canary`, which answers a `share` of
    its requests, or its `shadow`, which judges the same photos and is only counted. `threads` is how many one
    photo may use; `reload` is the seconds between two checks for a replaced bundle file; `log` records every
    decision. A bundle that `signer` did not sign is refused, as is one without the `operating_point`
    or below whose curve the `error_rate` lies.
    """

    bundles: tuple[BundlePath, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    variant: str | None = None
    prior: Mapping[str, float] | None = None
    operating_point: str | None = None
    error_rate: float | None = None
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
            raise CatflapError("No bundle is given.", "Name a .catflap file, or cat.")
        if not self.host:  # which would mean every address of this machine
            raise CatflapError("The host (--host) is empty.", "Name an address, such as 127.0.0.1.")
        for name, (words, least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise CatflapError(f"{words} is {getattr(self, name)}.", f"Use {least} to {most:g}.")
        if self.canary is not None and self.shadow is not None:
            raise CatflapError("Both --canary and --shadow are given.", "Give one of them.")
        if self.tls_key and not self.tls_certificate:
            raise CatflapError("A TLS key is given without its certificate.", "Give --tls-cert, too.")
