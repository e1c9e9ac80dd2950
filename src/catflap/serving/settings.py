"""What a server may be asked to do, and its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from catflap.errors import CatflapError

BundlePath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost.

    `queue` is how many photos may wait for a core, and so how many one request may bring; `deadline`
    and `upload` are seconds, from the whole request to its answer and from its first byte to its last;
    `body` is bytes, `pixels` those of one photo, `connections` the open ones.
    """

    queue: int = 64
    deadline: float = 10.0
    upload: float = 30.0
    body: int = 32 << 20
    pixels: int = 50_000_000
    connections: int = 1000

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise CatflapError(f"The limit {name} is {getattr(self, name)}.", "Use a number above 0.")

    @property
    def buffered(self) -> int:
        """Bytes of request bodies that may lie in memory at once."""
        return 8 * self.body


@dataclass(frozen=True)
class Settings:
    """What to serve, where, and with which limits.

    The first bundle is the default one; `rival` is a second version of it that gets the share `canary`
    of its requests, or, when that is 0, only judges in the shadow. `threads` are those of the network for one
    photo; `reload` is the seconds between two looks at the files.
    """

    bundles: tuple[BundlePath, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    variant: str | None = None
    prior: Mapping[str, float] | None = None
    threads: int = 1
    rival: BundlePath | None = None
    canary: float = 0.0
    reload: float = 1.0
    keys: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.bundles:
            raise CatflapError("No bundle was named.", "Name a .catflap file, or cat.")
        if self.threads < 1 or not 0 <= self.port <= 65535 or not 0 <= self.canary <= 1 or self.reload <= 0:
            raise CatflapError(
                f"Threads {self.threads}, port {self.port}, canary {self.canary} or reload {self.reload} "
                "is out of range.",
                "Use threads from 1, a port from 0 to 65535, a canary from 0 to 1, and a reload above 0.",
            )
        if self.tls_key and not self.tls_certificate:
            raise CatflapError("A TLS key was given without its certificate.", "Give --tls-cert as well.")
