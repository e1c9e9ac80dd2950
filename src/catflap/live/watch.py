"""The verb `watch`: classify each frame, follow the decision, and send events when it changes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from time import monotonic, time
from typing import TYPE_CHECKING

import numpy as np

from catflap.artifacts.results import UNKNOWN, UNSURE
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Photo
from catflap.live.archive import Archive, whole_frame
from catflap.live.delivery import Event, LatestDelivery, OrderedDelivery, Output
from catflap.live.frame_sources import find_source
from catflap.live.frames import LatestFrames, Outage, Shot, Stop, all_frames, open_first
from catflap.live.hysteresis import State, average, check_order, leave_threshold, step
from catflap.live.receivers import COMMAND_SECONDS, KILL_SECONDS, commands, webhook
from catflap.live.watch_settings import WHOLE, WatchSettings, check_unused, pixel_box
from catflap.progress import ignore
from catflap.runtime.classifier import Classifier, Prediction
from catflap.runtime.recording import recording
from catflap.runtime.signature import read_signed
from catflap.stopping import stopped_by_signals

if TYPE_CHECKING:
    from catflap.live.preview import Preview  # which imports OpenCV

SWITCH_SECONDS = 5e-4  # after which a busy Python thread lets another one run; Python's own 5 ms add up
# Shares of unknown frames: the state is unknown above the first, and no longer below the second.
ENTER_UNKNOWN, LEAVE_UNKNOWN = 0.5, 0.25
SHARE_OF_FRAMES = 0.8  # that decide a label at an operating point, before the label is entered
Receiver = OrderedDelivery | LatestDelivery


def watch(
    settings: WatchSettings, on_event: Callable[[Event], None] = ignore, note: Callable[[str], None] = ignore
) -> Event:
    """Watch until the source ends or SIGTERM, SIGHUP or Ctrl-C comes; return the summary, the last event.

    `on_event` is called with every event as it happens, `note` with what the user should know, both on one
    thread of their own. What `on_event` raises ends the watch and is raised here. CatflapError when the
    source cannot be opened at first; later it is opened again and again.
    """
    bundle = read_signed(settings.bundle, settings.signer)
    classifier = Classifier(
        bundle,
        settings.variant,
        threads=settings.threads,
        prior=settings.prior,
        operating_point=settings.operating_point,
        error_rate=settings.error_rate,
        embed=settings.log is not None,
    )
    _check_labels(settings.on, classifier.labels)
    timeout = 2 * settings.stalled  # a silent source is first reported, then opened again
    source = find_source(settings.source, classifier.frame, timeout=timeout, fps=settings.fps)
    check_unused(settings, source.name, live=source.live, paced=source.paced)
    stop = Stop()
    with ExitStack() as parts, stopped_by_signals(partial(_stop_on_signal, stop)):
        parts.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_SECONDS)
        output = Output(on_event, note, stop, lossless=not source.live)
        parts.callback(output.close)
        if classifier.notice:
            output.note(classifier.notice)
        opened = open_first(source)
        frames: Iterable[Shot | Outage]
        if source.live:  # it is read from now on: what waits in its connection would be old
            frames = latest = LatestFrames(
                source, opened, stop, settings.stalled, settings.still, 1 / settings.max_fps
            )
            parts.callback(latest.close)
        else:
            frames = all_frames(opened, stop)
            parts.callback(opened.close)
        preview = None
        if settings.preview is not None:
            from catflap.live.preview import Preview

            region = None if settings.region == WHOLE else settings.region
            preview = Preview(*settings.preview, classifier.frame, region)
            parts.callback(preview.close)
            if not preview.private:
                output.note("Warning: anyone who can reach the preview's address sees what the camera sees.")
        receivers = _open_receivers(settings, output.note, parts)
        recorder = parts.enter_context(recording(settings.log, output.note))
        archive = Archive(settings, classifier, recorder, output.note, stop, lossless=not source.live)
        watched = Watch(settings, classifier, output, receivers, archive, preview)
        watched.started(source.name, source.live)
        why = "an error"
        try:
            for found in frames:
                if isinstance(found, Shot):
                    watched.frame(found)
                else:
                    watched.outage(found)
            why = "stopped" if stop.requested else "the source ended"
        finally:  # however the watch ends, the last decision is unsure
            summary = watched.ended("an error" if output.error else why)
        return summary


def _stop_on_signal(stop: Stop) -> None:
    """End the watch in order at the first signal, at once at the second."""
    if stop.requested:
        raise KeyboardInterrupt
    stop.requested = True


def _check_labels(named: Iterable[str], labels: Sequence[str]) -> None:
    """Refuse commands for a decision that the bundle never gives."""
    unknown = [name for name in named if name not in (*labels, UNSURE, UNKNOWN)]
    if unknown:
        raise CatflapError(
            f"The bundle never decides {unknown[0]!r}.",
            f"Use one of: {', '.join((*labels, UNSURE, UNKNOWN))}.",
        )


def _open_receivers(settings: WatchSettings, note: Callable[[str], None], parts: ExitStack) -> list[Receiver]:
    """Everyone whom events are sent to, each on a thread of its own; commands first, for they act."""
    receivers: list[Receiver] = []
    if settings.on:
        seconds = COMMAND_SECONDS + 2 * KILL_SECONDS
        run = commands(settings.on)
        receivers.append(LatestDelivery("command", run, note, wanted=settings.on, seconds=seconds))
    if settings.webhook is not None:
        receivers.append(OrderedDelivery("webhook", webhook(settings.webhook), note))
    if settings.mqtt is not None:
        from catflap.live.mqtt import Mqtt

        broker = Mqtt(settings.mqtt)
        parts.callback(broker.close)
        receivers.append(OrderedDelivery("mqtt", broker.deliver, note))
    return receivers


@dataclass
class Counts:
    """Counts since the watch began; ages are seconds from a frame's arrival to its answer."""

    begun: float = field(default_factory=monotonic)
    read: int = 0
    judged: int = 0
    unreadable: int = 0
    decisions: int = 0
    outages: int = 0
    age_sum: float = 0.0
    age_max: float = 0.0

    def to_json(self) -> Event:
        """The counts as they stand in the summary; frames neither classified nor unreadable were dropped."""
        seconds = monotonic() - self.begun
        return {
            "seconds": round(seconds, 3),
            "frames": self.read,
            "judged": self.judged,
            "dropped": self.read - self.judged - self.unreadable,
            "unreadable": self.unreadable,
            "decisions": self.decisions,
            "outages": self.outages,
            "judged_a_second": round(self.judged / seconds, 2) if seconds else 0.0,
            "mean_age_ms": round(self.age_sum / self.judged * 1e3, 3) if self.judged else 0.0,
            "max_age_ms": round(self.age_max * 1e3, 3),
        }


class Watch:
    """Frames and outages in, events out; it holds what is decided now.

    Every method returns without waiting for a receiver, the archive or the preview, except that a file
    waits for its events to be read and its frames to be stored.
    """

    def __init__(
        self,
        settings: WatchSettings,
        classifier: Classifier,
        output: Output,
        receivers: Sequence[Receiver],
        archive: Archive,
        preview: Preview | None = None,
    ) -> None:
        self._settings = settings
        self._classifier = classifier
        self._output = output
        self._receivers = receivers
        self._archive = archive
        self._preview = preview
        output.tallies += [*(one.tally for one in receivers), *archive.tallies]
        rules = settings.rules
        # Without --enter the bundle decides on the averaged probabilities; at an operating point, whose
        # threshold may be close to 1, it decides each frame, and the decisions are averaged.
        self._at_point = classifier.operating_point is not None
        self._by_bundle = rules.enter is None and not self._at_point
        own = classifier.rule.threshold if self._by_bundle else SHARE_OF_FRAMES
        self._enter = own if rules.enter is None else rules.enter
        self._leave = leave_threshold(self._enter) if rules.leave is None else rules.leave
        check_order(self._enter, self._leave)
        self._state = State()
        self._strange = 0.0  # share of unknown frames, averaged as the probabilities are
        self._is_unknown = False
        self._counts = Counts()
        self._last: Shot | None = None  # the latest frame that was classified
        self._logged = -math.inf  # when a frame was last logged, on the source's clock
        self._in_outage = False
        self._unreadable = False
        self._readable = 0.0  # when the last readable frame came, on the source's clock

    @property
    def decision(self) -> str:
        """A label, "unsure", or "unknown" where most frames are."""
        current = self._state.current
        if current is None:
            return UNKNOWN if self._is_unknown else UNSURE
        return self._classifier.labels[current]

    def started(self, source: str, live: bool) -> None:
        """The watch begins."""
        bundle = self._classifier.bundle
        about = {"bundle": bundle.name, "version": bundle.sha256[:12], "source": source, "live": live}
        about |= {"enter": round(self._enter, 6), "leave": round(self._leave, 6)}
        if self._preview is not None:
            about["preview"] = self._preview.port
        self._send({"event": "started", "time": time(), **about})

    def frame(self, shot: Shot) -> None:
        """Classify a frame; send, store and show what follows."""
        self._counts.read = shot.number
        settings, before = self._settings, self.decision
        try:
            photo = shot.load()
            prediction = self._classifier(photo if settings.region == WHOLE else self._crop(photo))
        except BadPhoto as error:
            self._bad_frame(shot, error)
            return
        age = monotonic() - shot.taken
        self._state = self._next_state(prediction, shot.clock)
        decision = self.decision
        changed = decision != before
        self._last, self._readable, self._unreadable = shot, shot.clock, False
        self._counts.judged += 1
        self._counts.age_sum += age
        self._counts.age_max = max(self._counts.age_max, age)
        if self._in_outage:
            self._in_outage = False
            self._send({"event": "back", **_when(shot)})
        if settings.clips is not None:
            self._archive.see(shot, photo)
        if changed or settings.every_frame:
            about = {**_when(shot), "frame_age_ms": round(age * 1e3, 3), "ms": round(prediction.ms, 3)}
            if settings.every_frame:
                own = prediction.to_json()
                self._output.send({"event": "frame", **own, **about, "decision": decision})
            if changed:
                self._changed(shot, photo, about, before)
        is_due = shot.clock - self._logged >= settings.log_every
        if settings.log is not None and (is_due or changed):
            self._logged = shot.clock if is_due else self._logged
            self._archive.log(photo, prediction, shot.path or "", is_due)
        if self._preview is not None:
            self._preview.show(photo, f"{decision}  ({prediction.label} {prediction.probability:.2f})")

    def outage(self, outage: Outage) -> None:
        """The source gives no frames: send one event, and decide nothing any more."""
        if self._in_outage:
            return
        self._in_outage = True
        self._counts.outages += 1
        self._send({"event": outage.kind, "time": time(), "why": outage.why})
        self._forget(outage.kind)
        self._archive.finish_clip()

    def ended(self, why: str) -> Event:
        """The watch is over: nothing is decided any more, and the summary counts what each receiver got."""
        self._forget("ended")
        self._archive.close()
        counts = {"saved": self._archive.saved.delivered, "clips": self._archive.clips.delivered}
        summary = {"event": "ended", "time": time(), "why": why, **self._counts.to_json(), **counts}
        for receiver in self._receivers:
            receiver.send(summary)
        closing = [Thread(target=receiver.close) for receiver in self._receivers]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        tallies = [*(one.tally for one in self._receivers), *self._archive.tallies]
        tallies += [self._output.tally] if self._output.tally.lost else []
        sinks = {tally.name: tally.to_json() for tally in tallies}
        summary |= {"sinks": sinks} if sinks else {}
        self._output.send(summary)
        return summary

    def _next_state(self, prediction: Prediction, clock: float) -> State:
        """The state after a frame; one that is unknown counts for no label more than for another."""
        labels, rules = self._classifier.labels, self._settings.rules
        strange = prediction.decision == UNKNOWN and UNKNOWN not in labels
        (self._strange,) = average(
            State(average=(self._strange,) if self._state.average else (), clock=self._state.clock),
            [float(strange)], clock, rules.smoothing,
        )  # fmt: skip
        self._is_unknown = self._strange > (LEAVE_UNKNOWN if self._is_unknown else ENTER_UNKNOWN)
        if self._at_point:
            shares = [float(label == prediction.decision) for label in labels]
        elif strange:
            shares = [1 / len(labels)] * len(labels)
        else:
            shares = [*prediction.probabilities.values()]
        averaged = average(self._state, shares, clock, rules.smoothing)
        best = averaged.index(max(averaged))
        passing = best if averaged[best] >= self._enter else None
        if self._by_bundle:
            decision = self._classifier.to_prediction(np.array(averaged), 0.0).decision
            passing = None if decision == UNSURE else labels.index(decision)
        if self._is_unknown:
            passing = None
        return step(self._state, averaged, passing, self._leave, clock, rules)

    def _changed(self, shot: Shot, photo: Photo, about: Event, before: str) -> None:
        """A frame changed the decision: receivers that act get the event first."""
        self._counts.decisions += 1
        labels, averaged = self._classifier.labels, self._state.average
        best = averaged.index(max(averaged))
        event = {
            "event": "decision", **about, "decision": self.decision,
            "previous": before,
            "label": labels[best], "probability": averaged[best],
            "probabilities": dict(zip(labels, averaged, strict=True)),
        }  # fmt: skip
        self._send(event | self._archive.decided(shot, photo, self.decision))

    def _forget(self, why: str) -> None:
        """Reset the decision to `unsure`, so that nothing acts on it while the camera is off."""
        before = self.decision
        self._state = State(clock=self._state.clock)
        self._strange, self._is_unknown = 0.0, False
        if self._preview is not None:
            self._preview.show(None, f"{UNSURE}  ({why})")
        if before == UNSURE:
            return
        self._counts.decisions += 1
        event = {
            "event": "decision", "time": time(), "decision": UNSURE, "previous": before,
            "probability": 0.0, "why": why,
        }  # fmt: skip
        if why != "ended" and self._last is not None:
            event |= self._archive.decided(self._last, None, UNSURE)
        self._send(event)

    def _bad_frame(self, shot: Shot, error: BadPhoto) -> None:
        """A frame that cannot be read: it is counted, and an event when the one before could be read.

        When all were so for as long as a source may be silent, nothing is decided any more.
        """
        self._counts.unreadable += 1
        if not self._unreadable:
            self._unreadable = True
            self._send({"event": "unreadable", **_when(shot), **error.to_json()})
        if shot.clock - self._readable >= self._settings.stalled:
            self._readable = math.inf  # once is enough
            self._forget("unreadable")

    def _send(self, event: Event) -> None:
        """Send an event: first to the receivers that act on it, then to the others, last to the output."""
        for receiver in self._receivers:
            receiver.send(event)
        self._output.send(event)

    def _crop(self, photo: Photo) -> Photo:
        """The region of a frame."""
        pixels = whole_frame(photo, self._classifier.frame)
        left, top, right, bottom = pixel_box(self._settings.region, pixels.shape[1], pixels.shape[0])
        region: Photo = pixels[top:bottom, left:right]
        return region


def _when(shot: Shot) -> Mapping[str, float | str]:
    """The frame that an event is about, and its times."""
    about: dict[str, float | str] = {
        "time": shot.time, "frame": shot.number, "frame_time": round(shot.clock, 4),
    }  # fmt: skip
    if shot.path is not None:
        about["path"] = shot.path
    return about
