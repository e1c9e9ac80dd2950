"""One server's parts, and how it judges a photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic

from catflap.artifacts.results import Prediction
from catflap.errors import BadPhoto
from catflap.image import Photo, Pixels
from catflap.machine import describe_machine, give_back_large_memory
from catflap.runtime.recording import Recorder
from catflap.serving.answers import Call
from catflap.serving.body import BodyReader
from catflap.serving.drifting import DriftMeter
from catflap.serving.keys import read_keys
from catflap.serving.metrics import Metrics
from catflap.serving.registry import ModelRegistry, Served
from catflap.serving.settings import ServeSettings
from catflap.serving.workers import Workers


@dataclass(frozen=True)
class Service:
    """What every route works with; `note` tells the operator something."""

    settings: ServeSettings
    models: ModelRegistry
    workers: Workers
    bodies: BodyReader
    metrics: Metrics
    keys: tuple[bytes, ...]
    recorder: Recorder | None
    meter: DriftMeter
    note: Callable[[str], None]


def open_service(settings: ServeSettings, note: Callable[[str], None]) -> Service:
    """Load and verify every bundle and start the threads, one for as many cores as a photo may use."""
    give_back_large_memory()
    keys = read_keys(settings.keys)
    threads = max(1, describe_machine().cores // settings.threads)
    workers = Workers(threads, settings.limits.queue)
    bodies = BodyReader(settings.limits)
    metrics = Metrics(lambda: workers.waiting, lambda: workers.running, lambda: bodies.held)
    models = ModelRegistry(settings, metrics)
    for notice in models.notices():
        note(notice)
    recorder = None if settings.log is None else Recorder(settings.log, note)
    return Service(
        settings, models, workers, bodies, metrics, keys, recorder, DriftMeter(metrics, note), note
    )


def close_service(service: Service) -> None:
    """Finish what was begun, and what is to be logged."""
    service.workers.close()
    if service.recorder is not None:
        service.recorder.close()


async def judge(
    service: Service, found: list[Served], photos: list[bytes], call: Call
) -> tuple[Served, list[Prediction | BadPhoto]]:
    """Who of them judged, and its Prediction for the bytes of each photo, or why there is none."""
    until = monotonic() + service.settings.limits.deadline
    served = service.models.choose(found)
    results: list[Prediction | BadPhoto] = []
    try:
        jobs = [partial(judge_one, service, served, photo) for photo in photos]
        results = await service.workers.run(jobs, until, call.gone)
    finally:
        if not any(isinstance(result, Prediction) for result in results):
            service.models.give_back(found, served)
    compare(service, served, photos, results)
    return served, results


def compare(
    service: Service, served: Served, photos: Pixels | list[bytes], heard: Sequence[Prediction | BadPhoto]
) -> None:
    """Let the shadow judge, where a core is free, what was answered.

    Frames it judges only where its Frame would have made the same.
    """
    shadow = service.models.shadow
    if shadow is None or served.name != shadow.name or served.version == shadow.version:
        return
    takes_frames = shadow.classifier.frame == served.classifier.frame
    for photo, result in zip(photos, heard, strict=True):
        fits = takes_frames or isinstance(photo, bytes)
        if not (fits and service.workers.spare(partial(_compare, service, shadow, photo, result))):
            service.metrics.shadow("skipped")


def judge_one(service: Service, served: Served, photo: Photo, verb: str = "serve") -> Prediction | BadPhoto:
    """What a bundle says of one photo, counted."""
    try:
        prediction = served.classifier(photo)
    except BadPhoto as error:
        service.metrics.refused(error.reason)
        return error
    settle(service, served, photo, prediction, verb)
    return prediction


def settle(
    service: Service, served: Served, photo: Photo, prediction: Prediction, verb: str = "serve"
) -> None:
    """Count an answer, and log it where that was asked for."""
    service.metrics.decision(served.name, served.version, prediction.decision)
    service.meter.add(served, prediction)
    if service.recorder is not None:
        service.recorder(served.classifier, photo, prediction, verb)


def _compare(service: Service, shadow: Served, photo: Photo, heard: Prediction | BadPhoto) -> None:
    """Count whether the shadow decides like the bundle that was heard."""
    said = judge_one(service, shadow, photo, "shadow")
    decisions = [result.decision if isinstance(result, Prediction) else None for result in (heard, said)]
    service.metrics.shadow("same" if decisions[0] == decisions[1] else "other")
