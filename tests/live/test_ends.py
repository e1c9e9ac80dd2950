"""However a watch ends, no door stays open."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.live.cameras import CATFLAP, eventually, jpeg, watching

ANYWHERE = """
import signal, sys, threading
from catflap.live.watch_settings import WatchSettings
from catflap.live.watch import watch

lines = 0

def trace(frame, what, argument):
    global lines
    if frame.f_code.co_filename == threading.__file__ and frame.f_code.co_name == "wait" and what == "line":
        lines += 1
        if lines == 3:
            signal.raise_signal(signal.SIGTERM)
    return trace

def tell(event):
    if event["event"] == "frame":
        sys.settrace(trace)

watch(WatchSettings(sys.argv[1], "-", every_frame=True, max_fps=2.0), tell)
print("ended")
"""


@pytest.mark.slow
def test_a_signal_that_comes_while_a_lock_is_held_ends_it_too(red: Path) -> None:
    """The main thread waits for the next frame, and a handler runs in the main thread."""
    words = [sys.executable, "-c", ANYWHERE, str(red)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(jpeg("red"))
        process.stdin.flush()
        try:
            assert process.wait(60) == 0
            assert process.stdout.read() == b"ended\n"
        finally:
            process.kill()


def doors(folder: Path) -> list[str]:
    """Commands that write down each decision in folder/door."""
    return [
        word
        for label in ("cat", "not_cat", "unsure")
        for word in ("--on", label, f"sh -c 'echo {label} >> {folder}/door'")
    ]


def test_when_nobody_reads_the_events_any_more_the_door_is_shut(red: Path, tmp_path: Path) -> None:
    command = [CATFLAP, "watch", red, "-", "--json", "--smoothing", "0", *doors(tmp_path)]
    closed = threading.Event()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        feed = threading.Thread(target=send_frames, args=(process.stdin, closed.is_set))
        feed.start()
        while b'"decision": "cat"' not in (line := process.stdout.readline()):
            assert line
        process.stdout.close()
        closed.set()
        assert process.wait(60) == 141
        feed.join(60)
        with suppress(OSError):
            process.stdin.close()
    assert (tmp_path / "door").read_text().split() == ["cat", "not_cat", "unsure"]


def send_frames(pipe: IO[bytes], blue: Callable[[], bool]) -> None:
    """Red frames, or blue ones once asked for, until nobody takes them."""
    with suppress(OSError):
        while True:
            pipe.write(jpeg("blue" if blue() else "red"))
            pipe.flush()
            time.sleep(0.02)


def test_when_the_events_cannot_be_written_the_door_is_shut(red: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(40):
        colour = "red" if number // 10 % 2 else "blue"
        (tmp_path / f"photos/{number}.jpg").write_bytes(jpeg(colour))
    words = [CATFLAP, "watch", red, tmp_path / "photos", *doors(tmp_path)]
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400)); "
    limited += "os.execv(sys.argv[1], sys.argv[1:])"
    with open(tmp_path / "events", "wb") as file:
        answer = subprocess.run(
            [sys.executable, "-c", limited, *words],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert answer.returncode == 2
    assert "cannot be written" in answer.stderr
    reported = (tmp_path / "door").read_text().split()
    assert reported[-1] == "unsure"
    assert 1 < len(reported) < 5, "it did not go on"


@pytest.mark.slow
def test_when_its_terminal_closes_the_door_is_shut(red: Path, tmp_path: Path) -> None:
    """Its shell and then the kernel send SIGHUP, to the commands that run, too."""
    door = tmp_path / "door"
    frames = tmp_path / "frames"
    os.mkfifo(frames)
    shut = f"sh -c 'sleep 2; echo unsure >> {door}'"
    words = ["--on", "cat", f"sh -c 'echo cat >> {door}'", "--on", "unsure", shut]
    line = f"{shlex.join([str(CATFLAP), 'watch', str(red), '-', '--smoothing', '0', *words])} < {frames}\n"
    child, terminal = pty.fork()
    if not child:
        os.execvp("bash", ["bash", "--norc", "-i"])
    watched = threading.Event()
    reader = threading.Thread(target=read_until, args=(terminal, watched))
    reader.start()
    os.write(terminal, line.encode())
    with open(frames, "wb", buffering=0) as pipe:
        feed = threading.Thread(target=send_frames, args=(pipe, (tmp_path / "never").exists))
        feed.start()
        eventually(door.exists)
        watched.set()
        reader.join()
        os.close(terminal)
        os.waitpid(child, 0)
        eventually(lambda: door.read_text() == "cat\nunsure\n")
        feed.join(60)


def read_until(terminal: int, enough: threading.Event) -> None:
    """Read what a terminal shows, that nobody waits for it."""
    while not enough.is_set():
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 4096)


@contextmanager
def gone_afterwards(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process at the end, which an assertion that failed would wait for without end."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.slow
def test_a_second_sighup_breaks_nothing_off(red: Path, tmp_path: Path) -> None:
    """The kernel sends one to all in the foreground when the shell, which sent the first, has ended."""
    door = tmp_path / "door"
    shut = f"sh -c 'echo begun >> {door}; sleep 1; echo unsure >> {door}'"
    words = ["--on", "cat", f"sh -c 'echo cat >> {door}'", "--on", "unsure", shut]
    command = [CATFLAP, "watch", red, "-", "--json", "--smoothing", "0", *words]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process,
        gone_afterwards(process),
    ):
        assert process.stdin
        assert process.stdout
        feed = threading.Thread(target=send_frames, args=(process.stdin, (tmp_path / "never").exists))
        feed.start()
        eventually(door.exists)
        os.killpg(process.pid, signal.SIGHUP)
        eventually(lambda: "begun" in door.read_text())
        os.killpg(process.pid, signal.SIGHUP)
        assert b'"why": "stopped"' in process.stdout.read()
        assert process.wait(60) == 0
        feed.join(60)
        with suppress(OSError):
            process.stdin.close()
    assert door.read_text().split() == ["cat", "begun", "unsure"]


def test_nohup_keeps_a_watch_running_when_its_terminal_closes(red: Path, tmp_path: Path) -> None:
    command = ["nohup", CATFLAP, "watch", red, "-", "--json", "--smoothing", "0", *doors(tmp_path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        gone_afterwards(process),
    ):
        assert process.stdin
        assert process.stdout
        assert b'"started"' in process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.stdin.write(jpeg("red"))
        process.stdin.close()
        assert b'"the source ended"' in process.stdout.read()
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_command_that_runs_at_the_end_keeps_no_door_open(red: Path, tmp_path: Path) -> None:
    door = tmp_path / "door"
    slow, shut = f"sh -c 'echo cat >> {door}; sleep 4'", f"sh -c 'echo unsure >> {door}'"
    words = ["--smoothing", "0", "--on", "cat", slow, "--on", "unsure", shut]
    with watching(red, "-", *words, stdin=subprocess.PIPE) as watcher:
        pipe = watcher.process.stdin
        assert pipe
        feed = threading.Thread(target=send_frames, args=(pipe, (tmp_path / "never").exists))
        feed.start()
        eventually(door.exists)
        assert watcher.stop(signal.SIGTERM) == 0
        feed.join(60)
        with suppress(OSError):
            pipe.close()
    assert door.read_text() == "cat\nunsure\n"
    assert watcher.events[-1]["sinks"]["command"] == {"delivered": 2, "lost": 0}
