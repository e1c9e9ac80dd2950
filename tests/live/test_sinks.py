"""Whom events are told: a webhook, a broker, commands, a folder; slow, away or broken."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from catflap.errors import CatflapError
from catflap.live.delivery import DeliveryQueue, NotDelivered
from catflap.live.sinks import CappedFolder, commands, has_command, webhook
from tests.live.cameras import eventually, jpeg, watching, write_video


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
    queue = DeliveryQueue("webhook", webhook(hook.url), notes.append)
    for number in range(5):
        queue.send({"number": number})
    eventually(lambda: bool(notes))
    hook.status = 200
    eventually(lambda: queue.delivered == 5)
    queue.close()
    assert [event["number"] for event in hook.events] == [0, 1, 2, 3, 4]
    assert queue.lost == 0
    assert "500" in notes[0]
    assert notes[-1].endswith("delivers again.")
    assert len(notes) == 2, "an outage is told once"


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
    with pytest.raises(CatflapError, match="no proper URL") as caught:
        webhook(url)
    assert "secret" not in str(caught.value)


def test_an_event_that_is_in_hand_at_the_end_is_lost_and_counted_once(hook: Hook) -> None:
    hook.held = threading.Event()
    queue = DeliveryQueue("webhook", webhook(hook.url), lambda _: None)
    for number in range(3):
        queue.send({"number": number})
    eventually(lambda: len(hook.asked) == 1)
    queue.close(patience=0)
    assert (queue.delivered, queue.lost) == (0, 3)
    hook.held.set()
    queue._thread.join(60)
    assert (queue.delivered, queue.lost) == (0, 3), "the summary was told by then"


def test_what_waits_is_bounded_and_the_oldest_is_lost() -> None:
    def away(_: dict[str, Any]) -> None:
        raise NotDelivered("nobody is there")

    queue = DeliveryQueue("away", away, lambda _: None, kept=10)
    for number in range(500):
        queue.send({"number": number})
    queue.close(patience=0.1)
    assert queue.delivered == 0
    assert queue.lost == 500


def test_a_receiver_that_hangs_does_not_hold_the_sender_up() -> None:
    released = threading.Event()
    queue = DeliveryQueue("slow", lambda _: released.wait(30) and None, lambda _: None)
    for number in range(3):
        queue.send({"number": number})
    eventually(lambda: len(queue._waiting) == 2)
    released.set()
    queue.close()
    assert queue.delivered == 3


def test_what_is_promised_time_is_not_broken_off_and_the_last_comes_after_it() -> None:
    """All in order for as long as there is patience, then of those that wait the last alone."""
    done: list[int] = []
    released = threading.Event()

    def slow(event: dict[str, Any]) -> None:
        released.wait(30)
        done.append(event["number"])

    queue = DeliveryQueue("command", slow, lambda _: None, again=False, promised=20)
    for number in range(5):
        queue.send({"number": number})
    eventually(lambda: len(queue._waiting) == 4)

    def release() -> None:
        eventually(lambda: queue._until is not None and monotonic() > queue._until)
        released.set()

    threading.Thread(target=release).start()
    queue.close(patience=0.1)
    assert done == [0, 4]
    assert (queue.delivered, queue.lost) == (2, 3)


def test_commands_know_what_was_decided_and_run_without_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = "os.environ['CATFLAP_DECISION']+sys.stdin.read()+sys.argv[2]"
    code = f"import os,sys;open(sys.argv[1],'a').write({said})"
    deliver = commands({"cat": f"{sys.executable} -c \"{code}\" {out} '$HOME;ls'"})
    event = {"decision": "cat", "previous": "unsure", "probability": 0.9}
    deliver(event)
    assert out.read_text() == f"cat{json.dumps(event)}$HOME;ls"


@pytest.mark.parametrize(
    ("command", "said"), [("false", "ended with 1"), ("no-such-command-anywhere", "No such file")]
)
def test_a_command_that_fails_is_told(command: str, said: str) -> None:
    deliver = commands({"cat": command})
    with pytest.raises(NotDelivered, match=said):
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


def test_events_that_nobody_wants_are_neither_delivered_nor_lost_and_say_nothing() -> None:
    notes: list[str] = []
    of = {"cat": "false"}
    queue = DeliveryQueue("command", commands(of), notes.append, again=False, wants=partial(has_command, of))
    queue.send({"event": "started"})
    for decision in ("cat", "unsure", "cat", "unsure"):
        queue.send({"decision": decision, "previous": "unsure", "probability": 0.9})
    eventually(lambda: queue.lost == 2)
    queue.close()
    assert (queue.delivered, queue.lost) == (0, 2)
    assert len(notes) == 1, "it never delivered again"


def test_a_watch_runs_commands_on_decisions(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", ["blue"] * 10 + ["red"] * 10)
    words = (
        "--on",
        "cat",
        f"sh -c 'echo open >> {tmp_path}/door'",
        "--on",
        "unsure",
        f"sh -c 'echo shut >> {tmp_path}/door'",
    )
    with watching(red, video, *words) as watcher:
        assert watcher.end() == 0
    assert (tmp_path / "door").read_text() == "open\nshut\n", "the end of the watch shuts the door"
    assert watcher.events[-1]["sinks"]["command"] == {"delivered": 2, "lost": 0}


def test_an_album_keeps_the_newest_within_its_limit(tmp_path: Path) -> None:
    data = jpeg("red")
    other = tmp_path / "holiday.jpg"
    other.write_bytes(b"somebody's photo")
    saved = CappedFolder(tmp_path, 3 * len(data), lambda _: None)
    paths = [saved.save(data, 1e9 + number, number, "cat / ../x") for number in range(10)]
    kept = sorted(path.name for path in tmp_path.iterdir() if path != other)
    assert kept == [Path(str(path)).name for path in paths[-3:]]
    assert saved.bytes == 3 * len(data)
    again = CappedFolder(tmp_path, 2 * len(data), lambda _: None)
    again.save(data, 2e9, 11, "cat")
    assert len(list(tmp_path.glob("*-cat*.jpg"))) == 2, "what an earlier watch saved counts too"
    assert other.read_bytes() == b"somebody's photo"


def test_a_full_disk_is_told_once_and_the_watch_goes_on(mount_small: Callable[[str], Path]) -> None:
    notes: list[str] = []
    saved = CappedFolder(mount_small("16k"), 10**9, notes.append)
    saved = [saved.save(bytes(6000), 1e9 + number, number, "cat") for number in range(6)]
    assert saved[0]
    assert saved[-1] is None
    assert len(notes) == 1
    assert "No space left" in notes[0]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CatflapError, match="cannot be saved"):
        CappedFolder(tmp_path / "file" / "x", 1000, lambda _: None)


def test_a_webhook_that_is_away_does_not_stop_the_end(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", ["red"] * 10)
    with watching(red, video, "--webhook", "http://127.0.0.1:9/x") as watcher:
        assert watcher.end() == 0
    assert watcher.events[-1]["sinks"]["webhook"] == {"delivered": 0, "lost": 4}
    assert watcher.stderr.count("not delivered") == 1
