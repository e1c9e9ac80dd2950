"""Ctrl-C is answered while foreign code runs, in which Python handles no signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from catflap.stopping import answered_at_once

BODY = """
import hashlib, sys
from catflap import stopping
stopping.GRACE = {grace}
stopping.end_in_order()
try:
    with stopping.answered_at_once(lambda: print("Stopping.", flush=True)):
        print("begun", flush=True)
        for _ in range({calls}):
            hashlib.pbkdf2_hmac("sha512", b"word", b"salt", {rounds})
            print("call ended", flush=True)
except KeyboardInterrupt:
    print("cleaned up", flush=True)
    sys.exit(130)
"""


def wait_until_it_hashes(pid: int) -> None:
    """Return when the process has used a tenth of a second more: only hashing takes that long."""
    process = psutil.Process(pid)
    before = process.cpu_times().user
    while process.cpu_times().user < before + 0.1:
        time.sleep(0.01)


def stopped(grace: float, calls: int, rounds: int, number: int) -> tuple[int, list[str]]:
    """The exit code and the lines of a process that gets a signal while it hashes."""
    code = BODY.format(grace=grace, calls=calls, rounds=rounds)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    wait_until_it_hashes(process.pid)
    process.send_signal(number)
    rest = process.stdout.read().split("\n")
    return process.wait(), [first, *filter(None, rest)]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_signal_is_answered_before_the_call_returns_and_the_command_cleans_up() -> None:
    code, lines = stopped(grace=60, calls=1000, rounds=300_000, number=signal.SIGINT)
    assert code == 130
    assert lines[0] == "begun"
    assert lines[-1] == "cleaned up"
    assert lines.count("Stopping.") == 1
    assert "call ended" not in lines[lines.index("Stopping.") + 2 :], "at most the call that ran then"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_does_not_return_ends_with_the_process(number: int) -> None:
    code, lines = stopped(grace=0.1, calls=1, rounds=200_000_000, number=number)
    assert (code, lines) == (128 + number, ["begun", "Stopping."])


def test_without_a_signal_nothing_is_said_and_what_was_set_is_set_again() -> None:
    before, message = signal.set_wakeup_fd(-1), list[str]()
    signal.set_wakeup_fd(before)
    with answered_at_once(lambda: message.append("x")):
        pass
    assert (signal.set_wakeup_fd(before), message) == (before, [])
