"""Frames to events: the verb `watch`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from catflap.errors import CatflapError
from catflap.live.counts import WatchCounts
from catflap.live.delivery import DeliveryQueue, Event
from catflap.live.emitter import EventEmitter, Outlets, check_labels
from catflap.live.frames import Outage, Shot, Source, Stop
from catflap.live.judge import Judge
from catflap.live.preview import Preview
from catflap.live.reader import latest_shots, open_first, waiting_shots
from catflap.live.settings import LIMITS, WatchSettings
from catflap.live.sinks import PATIENCE, CappedFolder, commands, has_command, webhook
from catflap.live.sources import find_source
from catflap.progress import nobody
from catflap.runtime.classifier import Classifier
from catflap.runtime.recording import recording
from catflap.runtime.signature import read_signed
from catflap.stopping import stopped_by_signals

if TYPE_CHECKING:
    from catflap.live.clips import Clips


def watch(
    settings: WatchSettings, tell: Callable[[Event], None] = nobody, note: Callable[[str], None] = nobody
) -> Event:
    """Watch until the source ends or SIGTERM, SIGHUP or Ctrl-C comes, and return the summary, the last event.

    `tell` is given every event as it happens, `note` what the operator should know. Raises
    CatflapError when the source cannot be opened at first; later it is opened again and again.
    """
    bundle = read_signed(settings.bundle, settings.signer)
    is_logged = settings.log is not None
    classifier = Classifier(
        bundle,
        settings.variant,
        threads=settings.threads,
        prior=settings.prior,
        operating_point=settings.operating_point,
        embed=is_logged,
    )
    if classifier.notice:
        note(classifier.notice)
    check_labels(settings.on, classifier.labels)
    patience = 2 * settings.stalled  # first the silence is told, then the connection is given up
    source = find_source(settings.source, classifier.frame, timeout=patience, fps=settings.fps)
    _check_idle(settings, source)
    stop = Stop()
    with ExitStack() as parts, stopped_by_signals(partial(_end, stop)):
        opened = open_first(source)
        starting = parts.enter_context(ExitStack())
        starting.callback(opened.close)
        queues = _queues(settings, note, parts)
        saved, clips = _folders(settings, note)
        preview = None if settings.preview is None else Preview(*settings.preview)
        if preview is not None:
            parts.callback(preview.close)
            if not preview.private:
                note("Whoever reaches the address of the preview sees what the camera sees.")
        recorder = parts.enter_context(recording(settings.log, note))
        judge = Judge(classifier, settings.region, settings.rules)
        emitter = EventEmitter(
            settings, judge, WatchCounts(), tell, Outlets(queues, saved, clips, preview, recorder)
        )
        emitter.started(source.name, source.live)
        if source.live:
            limits = (settings.stalled, settings.still, 1 / settings.max_fps)
            shots: Generator[Shot | Outage] = latest_shots(source, opened, stop, *limits)
        else:
            shots = waiting_shots(opened, stop)
        parts.callback(shots.close)
        starting.pop_all()  # whoever reads lets go: to close what somebody waits in would wait, too
        return _follow(shots, emitter, stop)


def _check_idle(settings: WatchSettings, source: Source) -> None:
    """Raise CatflapError for a setting that is not the default one and does nothing for this source."""
    idle = [*([] if source.paced else ["fps"]), *([] if source.live else ["max_fps", "still"])]
    for name in idle:
        if getattr(settings, name) != getattr(WatchSettings, name):
            option = LIMITS[name][0]
            raise CatflapError(f"{option} does nothing for {source.name}.", f"Leave {option} out.")


def _follow(shots: Iterable[Shot | Outage], emitter: EventEmitter, stop: Stop) -> Event:
    """Judge and tell each frame until the end; however that comes, the last decision told is unsure."""
    why = "an error"
    try:
        for found in shots:
            if isinstance(found, Shot):
                emitter.shot(found)
            else:
                emitter.outage(found)
        why = "the source ended"
    finally:
        summary = emitter.ended("stopped" if stop.asked else why)
    return summary


def _queues(settings: WatchSettings, note: Callable[[str], None], parts: ExitStack) -> list[DeliveryQueue]:
    """Whoever events are sent to, each on a thread of its own."""
    found = []
    if settings.webhook is not None:
        found.append(DeliveryQueue("webhook", webhook(settings.webhook), note))
    if settings.mqtt is not None:
        from catflap.live.mqtt import open_mqtt

        deliver, close = open_mqtt(settings.mqtt)
        parts.callback(close)
        found.append(DeliveryQueue("mqtt", deliver, note))
    if settings.on:
        wants = partial(has_command, settings.on)
        run = commands(settings.on)
        found.append(DeliveryQueue("command", run, note, again=False, wants=wants, promised=PATIENCE))
    return found


def _folders(
    settings: WatchSettings, note: Callable[[str], None]
) -> tuple[CappedFolder | None, Clips | None]:
    """Where frames and clips are saved; in one folder they share its limit."""
    saved = None if settings.save is None else CappedFolder(settings.save, settings.save_bytes, note)
    if settings.clips is None:
        return saved, None
    from catflap.live.clips import Clips

    is_shared = saved is not None and settings.clips == settings.save
    films = (
        saved if saved is not None and is_shared else CappedFolder(settings.clips, settings.save_bytes, note)
    )
    return saved, Clips(films, settings.clip_seconds, note)


def _end(stop: Stop) -> None:
    """The first signal ends the watch well, a second one without waiting for the frame in hand."""
    if stop.asked:
        raise KeyboardInterrupt
    stop.asked = True
