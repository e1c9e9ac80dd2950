"""What the server counts, for Prometheus; the one file that owns prometheus_client."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from prometheus_client import CONTENT_TYPE_LATEST as KIND
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Counters of one server; every name begins with catflap_."""

    def __init__(
        self, waiting: Callable[[], int], running: Callable[[], int], held: Callable[[], int]
    ) -> None:
        self._lock = Lock()
        self._roles: set[tuple[str, str, str]] = set()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series that nobody reads
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "catflap_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "catflap_request_seconds", "From the head of a request to its answer.", ["route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._decisions = Counter(
            "catflap_decisions", "Photos judged.", ["model", "version", "decision"], registry=self._registry
        )
        self._refused = Counter(
            "catflap_refused_photos", "Photos that could not be read.", ["reason"], registry=self._registry
        )
        self._shadow = Counter(
            "catflap_shadow", "The shadow beside what was answered: same, other, skipped.", ["result"],
            registry=self._registry,
        )  # fmt: skip
        self._reloads = Counter(
            "catflap_reloads", "Bundle files that changed: loaded, refused.", ["model", "result"],
            registry=self._registry,
        )  # fmt: skip
        self._versions = Gauge(
            "catflap_model", "1 for each version that is served.", ["model", "version", "role"],
            registry=self._registry,
        )  # fmt: skip
        self._drift = Gauge(
            "catflap_drift_score", "The last 200 photos against the bundle's baseline; above 1 they differ.",
            ["model", "version"], registry=self._registry,
        )  # fmt: skip
        for name, what, value in (
            ("catflap_queue", "Photos that wait for a core; an infer request at /v2 counts as one.", waiting),
            ("catflap_running", "Photos being judged; an infer request at /v2 counts as one.", running),
            ("catflap_held_bytes", "Bytes of request bodies.", held),
        ):
            Gauge(name, what, registry=self._registry).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def decision(self, model: str, version: str, decision: str) -> None:
        """Count a photo that was judged."""
        self._decisions.labels(model, version, decision).inc()

    def refused(self, reason: str) -> None:
        """Count a photo that could not be read."""
        self._refused.labels(reason).inc()

    def shadow(self, result: str) -> None:
        """Count what the shadow said: same, other or skipped."""
        self._shadow.labels(result).inc()

    def reload(self, model: str, result: str) -> None:
        """Count a bundle file that changed: loaded or refused."""
        self._reloads.labels(model, result).inc()

    def drift(self, model: str, version: str, score: float) -> bool:
        """Note how far the last photos are from the baseline; False when that version is no longer served."""
        with self._lock:
            served = self._is_served(model, version)
            if served:
                self._drift.labels(model, version).set(score)
        return served

    def serving(self, model: str, version: str, role: str, old: str | None = None) -> None:
        """Note which version is served, and that another no longer is in that role."""
        with self._lock:
            if old is not None:
                self._roles.discard((model, old, role))
                self._versions.remove(model, old, role)
            self._roles.add((model, version, role))
            self._versions.labels(model, version, role).set(1)
            if old is not None and not self._is_served(model, old):
                self._drift.remove(model, old)

    def _is_served(self, model: str, version: str) -> bool:
        """Whether a version has a role, whichever."""
        return any((model, version) == served[:2] for served in self._roles)

    def page(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its media type."""
        return generate_latest(self._registry), KIND
