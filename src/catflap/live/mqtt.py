"""Events to an MQTT broker; the one file that uses paho."""

from __future__ import annotations

import json
import threading
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from catflap.errors import CatflapError
from catflap.live.delivery import Event, NotDelivered

ANSWER_SECONDS = 5.0  # in which the broker has to answer
QUEUED = 20  # messages without a confirmation that are kept for the broker
UNREACHABLE = "the broker cannot be reached"
FIX = "Use mqtt://HOST/TOPIC or mqtts://USER:PASSWORD@HOST:PORT/TOPIC."


class Mqtt:
    """A connection that is opened again by itself; events go out with quality of service 1, at least once.

    TOPIC/status is "online", and "offline" once the connection is lost: then the broker publishes the last
    will.
    """

    def __init__(self, url: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise CatflapError(f"The broker's address is not a valid URL: {error}.", FIX) from error
        topic = unquote(parts.path.strip("/"))
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic or set(topic) & set("+#"):
            raise CatflapError("The broker's address names no host or no topic.", FIX)
        self._topic = topic
        self._answer_seconds = answer_seconds
        self._status = f"{topic}/status"
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if parts.username is not None:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        is_secure = parts.scheme == "mqtts"
        if is_secure:
            self._client.tls_set()
        self._client.will_set(self._status, "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(1, 30)
        self._client.max_queued_messages_set(QUEUED)
        self._published: tuple[Event, paho.MQTTMessageInfo] | None = None  # and not confirmed
        self._answered = threading.Event()  # once the broker accepted or refused us, or cannot be reached
        self._why = UNREACHABLE
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.connect_async(parts.hostname, port or (8883 if is_secure else 1883), keepalive=30)
        self._client.loop_start()

    def deliver(self, event: Event) -> None:
        """Publish an event and wait until the broker has confirmed it; NotDelivered.

        An event that is tried again is not published again: paho repeats it until it is confirmed.
        """
        if not self._answered.wait(self._answer_seconds):  # so that the first reason is the true one
            raise NotDelivered("the broker does not answer")
        if not self.is_connected():
            raise NotDelivered(self._why)
        if self._published is None or self._published[0] is not event:
            self._published = event, self._client.publish(self._topic, json.dumps(event), qos=1)
        message = self._published[1]
        try:
            message.wait_for_publish(self._answer_seconds)
        except (RuntimeError, ValueError) as error:  # it was not taken, because too many wait
            self._published = None
            raise NotDelivered("the broker confirms nothing") from error
        if not message.is_published():
            raise NotDelivered("the broker did not confirm it")
        self._published = None

    def is_connected(self) -> bool:
        """Whether the broker accepted us."""
        return bool(self._client.is_connected())

    def close(self) -> None:
        """Tell the broker that we are offline, and disconnect."""
        is_connected = self.is_connected()
        if is_connected:
            message = self._client.publish(self._status, "offline", qos=1, retain=True)
            if message.rc == paho.MQTT_ERR_SUCCESS:
                message.wait_for_publish(1)
        self._client.disconnect()
        if is_connected:  # else its thread may be busy with a connection for long
            self._client.loop_stop()

    def _on_connect(
        self, client: paho.Client, _: object, __: object, reason: ReasonCode, *___: object
    ) -> None:
        if reason.is_failure:  # whatever is published now waits for ever
            self._why = f"the broker refuses us: {reason}"
        else:
            self._why = UNREACHABLE
            client.publish(self._status, "online", qos=1, retain=True)
        self._answered.set()

    def _on_connect_fail(self, *_: object) -> None:
        self._why = UNREACHABLE
        self._answered.set()
