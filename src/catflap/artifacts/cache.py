"""Where results are kept that can be worked out again."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

from catflap.errors import CatflapError


def cache_folder(kind: str) -> Path:
    """Where results that can be worked out again are kept: $CATFLAP_CACHE or ~/.cache/catflap.

    A user without a home, as in a container, has a folder among the temporary files.
    """
    root = os.environ.get("CATFLAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "catflap"
    try:
        return Path(root).expanduser() / kind
    except RuntimeError:
        return _homeless() / kind


def _homeless() -> Path:
    """A temporary folder that nobody else can write into; CatflapError where there can be none."""
    with suppress(OSError, AttributeError):  # the second on Windows, which has no numbers of users
        user = os.getuid()
        folder = Path(gettempdir()) / f"catflap-{user}"
        folder.mkdir(0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022:
            return folder
    raise CatflapError("There is no home folder for the cache.", "Let CATFLAP_CACHE name a folder.")
