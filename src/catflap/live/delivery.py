"""Threads that deliver events: in order with retries (webhook, MQTT), or the newest decision only (commands).

Events and notes for the user have a thread of their own. Each counts what it delivered and lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic, time
from typing import Any

from catflap.live.frames import TICK, Stop

CAPACITY = 1000  # events that wait for a receiver; then the oldest is lost
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before an event is tried again; it doubles
CLOSE_SECONDS = 3.0  # at the end for events that still wait
REPORT_EVERY = 10.0  # seconds between two reports of what one receiver lost

Event = dict[str, Any]


class NotDelivered(Exception):
    """The receiver did not take an event; the text says why."""


@dataclass
class Tally:
    """What became of the events of one receiver: `superseded` are decisions that a newer one overtook."""

    name: str
    delivered: int = 0
    lost: int = 0
    superseded: int = 0
    why: str = ""  # of the last failure

    def to_json(self) -> dict[str, int]:
        """The counts as they stand in the summary."""
        counts = {"delivered": self.delivered, "lost": self.lost}
        return counts | ({"superseded": self.superseded} if self.superseded else {})


class OrderedDelivery:
    """A thread that hands events to `deliver`, one after the other; the sender never waits for it.

    An event that is not delivered is tried again until it is, or until more than `capacity` events wait: then
    the oldest is lost. `note` is called when deliveries begin to fail, and when they succeed again.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Event], None],
        note: Callable[[str], None],
        *,
        capacity: int = CAPACITY,
    ) -> None:
        self.tally = Tally(name)
        self._deliver = deliver
        self._note = note
        self._capacity = capacity
        self._waiting: deque[Event] = deque()
        self._current: Event | None = None  # the one that is being delivered
        self._news = Condition()
        self._until: float | None = None  # when to give up, once there will be no more events
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Take an event, to be delivered later."""
        with self._news:
            if len(self._waiting) >= self._capacity:
                self._waiting.popleft()
                self.tally.lost += 1
            self._waiting.append(event)
            self._news.notify()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Deliver what still waits, within some seconds; the rest is lost, one that is under way too."""
        with self._news:
            self._until = monotonic() + seconds
            self._news.notify()
        self._thread.join(seconds + 1)
        with self._news:
            self.tally.lost += len(self._waiting) + (self._current is not None)
            self._waiting.clear()
            self._current = None

    def _run(self) -> None:
        wait, is_failing = FIRST_WAIT, False
        while (event := self._next()) is not None:
            try:
                self._deliver(event)
            except Exception as error:  # whatever the receiver is or does, the watch goes on
                self.tally.why = _reason(error)
                if not is_failing:
                    is_failing = True
                    self._note(f"{self.tally.name}: an event was not delivered: {self.tally.why}")
                if not self._put_back(event, wait):
                    return
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            with self._news:
                self.tally.delivered += self._current is not None  # unless the end counted it as lost
                self._current = None
            wait = FIRST_WAIT
            if is_failing:
                is_failing = False
                self._note(f"{self.tally.name}: delivers again.")

    def _next(self) -> Event | None:
        """The next event, or None when there will be none."""
        with self._news:
            while not self._waiting:
                if self._until is not None:
                    return None
                self._news.wait()
            self._current = self._waiting.popleft()
            return self._current

    def _put_back(self, event: Event, wait: float) -> bool:
        """Put an event back to the front and wait; False when the time is up."""
        with self._news:
            if self._current is None:
                return False  # the end came first
            self._current = None
            if len(self._waiting) < self._capacity:
                self._waiting.appendleft(event)
            else:
                self.tally.lost += 1
            end = monotonic() + wait
            while (now := monotonic()) < end:
                if self._until is not None and now >= self._until:
                    return False
                last = end if self._until is None else min(end, self._until)
                self._news.wait(max(0.0, last - now))
            return True


class LatestDelivery:
    """A thread that hands decisions to `deliver`, the newest one only; for what acts, such as a door.

    A decision that waits for `deliver` when a newer one comes never gets there, also when nothing is to be
    done for the newer one, which is not among `wanted`. A delivery may take `seconds`; a failed one is not
    repeated.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Event], None],
        note: Callable[[str], None],
        *,
        wanted: Collection[str],
        seconds: float,
    ) -> None:
        self.tally = Tally(name)
        self._deliver = deliver
        self._note = note
        self._wanted = wanted
        self._seconds = seconds
        self._newest: Event | None = None
        self._is_running = False
        self._news = Condition()
        self._is_closed = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Take an event; those that are not decisions do not matter here."""
        if event["event"] != "decision":
            return
        with self._news:
            self.tally.superseded += self._newest is not None
            self._newest = event if event["decision"] in self._wanted else None
            self._news.notify()

    def close(self) -> None:
        """Deliver the newest decision, after the one that is under way; both have their full time."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        self._thread.join(2 * self._seconds + 1)
        with self._news:
            self.tally.lost += self._is_running + (self._newest is not None)
            self._is_running, self._newest = False, None

    def _run(self) -> None:
        is_failing = False
        while True:
            with self._news:
                while self._newest is None:
                    if self._is_closed:
                        return
                    self._news.wait()
                event, self._newest = self._newest, None
                self._is_running = True
            try:
                self._deliver(event)
                why = ""
            except Exception as error:  # whatever the command is or does, the watch goes on
                why = self.tally.why = _reason(error)
            with self._news:
                if not self._is_running:
                    return  # the end counted it as lost
                self._is_running = False
                self.tally.delivered += not why
                self.tally.lost += bool(why)
            if bool(why) != is_failing:
                is_failing = bool(why)
                what = f"failed for {event['decision']!r}: {why}" if why else "succeeds again."
                self._note(f"{self.tally.name}: {what}")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, NotDelivered) else f"{type(error).__name__}: {error}"


class Output:
    """Passes events to `on_event` and notes to `note`, in order, on a thread of its own, for both may block.

    While a live source is watched the oldest events are lost once more than `capacity` wait, and frames go on
    being classified; a file, `lossless`, waits for the reader of its events. An exception of `on_event` ends
    the watch: `stop` is requested, and `error` holds it. What the receivers in `tallies` lose is an event
    "undelivered", at once and then at most every ten seconds.
    """

    def __init__(
        self,
        on_event: Callable[[Event], None],
        note: Callable[[str], None],
        stop: Stop,
        *,
        lossless: bool,
        capacity: int = CAPACITY,
    ) -> None:
        self.error: BaseException | None = None
        self.tally = Tally("stdout", why="its reader is too slow")
        self.tallies: list[Tally] = [self.tally]
        self._on_event = on_event
        self._note = note
        self._stop = stop
        self._lossless = lossless
        self._capacity = capacity
        self._waiting: deque[Event | str] = deque()
        self._news = Condition()
        self._is_closed = False
        self._reported: dict[str, tuple[int, int, float]] = {}  # lost, superseded, when
        self._thread = Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Queue an event."""
        self._put(event)

    def note(self, text: str) -> None:
        """Queue a line for the user that is not an event."""
        self._put(text)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Pass on what waits, within some seconds; raise what `on_event` raised."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()
        self._thread.join(seconds)
        if self.error is not None:
            raise self.error

    def _put(self, item: Event | str) -> None:
        with self._news:
            while len(self._waiting) >= self._capacity:
                if self._lossless and not (self._stop.requested or self._is_closed):
                    self._news.wait(TICK)
                    continue
                self._waiting.popleft()
                self.tally.lost += 1
            self._waiting.append(item)
            self._news.notify_all()

    def _run(self) -> None:
        while True:
            with self._news:
                if not self._waiting and not self._is_closed:
                    self._news.wait(1.0)  # then look what was lost
                item = self._waiting.popleft() if self._waiting else None
                is_over = self._is_closed and not self._waiting
                self._news.notify_all()
            try:
                if isinstance(item, str):
                    self._note(item)
                elif item is not None and self.error is None:
                    self._on_event(item)
                    self.tally.delivered += 1
                if self.error is None and not is_over:
                    self._report_losses()
            except BaseException as error:  # such as a reader that is gone
                self.error = self.error or error
                self._stop.requested = True
            if is_over:
                return

    def _report_losses(self) -> None:
        now = monotonic()
        for tally in self.tallies:
            lost, superseded, last = self._reported.get(tally.name, (0, 0, now - REPORT_EVERY))
            new = {"lost": tally.lost - lost, "superseded": tally.superseded - superseded}
            if any(new.values()) and now - last >= REPORT_EVERY:
                self._reported[tally.name] = (tally.lost, tally.superseded, now)
                why = {"why": tally.why} if new["lost"] and tally.why else {}
                self._on_event({"event": "undelivered", "time": time(), "receiver": tally.name, **new, **why})
