"""Locks between processes, which end with the process that holds them."""

from __future__ import annotations


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; False where another process holds it.

    Some file systems lock nothing; there it is True.
    """
    import fcntl  # which Windows lacks, where a Bundle can be read

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
