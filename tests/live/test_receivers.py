"""Receivers of events: a webhook and commands; slow, away, broken or hostile."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from catflap.errors import CatflapError
from catflap.live.delivery import LatestDelivery, NotDelivered, OrderedDelivery, Output
from catflap.live.frames import Stop
from catflap.live.receivers import commands, webhook
from tests.live.cameras import camera, eventually, watching, write_video
from tests.matrix import mostly_slow


class Hook:
    """A webhook that can be told to fail."""

    def __init__(self) -> None:
        self.status = 200
        self.location = ""
        self.held: threading.Event | None = None  # what it waits for before it answers
        self.asked: list[tuple[str, str, str | None]] = []
        self.events: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.asked.append((self.command, self.path, self.headers["Authorization"]))
                if hook.held is not None:
                    hook.held.wait(60)
                if hook.status == 200:
                    hook.events.append(event)
                self.send_response(hook.status)
                if hook.location:
                    self.send_header("Location", hook.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                hook.asked.append((self.command, self.path, self.headers["Authorization"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    one = Hook()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_a_webhook_gets_every_event_in_order_also_after_it_failed(hook: Hook) -> None:
    notes: list[str] = []
    hook.status = 500
    queue = OrderedDelivery("webhook", webhook(hook.url), notes.append)
    for number in range(5):
        queue.send({"number": number})
    eventually(lambda: bool(notes))
    hook.status = 200
    eventually(lambda: queue.tally.delivered == 5)
    queue.close()
    assert [event["number"] for event in hook.events] == [0, 1, 2, 3, 4]
    assert queue.tally.lost == 0
    assert "500" in notes[0]
    assert notes[-1].endswith("delivers again.")
    assert len(notes) == 2, "an outage is reported once"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_webhook_that_redirects_took_nothing_and_where_it_leads_is_told(hook: Hook, status: int) -> None:
    """urllib would follow with a GET, whose 200 says nothing of the event."""
    hook.status, hook.location = status, "/elsewhere"
    with pytest.raises(NotDelivered, match=rf"{status}.*/elsewhere"):
        webhook(hook.url)({"number": 1})
    assert [asked[:2] for asked in hook.asked] == [("POST", "/hook")]


def test_a_webhook_with_a_password_and_any_letters_is_asked(hook: Hook) -> None:
    address = hook.url.replace("http://", "http://me:se%3Acret@").replace("/hook", "/tür 1/%2F?an=ö&b=1#x")
    webhook(address)({"number": 1})
    assert hook.asked == [("POST", "/t%C3%BCr%201/%2F?an=%C3%B6&b=1", "Basic bWU6c2U6Y3JldA==")]
    webhook(hook.url)({"number": 2})
    assert hook.asked[1] == ("POST", "/hook", None)
    assert [event["number"] for event in hook.events] == [1, 2]


@pytest.mark.parametrize(
    "url",
    ["ftp://me:secret@host/x", "http://", "http://me:secret@a b/", "http://a..b/", "http://a:99999/",
     "http://a:0/", "http://[::1/x", "host/x", ""],
)  # fmt: skip
def test_a_webhook_that_can_never_be_reached_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(CatflapError, match="not a valid URL") as caught:
        webhook(url)
    assert "secret" not in str(caught.value)


def test_an_event_that_is_in_hand_at_the_end_is_lost_and_counted_once(hook: Hook) -> None:
    hook.held = threading.Event()
    queue = OrderedDelivery("webhook", webhook(hook.url), lambda _: None)
    for number in range(3):
        queue.send({"number": number})
    eventually(lambda: len(hook.asked) == 1)
    queue.close(seconds=0)
    assert (queue.tally.delivered, queue.tally.lost) == (0, 3)
    hook.held.set()
    queue._thread.join(60)
    assert (queue.tally.delivered, queue.tally.lost) == (0, 3), "the summary was written by then"


def test_what_waits_is_bounded_and_the_oldest_is_lost() -> None:
    def away(_: dict[str, Any]) -> None:
        raise NotDelivered("nobody is there")

    queue = OrderedDelivery("away", away, lambda _: None, capacity=10)
    for number in range(500):
        queue.send({"number": number})
    queue.close(seconds=0.1)
    assert queue.tally.delivered == 0
    assert queue.tally.lost == 500


def test_a_receiver_that_hangs_does_not_hold_the_sender_up() -> None:
    released = threading.Event()
    queue = OrderedDelivery("slow", lambda _: released.wait(30) and None, lambda _: None)
    for number in range(3):
        queue.send({"number": number})
    eventually(lambda: len(queue._waiting) == 2)
    released.set()
    queue.close()
    assert queue.tally.delivered == 3


def test_commands_know_what_was_decided_and_run_without_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = "os.environ['CATFLAP_DECISION']+sys.stdin.read()+sys.argv[2]"
    code = f"import os,sys;open(sys.argv[1],'a').write({message})"
    deliver = commands({"cat": f"{sys.executable} -c \"{code}\" {out} '$HOME;ls'"})
    event = {"decision": "cat", "previous": "unsure", "probability": 0.9}
    deliver(event)
    assert out.read_text() == f"cat{json.dumps(event)}$HOME;ls"


@pytest.mark.parametrize(
    ("command", "message"), [("false", "ended with 1"), ("no-such-command-anywhere", "No such file")]
)
def test_a_command_that_fails_is_told(command: str, message: str) -> None:
    deliver = commands({"cat": command})
    with pytest.raises(NotDelivered, match=message):
        deliver({"decision": "cat", "previous": "unsure", "probability": 0.9})


def test_a_command_is_done_when_it_ends_whatever_it_leaves_running() -> None:
    """Else the next one, which shuts the door, would run ten seconds late."""
    event = {"decision": "cat", "previous": "unsure", "probability": 0.9}
    commands({"cat": "sh -c 'sleep 12 & echo fine'"})(event)
    with pytest.raises(NotDelivered, match=r"sh ended with 3: so it is$"):
        commands({"cat": "sh -c 'sleep 12 & echo and >&2; echo so it is >&2; exit 3'"})(event)


def test_a_command_runs_where_there_is_no_place_for_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(NotDelivered, match="sh ended with 4"):
        commands({"cat": "sh -c 'echo no >&2; exit 4'"})(
            {"decision": "cat", "previous": "unsure", "probability": 0.9}
        )


def decision(label: str) -> dict[str, Any]:
    return {"event": "decision", "decision": label, "previous": "unsure", "probability": 0.9}


class Door:
    """A command that takes until it is released, and what it did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun = threading.Semaphore(0)
        self.released = threading.Semaphore(0)

    def __call__(self, event: dict[str, Any]) -> None:
        self.begun.release()
        assert self.released.acquire(timeout=60)
        self.done.append(event["decision"])


def test_of_the_decisions_that_wait_for_a_slow_command_only_the_newest_runs() -> None:
    door = Door()
    queue = LatestDelivery("command", door, pytest.fail, wanted=("cat", "not_cat", "unsure"), seconds=60)
    queue.send(decision("cat"))
    assert door.begun.acquire(timeout=60)
    for label in ("unsure", "cat", "unsure", "not_cat"):
        queue.send(decision(label))
    door.released.release(2)
    queue.close()
    assert door.done == ["cat", "not_cat"]
    assert queue.tally.to_json() == {"delivered": 2, "lost": 0, "superseded": 3}


def test_a_decision_without_a_command_overtakes_one_with_a_command() -> None:
    """The door is asked to open; before it can, what is there is no cat any more."""
    door = Door()
    queue = LatestDelivery("command", door, pytest.fail, wanted=("cat",), seconds=60)
    queue.send(decision("cat"))
    assert door.begun.acquire(timeout=60)
    for label in ("unsure", "cat", "not_cat"):
        queue.send(decision(label))
    queue.send({"event": "ended"})
    door.released.release(2)
    queue.close()
    assert door.done == ["cat"]
    assert queue.tally.superseded == 1


def test_what_is_lost_or_superseded_is_an_event_when_it_happens() -> None:
    door, released, events, stop = Door(), threading.Event(), list[dict[str, Any]](), Stop()
    command = LatestDelivery("command", door, pytest.fail, wanted=("cat", "unsure"), seconds=60)
    held = OrderedDelivery("webhook", lambda _: released.wait(60) and None, pytest.fail, capacity=3)
    output = Output(events.append, pytest.fail, stop, lossless=False)
    output.tallies += [command.tally, held.tally]
    command.send(decision("cat"))
    assert door.begun.acquire(timeout=60)
    for number in range(6):
        command.send(decision("unsure" if number % 2 else "cat"))
        held.send({"event": "decision", "number": number})
    eventually(lambda: len(events) == 2)
    reported = {event["receiver"]: (event["lost"], event["superseded"]) for event in events}
    assert all(event["event"] == "undelivered" for event in events)
    assert reported["command"][1] >= 1
    assert reported["webhook"][0] >= 1
    for number in range(500):
        held.send({"event": "decision", "number": number})
    released.set()
    door.released.release(9)
    command.close()
    held.close()
    output.close()
    assert len(events) == 2, "not a line for each of 500"


@pytest.mark.parametrize(
    "command", mostly_slow(['trap "" TERM; sleep 60', '(trap "" TERM; sleep 60) & wait'])
)
def test_a_command_that_takes_too_long_ends_with_its_children_whatever_it_ignores(
    command: str, tmp_path: Path
) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)  # open for writing as long as a child of the command lives
    holder = threading.Thread(target=alive.read_bytes, daemon=True)
    holder.start()
    run = commands({"cat": f"sh -c 'exec 5> {alive}; {command}'"}, seconds=0.5)
    with pytest.raises(NotDelivered, match="timed out"):
        run(decision("cat"))
    holder.join(60)
    assert not holder.is_alive()


@pytest.mark.slow
def test_a_command_that_does_not_read_a_long_event_ends_like_any_other() -> None:
    event = {**decision("cat"), "probabilities": {str(number): 0.0 for number in range(100_000)}}
    commands({"cat": "true"})(event)
    with pytest.raises(NotDelivered, match="timed out"):
        commands({"cat": "sleep 60"}, seconds=0.3)(event)


@pytest.mark.parametrize("part", ["status", "headers", "nothing", "handshake"])
def test_a_webhook_has_one_deadline_for_the_whole_request(part: str) -> None:
    """A server that sends a byte now and then is never late for a socket."""
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def drip() -> None:
        one = server.accept()[0]
        with suppress(OSError), one:
            begin = {
                "headers": b"HTTP/1.1 200 OK\r\nX: ",
                "status": b"HTTP/1.1 ",
                "handshake": b"\x16\x03\x03\x40\x00",
            }
            one.sendall(begin.get(part, b""))
            while not over.wait(0.05):
                one.sendall(b"" if part == "nothing" else b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    scheme = "https" if part == "handshake" else "http"
    deliver = webhook(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/", seconds=0.5)
    with pytest.raises(NotDelivered, match=r"no answer within 0\.5 s"):
        deliver({"number": 1})
    over.set()
    thread.join(60)
    server.close()


def test_a_reader_of_stdout_that_hangs_loses_events_and_holds_up_nothing() -> None:
    released, reported = threading.Event(), list[dict[str, Any]]()

    def tell(event: dict[str, Any]) -> None:
        assert released.wait(60)
        reported.append(event)

    output = Output(tell, pytest.fail, Stop(), lossless=False, capacity=10)
    for number in range(100):
        output.send({"event": "frame", "number": number})
    assert output.tally.lost >= 89
    released.set()
    output.close(60)
    numbers = [event["number"] for event in reported if event["event"] == "frame"]
    assert numbers[-10:] == list(range(90, 100)), "the newest are kept"
    assert [event["receiver"] for event in reported if event["event"] == "undelivered"] == ["stdout"]


def test_a_file_waits_for_the_reader_of_its_events() -> None:
    reported: list[int] = []
    output = Output(
        lambda event: reported.append(event["number"]), pytest.fail, Stop(), lossless=True, capacity=2
    )
    for number in range(200):
        output.send({"event": "frame", "number": number})
    output.close(60)
    assert reported == list(range(200))


def test_commands_run_on_decisions(red: Path, tmp_path: Path) -> None:
    door = tmp_path / "door"
    opens, shuts = (f"sh -c 'echo {word} >> {door}'" for word in ("open", "shut"))
    with (
        camera() as source,
        watching(red, source.url, "--on", "cat", opens, "--on", "unsure", shuts) as watcher,
    ):
        source.mode = "red"
        eventually(door.exists)
        assert watcher.stop() == 0
    assert door.read_text() == "open\nshut\n", "the end of the watch shuts the door"
    assert watcher.events[-1]["sinks"]["command"] == {"delivered": 2, "lost": 0}


@pytest.mark.slow
def test_a_webhook_that_is_away_does_not_stop_the_end(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", ["red"] * 10)
    with watching(red, video, "--webhook", "http://127.0.0.1:9/x") as watcher:
        assert watcher.end() == 0
    end = next(event for event in reversed(watcher.events) if "sinks" in event)  # a late loss may follow
    assert end["sinks"]["webhook"] == {"delivered": 0, "lost": 4}
    assert watcher.stderr.count("not delivered") == 1
