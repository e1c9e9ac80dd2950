"""Events to an MQTT broker; the one file that owns paho."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from catflap.errors import CatflapError
from catflap.live.delivery import Event, NotDelivered

PATIENCE = 5.0  # seconds in which the broker has to answer
AWAY = "the broker is not there"
FIX = "Use mqtt://HOST/TOPIC or mqtts://USER:PASSWORD@HOST:PORT/TOPIC."


class Mqtt:
    """A connection that comes back by itself; events go out with quality of service 1, at least once.

    TOPIC/status says "online", and "offline" when we are gone: the broker says it for us (the last will).
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise CatflapError(f"The broker's address is no proper URL: {error}.", FIX) from error
        topic = unquote(parts.path.strip("/"))
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic or set(topic) & set("+#"):
            raise CatflapError("The broker's address names no host or no topic.", FIX)
        self._topic = topic
        self._status = f"{topic}/status"
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if parts.username is not None:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        secure = parts.scheme == "mqtts"
        if secure:
            self._client.tls_set()
        self._client.will_set(self._status, "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(1, 30)
        self._answered = threading.Event()  # once the broker took us or did not, or could not be reached
        self._why = AWAY
        self._client.on_connect = self._greet
        self._client.on_connect_fail = self._missed
        self._client.connect_async(parts.hostname, port or (8883 if secure else 1883), keepalive=30)
        self._client.loop_start()

    def deliver(self, event: Event) -> None:
        """Publish an event and wait until the broker has it; NotDelivered."""
        self._answered.wait(PATIENCE)  # the first time: what is told once is then the true reason
        if not self._client.is_connected():
            raise NotDelivered(self._why)
        message = self._client.publish(self._topic, json.dumps(event), qos=1)
        try:
            message.wait_for_publish(PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise NotDelivered(str(error)) from error
        if not message.is_published():
            raise NotDelivered("the broker did not confirm it")

    def close(self) -> None:
        """Tell the broker that it is offline, and disconnect."""
        if self._client.is_connected():
            self._client.publish(self._status, "offline", qos=1, retain=True).wait_for_publish(1)
        self._client.disconnect()
        self._client.loop_stop()

    def _greet(self, client: paho.Client, _: object, __: object, reason: ReasonCode, *___: object) -> None:
        if reason.is_failure:  # whatever is published now waits for ever
            self._why = f"the broker refuses us: {reason}"
        else:
            self._why = AWAY
            client.publish(self._status, "online", qos=1, retain=True)
        self._answered.set()

    def _missed(self, *_: object) -> None:
        self._why = AWAY
        self._answered.set()


def open_mqtt(url: str) -> tuple[Callable[[Event], None], Callable[[], None]]:
    """Two functions: one publishes an event to a broker, the other ends the connection."""
    connection = Mqtt(url)
    return connection.deliver, connection.close
