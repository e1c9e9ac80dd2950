"""`POST /predict`: photos in, a decision for each out."""

from __future__ import annotations

import asyncio
from typing import Any

from catflap.artifacts.results import Prediction
from catflap.errors import BadPhoto
from catflap.serving.answers import Answer, Call, Problem, answer_json
from catflap.serving.multipart import read_parts
from catflap.serving.registry import Served
from catflap.serving.service import Service, judge

FORM = "multipart/form-data"
RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is curl's default
TOO_LARGE = ("too_many_bytes", "too_many_pixels")


async def predict(service: Service, call: Call) -> Answer:
    """Judge the photo that is the body, or every file of a form.

    One raw photo gives the fields of a Prediction, or the status 422 (413 when it is too large). A
    form gives `predictions`, a line a file as `catflap predict --json` prints it, and the status 422
    only when no file could be read.
    """
    content_type = call.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind != FORM and kind not in RAW and not kind.startswith("image/"):
        raise Problem(
            415, f"The body is {kind[:80]!r}, not a photo.", f"Send the photo's bytes as image/*, or {FORM}."
        )
    found = service.models.find(call.query.get("model"), call.query.get("version"))
    body = await call.read()
    if kind != FORM:
        served, [result] = await judge(service, found, [body], call)
        return answer_json({**_fields(result), **_about(served)}, _status(result))
    # on a thread, for everybody else would wait while a large form is taken apart
    parts = await asyncio.to_thread(read_parts, body, content_type, service.settings.limits.queue)
    if not parts:
        raise Problem(400, "The form has no file.", "Send at least one, such as: curl -F photo=@cat.jpg")
    served, results = await judge(service, found, [part.data for part in parts], call)
    lines = [{"path": part.name, **_fields(result)} for part, result in zip(parts, results, strict=True)]
    any_read = any(isinstance(result, Prediction) for result in results)
    return answer_json({"predictions": lines, **_about(served)}, 200 if any_read else 422)


def _about(served: Served) -> dict[str, str]:
    return {"model": served.name, "version": served.version}


def _fields(result: Prediction | BadPhoto) -> dict[str, Any]:
    return result.to_json() if isinstance(result, Prediction) else {"error": result.to_json()}


def _status(result: Prediction | BadPhoto) -> int:
    if isinstance(result, Prediction):
        return 200
    return 413 if result.reason in TOO_LARGE else 422
