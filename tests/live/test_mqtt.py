"""Events on a real broker: while it is there, after it was away, and when the watch dies."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from catflap.live.delivery import NotDelivered, OrderedDelivery
from tests.live.cameras import camera, eventually, watching, write_video

pytest.importorskip("amqtt", reason="no broker is installed; pip install amqtt")
paho = pytest.importorskip("paho.mqtt.client", reason="paho is not installed; pip install 'catflap[live]'")

from catflap.live.mqtt import Mqtt  # noqa: E402  which needs it
from tests.matrix import mostly_slow  # noqa: E402


class Broker:
    """A broker in a thread of its own."""

    def __init__(self, port: int, anonymous: bool = True) -> None:
        self.port = port
        self._anonymous = anonymous
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(60)

    def _run(self) -> None:
        from amqtt.broker import Broker as Amqtt

        logging.getLogger("amqtt").setLevel(logging.CRITICAL)
        logging.getLogger("transitions").setLevel(logging.CRITICAL)
        asyncio.set_event_loop(self._loop)
        plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": self._anonymous}}
        listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}}
        broker = Amqtt({"listeners": listeners, "plugins": plugins}, loop=self._loop)
        self._loop.run_until_complete(broker.start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(broker.shutdown())
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)


class Listener:
    """A client that hears everything, with the topic and the text of each message."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, str]] = []
        subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _, __, message: self.heard.append(
            (message.topic, message.payload.decode())
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(60)

    def events(self) -> list[str]:
        return [json.loads(text)["event"] for topic, text in self.heard if topic == "door/cat"]

    def status(self) -> list[str]:
        return [text for topic, text in self.heard if topic == "door/cat/status"]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def broker(port: int) -> Iterator[Listener]:
    one = Broker(port)
    listener = Listener(port)
    try:
        yield listener
    finally:
        listener.close()
        one.stop()


def test_events_reach_a_broker(red: Path, tmp_path: Path) -> None:
    port = free_port()
    video = write_video(tmp_path / "a.avi", ["blue"] * 10 + ["red"] * 10)
    with (
        broker(port) as listener,
        watching(red, video, "--mqtt", f"mqtt://127.0.0.1:{port}/door/cat") as watcher,
    ):
        assert watcher.end() == 0
        eventually(lambda: listener.status()[-1:] == ["offline"])
        assert listener.events() == ["started", "decision", "decision", "decision", "ended"]
        assert listener.status()[0] == "online"
    assert watcher.events[-1]["sinks"]["mqtt"] == {"delivered": 5, "lost": 0}


@pytest.mark.slow
def test_a_refused_login_is_told_and_leaves_nothing_behind() -> None:
    port, notes = free_port(), list[str]()
    refusing = Broker(port, anonymous=False)
    try:
        connection = Mqtt(f"mqtt://127.0.0.1:{port}/door/cat")
        queue = OrderedDelivery("mqtt", connection.deliver, notes.append)
        queue.send({"event": "started"})
        eventually(lambda: bool(notes))
    finally:
        refusing.stop()
    assert "the broker refuses us: Not authorized" in notes[0]
    with broker(port) as listener:
        eventually(lambda: listener.events() == ["started"])
        queue.close()
        connection.close()
        eventually(lambda: listener.status()[-1:] == ["offline"])
        assert listener.status() == ["online", "offline"], "no refusal left a message that waits"
    assert notes[1:] == ["mqtt: delivers again."]


@pytest.mark.slow
def test_a_broker_that_is_down_gets_the_events_later(red: Path) -> None:
    port = free_port()
    with (
        camera() as source,
        watching(red, source.url, "--mqtt", f"mqtt://127.0.0.1:{port}/door/cat") as watcher,
    ):
        source.mode = "red"
        watcher.await_event("decision", decision="cat")
        source.mode = "blue"
        watcher.await_event("decision", decision="not_cat")
        with broker(port) as listener:
            eventually(lambda: listener.events() == ["started", "decision", "decision"])
            decided = [
                json.loads(text).get("decision") for topic, text in listener.heard if topic == "door/cat"
            ]
            assert decided == [None, "cat", "not_cat"]
            watcher.process.kill()
            eventually(lambda: listener.status()[-1:] == ["offline"])


class Silent:
    """A broker that accepts connections and answers only some of what it is sent.

    Of the packets it knows those that it confirms: "connect", "publish".
    """

    def __init__(self, confirms: tuple[str, ...]) -> None:
        self.confirms = confirms
        self.published = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                one = self._server.accept()[0]
                self._open.append(one)
                threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _answer(self, one: socket.socket) -> None:
        with suppress(OSError):
            while head := one.recv(1):
                length, shift = 0, 0
                while (byte := one.recv(1)[0]) & 0x80:
                    length, shift = length | (byte & 0x7F) << shift, shift + 7
                body = b""
                length |= byte << shift
                while len(body) < length:
                    body += one.recv(length - len(body))
                kind = head[0] >> 4
                if kind == 1 and "connect" in self.confirms:
                    one.sendall(b"\x20\x02\x00\x00")
                elif kind == 3:
                    topic = 2 + int.from_bytes(body[:2], "big")
                    self.published += b"status" not in body[2:topic]
                    if "publish" in self.confirms:
                        one.sendall(b"\x40\x02" + body[topic : topic + 2])
                elif kind == 12:
                    one.sendall(b"\xd0\x00")

    def close(self) -> None:
        for one in (self._server, *self._open):
            one.close()


@pytest.mark.parametrize("confirms", mostly_slow([(), ("connect",)]))
def test_a_broker_that_never_answers_is_noted_and_gets_no_event_twice(confirms: tuple[str, ...]) -> None:
    broker = Silent(confirms)
    connection = Mqtt(f"mqtt://127.0.0.1:{broker.port}/door/cat", answer_seconds=0.2 if not confirms else 2)
    why = "the broker did not confirm it" if confirms else "the broker does not answer"
    event = {"event": "decision", "number": 9}
    try:
        for _ in range(2):  # tried again, published once
            with pytest.raises(NotDelivered, match=why):
                connection.deliver(event)
        assert broker.published == len(confirms)
    finally:
        connection.close()
        broker.close()


def test_a_broker_that_confirms_nothing_does_not_fill_the_memory() -> None:
    broker = Silent(("connect",))
    connection = Mqtt(f"mqtt://127.0.0.1:{broker.port}/door/cat", answer_seconds=0.05)
    try:
        eventually(connection.is_connected)
        reasons = []
        for number in range(100):
            with pytest.raises(NotDelivered) as caught:
                connection.deliver({"event": "decision", "number": number})
            reasons.append(str(caught.value))
        assert reasons[0] == "the broker did not confirm it"
        assert reasons[-1] == "the broker confirms nothing"
    finally:
        connection.close()
        broker.close()
