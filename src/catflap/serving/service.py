"""One server's parts, and how it judges a photo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic

from catflap.artifacts.results import Prediction
from catflap.errors import BadPhoto
from catflap.machine import describe_machine
from catflap.serving.answers import Call
from catflap.serving.intake import Intake
from catflap.serving.keys import read_keys
from catflap.serving.metrics import Metrics
from catflap.serving.settings import Settings
from catflap.serving.shelf import Served, Shelf
from catflap.serving.workers import Workers


@dataclass(frozen=True)
class Service:
    """What every route works with; `note` tells the operator something."""

    settings: Settings
    shelf: Shelf
    workers: Workers
    intake: Intake
    metrics: Metrics
    keys: tuple[bytes, ...]
    note: Callable[[str], None]


def open_service(settings: Settings, note: Callable[[str], None]) -> Service:
    """Load and verify every bundle and start the threads, one for as many cores as a photo may use."""
    keys = read_keys(settings.keys)
    threads = max(1, describe_machine().cores // settings.threads)
    workers = Workers(threads, settings.limits.queue)
    intake = Intake(settings.limits)
    metrics = Metrics(lambda: workers.waiting, lambda: workers.running, lambda: intake.held)
    shelf = Shelf(settings, metrics)
    return Service(settings, shelf, workers, intake, metrics, keys, note)


async def judge(
    service: Service, served: Served, photos: list[bytes], call: Call
) -> list[Prediction | BadPhoto]:
    """A Prediction for the bytes of each photo, or the BadPhoto that says why there is none."""
    until = monotonic() + service.settings.limits.deadline
    jobs = [partial(judge_one, service, served, photo) for photo in photos]
    results = await service.workers.run(jobs, until, call.gone)
    shadow = service.shelf.shadow
    if shadow is not None and served.name == shadow.name and served.version != shadow.version:
        for photo, result in zip(photos, results, strict=True):
            if not service.workers.spare(partial(_compare, service, shadow, photo, result)):
                service.metrics.shadow("skipped")
    return results


def judge_one(service: Service, served: Served, photo: bytes) -> Prediction | BadPhoto:
    """What a bundle says of one photo, counted."""
    try:
        prediction = served.classifier(photo)
    except BadPhoto as error:
        service.metrics.refused(error.reason)
        return error
    service.metrics.decision(served.name, served.version, prediction.decision)
    return prediction


def _compare(service: Service, shadow: Served, photo: bytes, heard: Prediction | BadPhoto) -> None:
    """Count whether the shadow decides like the bundle that was heard."""
    said = judge_one(service, shadow, photo)
    decisions = [result.decision if isinstance(result, Prediction) else None for result in (heard, said)]
    service.metrics.shadow("same" if decisions[0] == decisions[1] else "other")
