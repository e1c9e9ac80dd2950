"""The Prometheus metrics of a server; the one file that owns prometheus_client."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from catflap.evaluation.paired import changed_share, compare_decisions

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # seconds
COMPARED = 2_000  # the last photos on which two versions are compared
VERDICTS = {"yes": 1.0, "not shown": 0.0, "no": -1.0}
KEPT_VERSIONS = 8  # replaced versions whose counts of decisions are still shown; each costs memory


class Metrics:
    """The metrics of one server; every name begins with catflap_ or process_."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._roles: set[tuple[str, str, str]] = set()
        self._replaced: deque[tuple[str, str]] = deque()
        self._labels: dict[tuple[str, str], set[str]] = {}  # decisions counted for (model, version)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series that nobody reads
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter("catflap_requests", "Requests answered.", "route", "status")
        self._seconds = Histogram(
            "catflap_request_seconds", "From the head of a request to its answer.", ["route"],
            buckets=BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._decisions = self._counter("catflap_decisions", "Photos judged.", "model", "version", "decision")
        self._refused = self._counter("catflap_refused_photos", "Photos that could not be read.", "reason")
        self._shadow = self._counter(
            "catflap_shadow",
            "Decisions of shadow or canary beside the other's: same, other, skipped.",
            "result",
        )
        self._pairs: deque[tuple[str, str]] = deque(maxlen=COMPARED)  # decisions on the same photo
        self._class_names: tuple[str, ...] = ()
        verdict = self._gauge(
            "catflap_shadow_verdict", "May shadow or canary replace the other, were each change wrong?"
        )
        verdict.set_function(self._verdict)
        changed = Gauge(
            "catflap_shadow_changed", "Photos that shadow or canary decides otherwise: share, low, high.",
            ["bound"], registry=self._registry,
        )  # fmt: skip
        for bound in ("value", "low", "high"):
            changed.labels(bound).set_function(partial(self._changed, bound))
        self._reloads = self._counter(
            "catflap_reloads", "Bundle files that changed: loaded, refused.", "model", "result"
        )
        self._closed = self._counter(
            "catflap_closed_connections", "Connections closed by a limit, by the limit.", "reason"
        )
        self._versions = self._gauge(
            "catflap_model", "1 for each version that is served.", "model", "version", "role"
        )
        self._drift = self._gauge(
            "catflap_drift_score", "The last 200 photos against the bundle's baseline; above 1 they differ.",
            "model", "version",
        )  # fmt: skip

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Show a value that is read when the metrics are."""
        self._gauge(name, description).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def decision(self, model: str, version: str, decision: str) -> None:
        """Count a photo that was judged."""
        with self._lock:
            self._labels.setdefault((model, version), set()).add(decision)
            self._decisions.labels(model, version, decision).inc()

    def refused(self, reason: str) -> None:
        """Count a photo that could not be read."""
        self._refused.labels(reason).inc()

    def skipped(self) -> None:
        """Count a photo that shadow or canary was not compared on."""
        self._shadow.labels("skipped").inc()

    def compared(self, champion: str | None, challenger: str | None, class_names: tuple[str, ...]) -> None:
        """Count the decisions of two versions on one photo; None where it could not be read."""
        self._shadow.labels("same" if champion == challenger else "other").inc()
        with self._lock:
            self._class_names = class_names
            self._pairs.append((champion or "", challenger or ""))

    def _changed(self, bound: str) -> float:
        """One bound of the 95 % interval of the share of changed decisions; NaN before the first photo."""
        with self._lock:
            pairs = list(self._pairs)
        value = changed_share(sum(champion != challenger for champion, challenger in pairs), len(pairs))[
            bound
        ]
        return math.nan if value is None else value

    def _verdict(self) -> float:
        """The verdict of `diff` with the champion as truth: 1 yes, 0 not shown, -1 no; NaN before any."""
        with self._lock:
            pairs, names = list(self._pairs), self._class_names
        if not pairs:
            return math.nan
        champion, challenger = (list(side) for side in zip(*pairs, strict=True))
        found = compare_decisions(champion, challenger, champion, range(len(pairs)), names, {})
        return VERDICTS[found["verdict"]]

    def reload(self, model: str, result: str) -> None:
        """Count a bundle file that changed: loaded or refused."""
        self._reloads.labels(model, result).inc()

    def closed(self, reason: str) -> None:
        """Count a connection that a limit closed."""
        self._closed.labels(reason).inc()

    def drift(self, model: str, version: str, score: float) -> bool:
        """Set the drift score of a version; False when it is no longer served."""
        with self._lock:
            served = self._is_served(model, version)
            if served:
                self._drift.labels(model, version).set(score)
        return served

    def serving(self, model: str, version: str, role: str, old: str | None = None) -> None:
        """Record which version has a role, and which old version no longer has it."""
        with self._lock:
            if old is not None:
                self._pairs.clear()  # the next ones are of another version
                self._roles.discard((model, old, role))
                self._versions.remove(model, old, role)
            self._roles.add((model, version, role))
            self._versions.labels(model, version, role).set(1)
            if old is not None and not self._is_served(model, old):
                self._drift.remove(model, old)
                self._forget_decisions(model, old)

    def _forget_decisions(self, model: str, old: str) -> None:
        """Remove the series of all but the last replaced versions, which would grow without end."""
        if (model, old) in self._replaced:
            self._replaced.remove((model, old))
        self._replaced.append((model, old))
        while len(self._replaced) > KEPT_VERSIONS:
            version = self._replaced.popleft()
            if not self._is_served(*version):
                for decision in self._labels.pop(version, ()):
                    self._decisions.remove(*version, decision)

    def _is_served(self, model: str, version: str) -> bool:
        """Whether a version has any role."""
        return any((model, version) == served[:2] for served in self._roles)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self._registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(name, description, labels, registry=self._registry)

    def page(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE
