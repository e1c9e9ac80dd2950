"""What SIGTERM, SIGHUP and Ctrl-C do: end a command in order, or stop work that never ends by itself."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

HANGUP = getattr(signal, "SIGHUP", None)  # which Windows lacks
GRACE = 10.0  # seconds in which a command that was stopped cleans up
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
def answered_at_once(answer: Callable[[], object]) -> Iterator[None]:
    """Call `answer` from a thread at the first Ctrl-C, SIGTERM or SIGHUP while the block runs.

    Python raises KeyboardInterrupt only when foreign code returns, which may take seconds; the thread is
    woken at once. After GRACE seconds, or at the second signal, the process ends where it is: a kill
    leaves every artefact whole or absent. Outside of the main thread do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        number = _next_ending(reader, None)
        if number is None:
            return
        answer()
        begun = monotonic()
        with suppress(TimeoutError):
            while _next_ending(reader, max(0.01, begun + GRACE - monotonic())) is not None:
                if monotonic() - begun >= AGAIN:
                    break
            else:
                return
        os._exit(128 + number)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):  # a forked worker's signals are its own
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join(timeout=1)
        reader.close()


def _next_ending(reader: socket.socket, seconds: float | None) -> int | None:
    """The next signal that ends a command; None when none will come, TimeoutError after so many seconds."""
    reader.settimeout(seconds)
    while signals := reader.recv(1):
        number = signals[0]
        if (
            number in (signal.SIGINT, signal.SIGTERM, HANGUP)
            and signal.getsignal(number) is not signal.SIG_IGN
        ):
            return number
    return None


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

    def handle(number: int, _: object) -> None:
        nonlocal asked
        if number != HANGUP or not asked:
            asked = True
            stop()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
        numbers.append(HANGUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
