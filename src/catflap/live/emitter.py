"""What happens with each frame: it is judged, counted, told, saved and shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

from catflap.artifacts.results import UNSURE, Prediction
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Photo, encode
from catflap.live.counts import WatchCounts
from catflap.live.delivery import DeliveryQueue, Event
from catflap.live.frames import Outage, Shot
from catflap.live.judge import WHOLE, Judge
from catflap.live.preview import Preview
from catflap.live.settings import WatchSettings
from catflap.live.sinks import CappedFolder
from catflap.runtime.recording import Recorder

if TYPE_CHECKING:
    from catflap.live.clips import Clips  # which imports OpenCV, as not every watch does


def check_labels(named: Iterable[str], labels: Sequence[str]) -> None:
    """Refuse commands for a decision that cannot come."""
    unknown = [name for name in named if name not in (*labels, UNSURE)]
    if unknown:
        raise CatflapError(
            f"The bundle never decides {unknown[0]!r}.", f"Use one of: {', '.join((*labels, UNSURE))}."
        )


@dataclass(frozen=True)
class Outlets:
    """Where events and frames go besides `tell`."""

    queues: Sequence[DeliveryQueue] = ()
    saved: CappedFolder | None = None
    clips: Clips | None = None
    preview: Preview | None = None
    recorder: Recorder | None = None


class EventEmitter:
    """Turns frames and troubles into events and hands them to whoever wants them."""

    def __init__(
        self,
        settings: WatchSettings,
        judge: Judge,
        counts: WatchCounts,
        tell: Callable[[Event], None],
        outlets: Outlets,
    ) -> None:
        self._settings = settings
        self._judge = judge
        self._counts = counts
        self._tell = tell
        self._queues = outlets.queues
        self._saved = outlets.saved
        self._clips = outlets.clips
        self._preview = outlets.preview
        self._recorder = outlets.recorder
        self._logged = -math.inf  # when the last frame was logged, on the source's clock
        self._outage = False
        self._unreadable = False
        self._readable = 0.0  # when the last frame came that could be read, on the source's clock
        self._waiting = b""  # what the preview shows as long as nobody looks

    def started(self, source: str, live: bool) -> None:
        """The watch begins."""
        bundle = self._judge.classifier.bundle
        about = {"bundle": bundle.name, "version": bundle.sha256[:12], "source": source, "live": live}
        if self._preview is not None:
            from catflap.live.opencv import notice

            self._waiting = notice("waiting for a frame")
            self._preview.show(self._waiting)
            about["preview"] = self._preview.port
        self._send({"event": "started", "time": time(), **about})

    def shot(self, shot: Shot) -> None:
        """Judge a frame."""
        self._counts.read = shot.number
        before = self._judge.decision
        try:
            photo = shot.picture.photo()
            prediction, age = self._judge(shot, photo)
        except BadPhoto as error:
            self._bad(shot, error)
            return
        self._unreadable = False
        self._readable = shot.clock
        if self._outage:
            self._outage = False
            self._send({"event": "back", **_when(shot)})
        self._counts.answer(age)
        after = self._judge.decision
        about = {**_when(shot), "frame_age_ms": round(age * 1e3, 3), "ms": round(prediction.ms, 3)}
        if self._clips is not None:
            self._clips.see(shot, photo)
        if self._settings.every_frame:
            self._tell({"event": "frame", **about, **_said(prediction), "decision": after})
        if after != before:
            self._decided(shot, photo, about, before, self._judge.average)
        if self._recorder is not None:
            self._record(self._recorder, shot, photo, prediction, after != before)
        if self._preview is not None:
            looked_at = self._preview.viewers > 0
            self._preview.show(self._picture(photo, prediction) if looked_at else self._waiting)

    def outage(self, outage: Outage) -> None:
        """The source gives no frames: tell it once, and believe nothing any more."""
        if self._outage:
            return
        self._outage = True
        self._counts.outages += 1
        self._send({"event": outage.kind, "time": time(), "why": outage.why})
        self.forget(outage.kind)
        if self._clips is not None:
            self._clips.finish()

    def forget(self, why: str) -> None:
        """Forget what was decided and tell `unsure`, so that nothing is acted on while a camera is off."""
        before = self._judge.decision
        self._judge.forget()
        if self._preview is not None:
            from catflap.live.opencv import notice

            self._preview.show(notice(f"{UNSURE}  ({why})"))
        if before != UNSURE:
            self._counts.decisions += 1
            event = {
                "event": "decision", "time": time(), "decision": UNSURE, "previous": before,
                "probability": 0.0, "why": why,
            }  # fmt: skip
            self._send(event | (self._clip_of(UNSURE) if why != "ended" else {}))

    def ended(self, why: str) -> Event:
        """The watch is over: every receiver hears it, and the summary says how many got what."""
        try:
            self.forget("ended")
        finally:  # whoever reads stdout may be gone
            if self._clips is not None:
                self._clips.close()
                self._counts.clips = self._clips.written
            summary = {"event": "ended", "time": time(), "why": why, **self._counts.to_json()}
            self._hand(summary)
            for queue in self._queues:
                queue.close()
        sinks = {one.name: {"delivered": one.delivered, "lost": one.lost} for one in self._queues}
        summary |= {"sinks": sinks} if sinks else {}
        self._tell(summary)
        return summary

    def _send(self, event: Event) -> None:
        """Tell an event, first to those who act on it: stdout may be full, or its reader gone."""
        self._hand(event)
        self._tell(event)

    def _hand(self, event: Event) -> None:
        for queue in self._queues:
            queue.send(event)

    def _bad(self, shot: Shot, error: BadPhoto) -> None:
        """A frame that cannot be read: counted, and told when the one before could.

        When all were so for as long as a source may be silent, nothing is believed any more.
        """
        self._counts.unreadable += 1
        if not self._unreadable:
            self._unreadable = True
            self._send({"event": "unreadable", **_when(shot), **error.to_json()})
        if shot.clock - self._readable >= self._settings.stalled:
            self._readable = math.inf  # once is enough
            self.forget("unreadable")

    def _decided(
        self, shot: Shot, photo: Photo, about: Event, before: str, average: dict[str, float]
    ) -> None:
        self._counts.decisions += 1
        label = max(average, key=average.__getitem__)
        event = {
            "event": "decision", **about, "decision": self._judge.decision, "previous": before,
            "label": label, "probability": average[label], "probabilities": average,
        }  # fmt: skip
        if self._saved is not None:
            saved = self._saved.save(self._jpeg(photo), shot.time, shot.number, self._judge.decision)
            if saved is not None:
                self._counts.saved += 1
                event["saved"] = saved
        self._send(event | self._clip_of(self._judge.decision))

    def _jpeg(self, photo: Photo) -> bytes:
        if isinstance(photo, bytes) and photo.startswith(b"\xff\xd8"):
            return photo
        return encode(self._judge.whole(photo), "JPEG", quality=90)

    def _clip_of(self, decision: str) -> Event:
        """Where the clip of a decision will lie, once it is whole."""
        path = None if self._clips is None else self._clips.decided(decision)
        return {} if path is None else {"clip": path}

    def _record(
        self, recorder: Recorder, shot: Shot, photo: Photo, prediction: Prediction, decided: bool
    ) -> None:
        """Log a frame when its time has come, or when it decided something."""
        due = shot.clock - self._logged >= self._settings.log_every
        if due:
            self._logged = shot.clock
        if due or decided:
            path = shot.picture.path or ""
            recorder(self._judge.classifier, photo, prediction, "watch", path=path, regular=due)

    def _picture(self, photo: Photo, prediction: Prediction) -> bytes:
        """What the preview shows of a frame: all of it, the decision, and the region that was judged."""
        from catflap.live.opencv import annotated

        pixels = self._judge.whole(photo)
        box = self._judge.box(pixels.shape[1], pixels.shape[0]) if self._judge.region != WHOLE else None
        decided = f"{self._judge.decision}  ({prediction.label} {prediction.probability:.2f})"
        return annotated(pixels, decided, box)


def _when(shot: Shot) -> Event:
    """The frame that an event is about, and its times."""
    about: Event = {"time": shot.time, "frame": shot.number, "frame_time": round(shot.clock, 4)}
    if shot.picture.path is not None:
        about["path"] = shot.picture.path
    return about


def _said(prediction: Prediction) -> Event:
    names = ("label", "probability", "probabilities")
    return {name: getattr(prediction, name) for name in names}
