"""Memory of a server that runs for months: what a request or a replaced bundle took goes back."""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD, _LARGE = -3, 1 << 17  # mallopt(3); glibc's own start, which it raises as blocks are freed


def keep_little() -> None:
    """Take large blocks, such as pixels, from the kernel and give them back at once: mallopt(3).

    glibc would soon keep them in its heaps, which get holes and grow over the first thousands of requests.
    Does nothing where there is no glibc.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Hand free memory back to the kernel, which glibc does not do by itself: malloc_trim(3).

    Without it a server grows by some megabytes with each of its first dozen new versions. Does
    nothing where there is no glibc.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
