"""Memory that a replaced bundle leaves behind."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Hand free memory back to the kernel, which glibc does not do by itself: malloc_trim(3).

    Without it a server grows by some megabytes with each of its first dozen new versions. Does
    nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
