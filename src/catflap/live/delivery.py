"""Events on their way to somebody who may be slow or away: in order, bounded, tried again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic
from typing import Any

KEPT = 1000  # events that wait for somebody who is away; then the oldest is given up
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before an event is tried again; it doubles
PARTING = 3.0  # seconds at the end for what still waits

Event = dict[str, Any]


class NotDelivered(Exception):
    """The receiver did not take an event; the text says why."""


class DeliveryQueue:
    """A thread that hands events to `deliver`, one after the other; the judge never waits for it.

    An event that is not delivered is tried again until it is, or, without `again`, given up. With `wants`
    it takes only the events that are wanted. `promised` is how many seconds a delivery may take that is
    not broken off at the end; the last event is then delivered, too.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Event], None],
        note: Callable[[str], None],
        *,
        again: bool = True,
        wants: Callable[[Event], bool] | None = None,
        kept: int = KEPT,
        promised: float = 0.0,
    ) -> None:
        self.name = name
        self.delivered = 0
        self.lost = 0
        self._deliver = deliver
        self._note = note
        self._again = again
        self._wants = wants
        self._kept = kept
        self._promised = promised
        self._waiting: deque[Event] = deque()
        self._in_hand = 0  # events that the thread took and has not settled
        self._news = Condition()
        self._until: float | None = None  # when to give up, once there will be no more events
        self._failing = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Take an event; it is delivered later. When too many wait the oldest is lost."""
        if self._wants is not None and not self._wants(event):
            return
        with self._news:
            if len(self._waiting) >= self._kept:
                self._waiting.popleft()
                self.lost += 1
            self._waiting.append(event)
            self._news.notify()

    def close(self, patience: float = PARTING) -> None:
        """Deliver what still waits, within some seconds; the rest is lost, one in hand too.

        Where time is promised, the one in hand and the last that waits are delivered all the same.
        """
        with self._news:
            self._until = monotonic() + patience
            self._news.notify()
        self._thread.join(patience + 2 * self._promised + 1)
        with self._news:
            self.lost += len(self._waiting) + self._in_hand
            self._waiting.clear()
            self._in_hand = 0

    def _run(self) -> None:
        wait = FIRST_WAIT
        while (event := self._next()) is not None:
            try:
                self._deliver(event)
            except Exception as error:  # whatever the receiver is or does, the watch goes on
                self._tell(error)
                if self._again:
                    if not self._return(event, wait):
                        return
                    wait = min(2 * wait, LONGEST_WAIT)
                else:
                    self._settle(delivered=0)
                continue
            self._settle(delivered=1)
            wait = FIRST_WAIT
            if self._failing:
                self._failing = False
                self._note(f"{self.name}: delivers again.")

    def _next(self) -> Event | None:
        """The next event, or None when there will be none."""
        with self._news:
            while not self._waiting:
                if self._until is not None:
                    return None
                self._news.wait()
            if self._promised and self._until is not None and monotonic() >= self._until:
                while len(self._waiting) > 1:  # the time is up for all but the last
                    self._waiting.popleft()
                    self.lost += 1
            self._in_hand = 1
            return self._waiting.popleft()

    def _settle(self, delivered: int) -> None:
        """Count the event in hand, unless the end came first and counted it."""
        with self._news:
            self.delivered += delivered * self._in_hand
            self.lost += (1 - delivered) * self._in_hand
            self._in_hand = 0

    def _return(self, event: Event, wait: float) -> bool:
        """Put an event back to the front and wait; False when the time is up."""
        with self._news:
            if not self._in_hand:
                return False  # the end came first
            self._in_hand = 0
            if len(self._waiting) < self._kept:
                self._waiting.appendleft(event)
            else:
                self.lost += 1
            end = monotonic() + wait
            while (now := monotonic()) < end:
                if self._until is not None and now >= self._until:
                    return False
                last = end if self._until is None else min(end, self._until)
                self._news.wait(max(0.0, last - now))
            return True

    def _tell(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            kind = "" if isinstance(error, NotDelivered) else f"{type(error).__name__}: "
            self._note(f"{self.name}: an event was not delivered: {kind}{error}")
