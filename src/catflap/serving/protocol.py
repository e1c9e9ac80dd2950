"""The Open Inference Protocol, REST, version 2: what KServe, Triton and their clients speak.

A model has two inputs, of which a request brings one: `photo`, BYTES, the bytes of image files; or the
graph's own input, UINT8, frames that are pixels already. The outputs are the logits, `probabilities`,
`label` and `decision`.
"""

from __future__ import annotations

from functools import partial
from time import monotonic, perf_counter
from typing import Any, TypeAlias

import numpy as np

from catflap.artifacts.bundle import Variant
from catflap.artifacts.results import Prediction
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, Pixels, read_pixels
from catflap.runtime.engine import Embeddings, Logits
from catflap.runtime.image_statistics import ImageStatistics, image_statistics
from catflap.serving.answers import Answer, Call, Problem, answer_json
from catflap.serving.registry import Served
from catflap.serving.service import Service, compare, settle
from catflap.serving.tensors import (
    HEADER,
    MOST_VALUES,
    Array,
    Tensor,
    read_inputs,
    read_request,
    wanted_outputs,
    write_response,
)
from catflap.version import VERSION

Signs: TypeAlias = tuple[ImageStatistics, Embeddings | None]
Inferred: TypeAlias = tuple[Answer, Served, Pixels | list[bytes], list[Prediction]]
PHOTO = "photo"
BINARY = "binary_tensor_data"
JSON_FRAMES = 4  # that fit into the JSON of a request, however large they are


async def server_metadata(service: Service, call: Call) -> Answer:
    """`GET /v2`: who answers."""
    return answer_json({"name": "catflap", "version": VERSION, "extensions": [BINARY]})


async def live(service: Service, call: Call) -> Answer:
    """`GET /v2/health/live`."""
    return answer_json({"live": True})


async def ready(service: Service, call: Call) -> Answer:
    """`GET /v2/health/ready`: the server listens only when every bundle was verified."""
    return answer_json({"ready": True})


async def model_ready(service: Service, call: Call) -> Answer:
    """`GET /v2/models/NAME[/versions/VERSION]/ready`."""
    _find(service, call)
    return answer_json({"name": call.places["name"], "ready": True})


async def model_metadata(service: Service, call: Call) -> Answer:
    """`GET /v2/models/NAME[/versions/VERSION]`: inputs and outputs."""
    served = _find(service, call)[0]
    frame, labels = served.classifier.frame, len(served.classifier.labels)
    frames, logits = _graph_names(served)
    return answer_json(
        {
            "name": served.name,
            "versions": [version.version for version in service.models.versions(served.name)],
            "platform": _platform(served.classifier.variant),
            "inputs": [
                {"name": PHOTO, "datatype": "BYTES", "shape": [-1]},
                {"name": frames, "datatype": "UINT8", "shape": [-1, frame.height, frame.width, 3]},
            ],
            "outputs": [
                {"name": logits, "datatype": "FP32", "shape": [-1, labels]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, labels]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "decision", "datatype": "BYTES", "shape": [-1]},
            ],
        }
    )


async def infer(service: Service, call: Call) -> Answer:
    """`POST /v2/models/NAME[/versions/VERSION]/infer`: tensors in, tensors out."""
    found = _find(service, call)
    body = await call.read()
    until = monotonic() + service.settings.limits.deadline
    job = partial(_infer, service, found, body, call.headers.get(HEADER), until)
    [(answer, served, photos, predictions)] = await service.workers.run([job], until, call.gone)
    compare(service, served, photos, predictions)
    return answer


def _infer(
    service: Service, found: list[Served], body: bytes, json_length: str | None, until: float
) -> Inferred:
    """Parse, judge and write, on a thread of its own, for tensors in JSON take their time.

    Whoever judges, the tensors have the names and shapes that the metadata told: those of the usual version.
    """
    usual = found[0]
    request, rest = read_request(body, json_length, _most_values(usual.classifier.frame))
    names = (_graph_names(usual)[1], "probabilities", "label", "decision")
    binary = wanted_outputs(request, names)
    tensor = _the_input(read_inputs(request, rest), usual, service.settings.limits.queue)
    fitting = _fitting(found, tensor)
    served = service.models.choose(fitting)
    try:
        logits, signs = _judged(service, served, tensor, until)
    except CatflapError:
        service.models.give_back(fitting, served)
        raise
    rows = served.classifier.probabilities(logits)
    to_prediction = served.classifier.to_prediction
    predictions = [to_prediction(row, perf_counter(), *of) for row, of in zip(rows, signs, strict=True)]
    for photo, prediction in zip(tensor.data, predictions, strict=True):
        settle(service, served, photo, prediction)
    outputs = dict(zip(names, _outputs(logits, rows.astype(np.float32), predictions), strict=True))
    head: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if isinstance(request.get("id"), str):
        head["id"] = request["id"]
    content, length = write_response(head, {name: outputs[name] for name in binary}, binary)
    answer = Answer(content)
    if length is not None:
        answer = Answer(content, kind="application/octet-stream", headers={HEADER: str(length)})
    return answer, served, tensor.data, predictions


def _fitting(found: list[Served], tensor: Tensor) -> list[Served]:
    """Who may judge: of frames, which were made for the usual version, those that have the same Frame."""
    if tensor.datatype == "BYTES":
        return found
    return [served for served in found if served.classifier.frame == found[0].classifier.frame]


def _most_values(frame: Frame) -> int:
    """How many values the JSON of a request may have: three numbers a pixel, and the list around them."""
    return max(MOST_VALUES, JSON_FRAMES * frame.height * frame.width * 4 + 4096)


def _outputs(logits: Logits, rows: Logits, predictions: list[Prediction]) -> list[Array]:
    return [logits, rows, [said.label for said in predictions], [said.decision for said in predictions]]


def _judged(service: Service, served: Served, tensor: Tensor, until: float) -> tuple[Logits, list[Signs]]:
    """Logits, looks and embeddings of photos or frames, one by one: as fast as a batch, in less memory."""
    rows: list[Logits] = []
    signs: list[Signs] = []
    for number, item in enumerate(tensor.data):
        if monotonic() > until:
            raise Problem(504, f"Only {number} of {len(tensor.data)} were judged in time.", "Send fewer.")
        pixels = _pixels(service, served, item, number) if isinstance(item, bytes) else item
        answered, embeddings = served.classifier.logits(pixels[None])
        rows.append(answered)
        signs.append((image_statistics(pixels), embeddings))
    return np.concatenate(rows), signs


def _pixels(service: Service, served: Served, photo: bytes, number: int) -> Pixels:
    try:
        return read_pixels(photo, served.classifier.frame)
    except BadPhoto as error:
        service.metrics.refused(error.reason)
        raise Problem(400, f"Photo {number}: {error.what}", error.fix) from error


def _the_input(tensors: list[Tensor], served: Served, most: int) -> Tensor:
    """The one input of a request, of a shape that the model takes; Problem 400 otherwise."""
    frames, frame = _graph_names(served)[0], served.classifier.frame
    fix = f"Give either {PHOTO}, BYTES [n], or {frames}, UINT8 [n, {frame.height}, {frame.width}, 3]."
    if len(tensors) != 1:
        raise Problem(400, f"The request has {len(tensors)} inputs.", fix)
    tensor = tensors[0]
    if (tensor.name, tensor.datatype) == (PHOTO, "BYTES"):
        fits = tensor.shape in ((len(tensor.data),), (len(tensor.data), 1))
    else:
        fits = (tensor.name, tensor.datatype) == (frames, "UINT8")
        fits &= len(tensor.shape) == 4 and tensor.shape[1:] == (frame.height, frame.width, 3)
    if not fits:
        what = (
            f"The input {tensor.name!r}, {tensor.datatype} {list(tensor.shape)}, is not one of the model's."
        )
        raise Problem(400, what, fix)
    if not 1 <= len(tensor.data) <= most:
        raise Problem(400, f"The request has {len(tensor.data)} photos.", f"Send 1 to {most}.")
    return tensor


def _find(service: Service, call: Call) -> list[Served]:
    return service.models.find(call.places["name"], call.places.get("version"))


def _platform(variant: Variant) -> str:
    """PROJECT_FORMAT, as the protocol has it: what runs the variant, and the suffix of its file."""
    return f"{variant.runtime.partition('-')[0]}_{variant.file.rpartition('.')[2]}"


def _graph_names(served: Served) -> tuple[str, str]:
    """What the graph calls its input and its output."""
    head = served.classifier.bundle.head
    return head["input"]["name"], head["output"]["name"]
