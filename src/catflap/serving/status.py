"""`/healthz`, `/readyz` and `/metrics`: how the server is."""

from __future__ import annotations

from catflap.serving.answers import Answer, Call, answer_json
from catflap.serving.service import Service
from catflap.version import VERSION


async def healthz(service: Service, call: Call) -> Answer:
    """The process answers."""
    return answer_json({"status": "ok", "version": VERSION})


async def readyz(service: Service, call: Call) -> Answer:
    """Every bundle was verified on this machine; names and versions of what is served."""
    models = {
        name: [served.version for served in service.models.versions(name)] for name in service.models.names()
    }
    return answer_json({"status": "ready", "models": models})


async def metrics(service: Service, call: Call) -> Answer:
    """Counters and latencies, as Prometheus reads them."""
    body, kind = service.metrics.page()
    return Answer(body, kind=kind)
