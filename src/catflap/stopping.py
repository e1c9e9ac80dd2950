"""What SIGTERM, SIGHUP and Ctrl-C do: end a command in order, or stop work that never ends by itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

HANGUP = getattr(signal, "SIGHUP", None)  # which Windows lacks
AGAIN = 2.0  # seconds in which a signal counts once: timeout(1) sends it to the process and to its group


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised where the program is, so that it cleans up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def end_in_order() -> None:
    """Raise Ended on SIGTERM and on SIGHUP, unless the parent process ignores them, as nohup does."""
    ours, last = os.getpid(), -AGAIN

    def end(number: int, frame: object) -> None:
        nonlocal last
        if os.getpid() != ours:  # a forked worker ends as it would without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif monotonic() - last >= AGAIN:
            last = monotonic()
            raise Ended(number)

    for number in (signal.SIGTERM, HANGUP):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


@contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` for each SIGTERM or Ctrl-C while the block runs; outside of the main thread do nothing.

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
