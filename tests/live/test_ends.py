"""However a watch ends, no door stays open."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.live.cameras import CATFLAP, jpeg

ANYWHERE = """
import signal, sys, threading
from catflap.live.settings import WatchSettings
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


def test_a_signal_that_comes_while_a_lock_is_held_ends_it_too(red: Path) -> None:
    """The main thread waits for the next frame, and a handler runs in the main thread."""
    words = [sys.executable, "-c", ANYWHERE, str(red)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(jpeg("red"))
        process.stdin.flush()
        try:
            assert process.wait(30) == 0
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
    command = [CATFLAP, "watch", red, "-", "--json", "--memory", "0", *doors(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        feed = threading.Thread(target=send_frames, args=(process.stdin, tmp_path / "door"))
        feed.start()
        while b'"decision": "cat"' not in process.stdout.readline():
            pass
        process.stdout.close()
        assert process.wait(60) == 141
        feed.join(60)
        with suppress(OSError):
            process.stdin.close()
    assert (tmp_path / "door").read_text().split() == ["cat", "not_cat", "unsure"]


def send_frames(pipe: IO[bytes], door: Path) -> None:
    """Red frames until the door was opened, blue ones from then on until nobody takes them."""
    with suppress(OSError):
        while True:
            pipe.write(jpeg("blue" if door.exists() else "red"))
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
    told = (tmp_path / "door").read_text().split()
    assert told[-1] == "unsure"
    assert 1 < len(told) < 5, "it did not go on"
