"""SIGTERM, Ctrl-C and a terminal that closes stop work that goes on for ever, and that is no failure."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANGUP = getattr(signal, "SIGHUP", None)  # which Windows lacks


@contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` for each SIGTERM or Ctrl-C that comes meanwhile; outside of the main thread do nothing.

    SIGHUP, of a terminal that closes, counts once and as the first: a shell and the kernel both send it.
    Where it is ignored (nohup) it stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def hear(number: int, _: object) -> None:
        nonlocal asked
        if number != HANGUP or not asked:
            asked = True
            stop()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        numbers.append(HANGUP)
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
