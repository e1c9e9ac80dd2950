"""A server's parts and how it judges a photo: worker threads, the queue before them, the shadow, drift."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from catflap.errors import BadPhoto
from catflap.evaluation.drift_baseline import WINDOW, measure_drift
from catflap.image import NO_STATISTICS, ImageStatistics, Photo, Pixels
from catflap.machine import describe_machine, give_back_large_memory
from catflap.runtime.classifier import Prediction
from catflap.runtime.recording import Recorder
from catflap.serving.http_messages import BodyReader, HttpError, Request, read_keys
from catflap.serving.registry import ModelRegistry, Served
from catflap.serving.serve_settings import ServeSettings
from catflap.serving.server_metrics import Metrics

T = TypeVar("T")
CLIENT_LEFT = 499  # the status that servers log when the client did not wait


@dataclass(frozen=True)
class Service:
    """What every route works with. `note` writes a line to the operator's log."""

    settings: ServeSettings
    models: ModelRegistry
    workers: Workers
    bodies: BodyReader
    metrics: Metrics
    keys: tuple[bytes, ...]
    recorder: Recorder | None
    drift: DriftMeter
    note: Callable[[str], None]


def open_service(settings: ServeSettings, note: Callable[[str], None]) -> Service:
    """Load and verify every bundle and start the worker threads: cores / `settings.threads` of them."""
    give_back_large_memory()
    keys = read_keys(settings.keys)
    workers = Workers(max(1, describe_machine().cores // settings.threads), settings.limits.queue)
    bodies, metrics = BodyReader(settings.limits), Metrics()
    unit = "an infer request at /v2 counts as one"
    metrics.watch("catflap_queue", f"Photos that wait for a core; {unit}.", lambda: workers.waiting)
    metrics.watch("catflap_running", f"Photos being judged; {unit}.", lambda: workers.running)
    metrics.watch("catflap_held_bytes", "Bytes of request bodies in memory.", lambda: bodies.held)
    models = ModelRegistry(settings, metrics)
    for notice in models.notices():
        note(notice)
    recorder = None if settings.log is None else Recorder(settings.log, note)
    return Service(
        settings, models, workers, bodies, metrics, keys, recorder, DriftMeter(metrics, note), note
    )


def close_service(service: Service) -> None:
    """Finish the jobs that have begun, and write what is to be logged."""
    service.workers.close()
    if service.recorder is not None:
        service.recorder.close()


async def judge(
    service: Service, candidates: list[Served], photos: list[bytes], request: Request
) -> tuple[Served, list[Prediction | BadPhoto]]:
    """The version that judged, and for each photo its Prediction, or BadPhoto if it cannot be read."""
    until = monotonic() + service.settings.limits.deadline
    served = candidates[0] if len(candidates) == 1 else service.models.choose(candidates)
    results: list[Prediction | BadPhoto] = []
    try:
        jobs = [partial(judge_one, service, served, photo) for photo in photos]
        results = await service.workers.run(jobs, until, request.disconnected)
    finally:
        if not any(isinstance(result, Prediction) for result in results):
            service.models.undo_choice(candidates, served)
    if service.models.has_challenger:
        run_shadow(service, served, photos, results)
    return served, results


def judge_one(service: Service, served: Served, photo: Photo, verb: str = "serve") -> Prediction | BadPhoto:
    """The Prediction of one photo, counted and logged; BadPhoto when it cannot be read."""
    try:
        prediction = served.classifier(photo)
    except BadPhoto as error:
        service.metrics.refused(error.reason)
        return error
    record(service, served, photo, prediction, verb)
    return prediction


def record(
    service: Service, served: Served, photo: Photo, prediction: Prediction, verb: str = "serve"
) -> None:
    """Count a prediction, add it to the drift window, and write it to the field log if there is one."""
    service.metrics.decision(served.name, served.version, prediction.decision)
    service.drift.add(served, prediction)
    if service.recorder is not None:
        service.recorder(served.classifier, photo, prediction, verb)


def run_shadow(
    service: Service, served: Served, photos: Pixels | list[bytes], answers: Sequence[Prediction | BadPhoto]
) -> None:
    """Let the version beside the one that answered judge the same photos, and compare their decisions.

    As far as cores are free; pixels of a frame only if its own Frame is the same. What the shadow decides is
    recorded, too; what the version that a canary may replace decides is only compared.
    """
    shadow = service.models.beside(served)
    if shadow is None:
        return
    is_canary = shadow is service.models.default

    def compare(photo: Photo, answer: Prediction | BadPhoto) -> None:
        if is_canary:
            try:
                own: Prediction | BadPhoto = shadow.classifier(photo)
            except BadPhoto as error:
                own = error
        else:
            own = judge_one(service, shadow, photo, "shadow")
        pair = [one.decision if isinstance(one, Prediction) else None for one in (answer, own)]
        champion, challenger = reversed(pair) if is_canary else pair
        service.metrics.compared(champion, challenger, served.classifier.labels)

    takes_frames = shadow.classifier.frame == served.classifier.frame
    for photo, answer in zip(photos, answers, strict=True):
        fits = takes_frames or isinstance(photo, bytes)
        if not (fits and service.workers.try_run(partial(compare, photo, answer))):
            service.metrics.skipped()


class Workers:
    """A pool of `threads` with a bounded queue: at most `queue` more jobs wait."""

    def __init__(self, threads: int, queue: int) -> None:
        self.threads = threads
        self.queue = queue
        self._pool = ThreadPoolExecutor(threads, "judge")
        self._lock = Lock()
        self._pending = 0
        self._finished_at: deque[float] = deque(maxlen=32)

    @property
    def waiting(self) -> int:
        """Jobs that no thread has begun."""
        return max(0, self._pending - self.threads)

    @property
    def running(self) -> int:
        """Jobs that a thread works on."""
        return min(self._pending, self.threads)

    async def run(
        self, jobs: Sequence[Callable[[], T]], until: float, disconnected: Callable[[], Awaitable[None]]
    ) -> list[T]:
        """The results of the jobs, in their order; `until` is the deadline on the clock of time.monotonic.

        Raises HttpError: 429 when the queue is full, 503 when a job has not begun by the deadline, 504 when
        one has begun but is not done, 499 when the client left. What has not begun then is not run.
        """
        futures = self._submit(jobs)
        results = asyncio.gather(*map(asyncio.wrap_future, futures))
        tasks: list[asyncio.Future[Any]] = [results]
        if self._pending > self.threads:
            tasks.append(asyncio.ensure_future(disconnected()))
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=max(0.0, until - monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if results in done:
                return results.result()
            if done:
                raise HttpError(CLIENT_LEFT, "The client closed the connection.", "Wait for the response.")
            if all(future.running() or future.done() for future in futures):
                raise HttpError(
                    504, "The photo was not judged in time.", "Send a smaller one, or raise --deadline."
                )
            raise self._busy(503, "No core was free in time")
        finally:
            if not results.done():
                results.add_done_callback(_retrieve_exception)
            for task in tasks:
                task.cancel()

    def try_run(self, job: Callable[[], object]) -> bool:
        """Run a job whose result nobody waits for, if a core is free; whether it will run."""
        if self._pending >= self.threads:
            return False
        self._submit([job])
        return True

    def close(self) -> None:
        """Finish the jobs that have begun and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, jobs: Sequence[Callable[[], T]]) -> list[Future[T]]:
        with self._lock:
            if self._pending + len(jobs) > self.threads + self.queue:
                raise self._busy(429, "Too many requests")
            self._pending += len(jobs)
        futures = [self._pool.submit(job) for job in jobs]
        for future in futures:
            future.add_done_callback(self._finished)
        return futures

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self._pending -= 1
            if self._pending < self.threads:
                self._finished_at.clear()  # times between jobs count only while every thread is busy
            else:
                self._finished_at.append(monotonic())

    def _busy(self, status: int, what: str) -> HttpError:
        """An HttpError that says how many jobs are queued and when, at the present rate, they are done."""
        times = list(self._finished_at)
        each = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        seconds = min(60, max(1, math.ceil(each * self._pending)))
        return HttpError(
            status, f"{what}: {self.waiting} are queued.", f"Retry after {seconds} s.",
            {"Retry-After": str(seconds)},
        )  # fmt: skip


def _retrieve_exception(results: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging the exception of a job that nobody waits for any more."""
    if not results.cancelled():
        results.exception()


class DriftMeter:
    """Collects predictions by version and compares each 200 of them with the bundle's baseline.

    A version's window ends with the version: when the same one is served again, a new window begins.
    """

    def __init__(self, metrics: Metrics, note: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._note = note
        self._lock = Lock()
        self._windows: WeakKeyDictionary[Served, list[tuple[list[float], ImageStatistics, float]]] = (
            WeakKeyDictionary()
        )

    def add(self, served: Served, prediction: Prediction) -> None:
        """Add a prediction; the last one of a window measures it. Does nothing without a baseline."""
        classifier = served.classifier
        baseline = classifier.variant.baseline
        if baseline is None:
            return
        with self._lock:
            window = self._windows.setdefault(served, [])
            ood_score = math.nan if prediction.ood_score is None else prediction.ood_score
            statistics = prediction.image_statistics or NO_STATISTICS
            window.append((list(prediction.probabilities.values()), statistics, ood_score))
            if len(window) < WINDOW:
                return
            del self._windows[served]
        given, measured, ood_scores = (np.array(column) for column in zip(*window, strict=True))
        drift = measure_drift(classifier.as_trained(given), classifier.labels, baseline, measured, ood_scores)
        if self._metrics.drift(served.name, served.version, drift.score) and drift.alarm:
            self._note(
                f"Drift: the last {WINDOW} photos of {served.name} {served.version} differ from those it was "
                f"tested on ({drift.most} scores {drift.score:.2f}, the alarm is above 1)."
            )
