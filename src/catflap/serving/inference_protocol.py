"""The Open Inference Protocol, REST, version 2, as KServe, Triton and their clients use it.

A model has two inputs, of which a request contains one: `photo`, BYTES, image files; or the graph's own
input, UINT8, frames of pixels. The outputs are the logits, `probabilities`, `label` and `decision`.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; the binary
extension is that of the Triton Inference Server (docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Variant
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, Pixels
from catflap.runtime.classifier import Prediction
from catflap.serving.http_messages import HttpError, Request, Response, json_response
from catflap.serving.registry import Served
from catflap.serving.service import Service, record, run_shadow
from catflap.version import VERSION

Array: TypeAlias = "npt.NDArray[np.float32] | list[str]"
PHOTO = "photo"
BINARY = "binary_tensor_data"
HEADER = "inference-header-content-length"
DATATYPES = ("UINT8", "BYTES")
MAX_VALUES = 1 << 20  # of JSON in one request
NUMBER_BYTES = 6  # of a number in JSON, with what separates it
MAX_TEXTS = 1000  # values of JSON that is longer than numbers are: photos in base64
JSON_FRAMES = 4  # that fit into the JSON of a request, however large they are


async def server_metadata(service: Service, request: Request) -> Response:
    """`GET /v2`: name, version and extensions of the server."""
    return json_response({"name": "catflap", "version": VERSION, "extensions": [BINARY]})


async def live(service: Service, request: Request) -> Response:
    """`GET /v2/health/live`."""
    return json_response({"live": True})


async def ready(service: Service, request: Request) -> Response:
    """`GET /v2/health/ready`: the server listens only when every bundle was verified."""
    return json_response({"ready": True})


async def model_ready(service: Service, request: Request) -> Response:
    """`GET /v2/models/NAME[/versions/VERSION]/ready`."""
    _find(service, request)
    return json_response({"name": request.path_params["name"], "ready": True})


async def model_metadata(service: Service, request: Request) -> Response:
    """`GET /v2/models/NAME[/versions/VERSION]`: inputs and outputs."""
    served = _find(service, request)[0]
    frame, labels = served.classifier.frame, len(served.classifier.labels)
    frames, logits = _graph_names(served)
    return json_response(
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


async def infer(service: Service, request: Request) -> Response:
    """`POST /v2/models/NAME[/versions/VERSION]/infer`: tensors in, tensors out."""
    candidates = _find(service, request)
    async with service.bodies.read(request) as body:
        until = monotonic() + service.settings.limits.deadline
        job = partial(_infer, service, candidates, body, request.headers.get(HEADER), until)
        [inferred] = await service.workers.run([job], until, request.disconnected)
    if service.models.has_challenger:
        run_shadow(service, inferred.served, inferred.photos, inferred.predictions)
    return inferred.response


@dataclass(frozen=True)
class _Inferred:
    """A response, who judged, and what."""

    response: Response
    served: Served
    photos: Pixels | list[bytes]
    predictions: list[Prediction]


def _infer(
    service: Service, candidates: list[Served], body: bytes, json_length: str | None, until: float
) -> _Inferred:
    """Parse, judge and write; on a worker thread, because tensors in JSON take their time.

    Whichever version judges, the tensors have the names and shapes of the default one, as in the metadata.
    """
    default = candidates[0]
    fields, binary = read_request(body, json_length, _max_values(default.classifier.frame))
    names = (_graph_names(default)[1], "probabilities", "label", "decision")
    outputs = requested_outputs(fields, names)
    tensor = _select_input(read_inputs(fields, binary), default, service.settings.limits.queue)
    if tensor.datatype != "BYTES":  # pixels are made for a Frame
        frame = default.classifier.frame
        candidates = [served for served in candidates if served.classifier.frame == frame]
    served = service.models.choose(candidates)
    try:
        predictions = _judge(service, served, tensor, until)
    except CatflapError:
        service.models.undo_choice(candidates, served)
        raise
    for photo, prediction in zip(tensor.data, predictions, strict=True):
        record(service, served, photo, prediction)
    arrays: tuple[Array, ...] = (
        np.array([one.logits for one in predictions], np.float32),
        np.array([list(one.probabilities.values()) for one in predictions], np.float32),
        [one.label for one in predictions],
        [one.decision for one in predictions],
    )
    values = dict(zip(names, arrays, strict=True))
    head: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if isinstance(fields.get("id"), str):
        head["id"] = fields["id"]
    content, length = write_response(head, {name: values[name] for name in outputs}, outputs)
    response = Response(content)
    if length is not None:
        response = Response(content, content_type="application/octet-stream", headers={HEADER: str(length)})
    return _Inferred(response, served, tensor.data, predictions)


def _max_values(frame: Frame) -> int:
    """How many values the JSON of a request may have: three numbers a pixel, and the lists around them."""
    return max(MAX_VALUES, JSON_FRAMES * frame.height * frame.width * 4 + 4096)


def _judge(service: Service, served: Served, tensor: Tensor, until: float) -> list[Prediction]:
    """The Predictions, one by one: as fast as a batch, in less memory."""
    predictions: list[Prediction] = []
    for index, item in enumerate(tensor.data):
        if monotonic() > until:
            raise HttpError(
                504, f"Only {index} of {len(tensor.data)} photos were judged in time.", "Send fewer."
            )
        try:
            predictions.append(served.classifier(item))
        except BadPhoto as error:
            service.metrics.refused(error.reason)
            raise HttpError(400, f"Photo {index}: {error.what}", error.fix) from error
    return predictions


def _select_input(tensors: list[Tensor], served: Served, most: int) -> Tensor:
    """The one input of a request, in a shape that the model accepts; HttpError 400 otherwise."""
    frames, frame = _graph_names(served)[0], served.classifier.frame
    fix = f"Give either {PHOTO}, BYTES [n], or {frames}, UINT8 [n, {frame.height}, {frame.width}, 3]."
    if len(tensors) != 1:
        raise HttpError(400, f"The request has {len(tensors)} inputs.", fix)
    tensor = tensors[0]
    if (tensor.name, tensor.datatype) == (PHOTO, "BYTES"):
        fits = tensor.shape in ((len(tensor.data),), (len(tensor.data), 1))
    else:
        fits = (tensor.name, tensor.datatype) == (frames, "UINT8")
        fits &= len(tensor.shape) == 4 and tensor.shape[1:] == (frame.height, frame.width, 3)
    if not fits:
        given = f"{tensor.name!r}, {tensor.datatype} {list(tensor.shape)}"
        raise HttpError(400, f"The input {given} is not one of the model's inputs.", fix)
    if not 1 <= len(tensor.data) <= most:
        raise HttpError(400, f"The request has {len(tensor.data)} photos.", f"Send 1 to {most}.")
    return tensor


def _find(service: Service, request: Request) -> list[Served]:
    return service.models.candidates[request.path_params["name"], request.path_params.get("version")]


def _platform(variant: Variant) -> str:
    """PROJECT_FORMAT, as the protocol states it: the runtime of the variant and the suffix of its file."""
    return f"{variant.runtime.partition('-')[0]}_{variant.file.rpartition('.')[2]}"


def _graph_names(served: Served) -> tuple[str, str]:
    """The names of the graph's input and output."""
    head = served.classifier.bundle.head
    return head["input"]["name"], head["output"]["name"]


@dataclass(frozen=True)
class Tensor:
    """An input: `data` is uint8 of the stated shape, or for BYTES a list of the elements."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Pixels | list[bytes]


def read_request(
    body: bytes, json_length: str | None, most: int = MAX_VALUES
) -> tuple[dict[str, Any], memoryview]:
    """The JSON object of a request and the binary data behind it.

    Raises HttpError: 400 when they are malformed, 413 when the JSON has more than `most` values, or more than
    1,000 where it is longer than `most` numbers are.
    """
    length = len(body)
    if json_length is not None:
        # int() raises for thousands of digits
        if not (json_length.isdecimal() and len(json_length) < 20 and int(json_length) <= length):
            raise _invalid(f"{HEADER} is {json_length[:20]!r} in a body of {length} bytes")
        length = int(json_length)
    allowed = most if length <= most * NUMBER_BYTES else MAX_TEXTS
    if _count_values(body, length) > allowed:
        raise HttpError(
            413,
            f"The JSON of the request, {length} bytes, has more than {allowed} values.",
            "Send the tensor as binary data, with binary_data_size and the header "
            "Inference-Header-Content-Length, or fewer frames at once.",
        )
    try:
        request = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise _invalid("the body is not JSON") from error
    if not isinstance(request, dict):
        raise _invalid("the body is not a JSON object")
    return request, memoryview(body)[length:]


def read_inputs(request: Mapping[str, Any], binary: memoryview) -> list[Tensor]:
    """The inputs of a request; HttpError 400 when one of them contradicts itself."""
    entries = request.get("inputs")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _invalid("inputs is not a list of tensors")
    tensors: list[Tensor] = []
    for entry in entries:
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            tensors.append(_from_json(entry))
            continue
        if type(size) is not int or not 0 <= size <= len(binary):
            raise _invalid(f"binary_data_size is {size!r}, but {len(binary)} bytes are left")
        tensors.append(_from_binary(entry, binary[:size]))
        binary = binary[size:]
    if len(binary):
        raise _invalid(f"{len(binary)} bytes follow the last tensor")
    return tensors


def write_response(
    head: Mapping[str, Any], outputs: Mapping[str, Array], binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """The body of a response and the length of its JSON, or None when no output is binary."""
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, array in outputs.items():
        text = isinstance(array, list)
        shape = [len(array)] if isinstance(array, list) else list(array.shape)
        entry: dict[str, Any] = {"name": name, "datatype": "BYTES" if text else "FP32", "shape": shape}
        if binary[name]:
            blobs.append(_elements(array) if isinstance(array, list) else array.astype("<f4").tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array if isinstance(array, list) else array.ravel().tolist()
        entries.append(entry)
    text_part = json.dumps({**head, "outputs": entries}).encode()
    return b"".join([text_part, *blobs]), len(text_part) if blobs else None


def requested_outputs(request: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, bool]:
    """The outputs that a request asks for, all when it names none, and whether each is to be binary."""
    default = _parameters(request).get("binary_data_output", False)
    entries = request.get("outputs") or [{"name": name} for name in names]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _invalid("outputs is not a list")
    unknown = [entry.get("name") for entry in entries if entry.get("name") not in names]
    if unknown:
        raise _invalid(f"there is no output {str(unknown[0])[:40]!r}; the outputs are {', '.join(names)}")
    return {entry["name"]: _parameters(entry).get("binary_data", default) is True for entry in entries}


def _count_values(body: bytes, length: int) -> int:
    """How many values the JSON has at most, beside the outermost one.

    json.loads holds the GIL, and each value takes time and memory; one long text, such as a photo in base64,
    takes little.
    """
    return sum(body.count(mark, 0, length) for mark in (b",", b"[", b"{"))


def _from_json(entry: Mapping[str, Any]) -> Tensor:
    name, datatype, shape = _header(entry)
    if datatype == "BYTES":
        texts = entry.get("data")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _invalid(f"the data of {name} is not a list of base64 texts")
        try:
            elements = [base64.b64decode(text, validate=True) for text in texts]
        except ValueError as error:
            raise _invalid(f"the data of {name} is not base64") from error
        _check_size(name, shape, len(elements))
        return Tensor(name, datatype, shape, elements)
    try:
        numbers = np.asarray(entry.get("data"))
    except (ValueError, OverflowError) as error:
        raise _invalid(f"the data of {name} is not one block of numbers") from error
    if numbers.dtype.kind != "i" or numbers.size == 0 or numbers.min() < 0 or numbers.max() > 255:
        raise _invalid(f"the data of {name} is not numbers from 0 to 255")
    _check_size(name, shape, numbers.size)
    return Tensor(name, datatype, shape, numbers.astype(np.uint8).reshape(shape))


def _from_binary(entry: Mapping[str, Any], data: memoryview) -> Tensor:
    name, datatype, shape = _header(entry)
    if "data" in entry:
        raise _invalid(f"{name} has both data and binary_data_size")
    if datatype == "BYTES":
        elements = _split(name, data)
        _check_size(name, shape, len(elements))
        return Tensor(name, datatype, shape, elements)
    _check_size(name, shape, len(data))
    return Tensor(name, datatype, shape, np.frombuffer(data, np.uint8).reshape(shape))


def _header(entry: Mapping[str, Any]) -> tuple[str, str, tuple[int, ...]]:
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str):
        raise _invalid("an input has no name")
    if datatype not in DATATYPES:
        raise _invalid(f"{name[:40]} is {str(datatype)[:20]}; an input is {' or '.join(DATATYPES)}")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise _invalid(f"the shape of {name[:40]} is not a list of sizes")
    return name[:40], str(datatype), tuple(shape)


def _check_size(name: str, shape: tuple[int, ...], count: int) -> None:
    if len(shape) > 8 or math.prod(shape) != count:
        raise _invalid(f"{name} has {count} elements, but the shape {list(shape)[:8]}")


def _split(name: str, data: memoryview) -> list[bytes]:
    """BYTES elements, each after its length (4 bytes, little endian)."""
    elements: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + 4
        if end <= len(data):
            end += struct.unpack_from("<I", data, position)[0]
        if end > len(data):
            raise _invalid(f"the data of {name} is cut short")
        elements.append(bytes(data[position + 4 : end]))
        position = end
    return elements


def _elements(texts: list[str]) -> bytes:
    encoded = [text.encode("utf-8") for text in texts]
    return b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _invalid("parameters is not an object")
    return parameters


def _invalid(reason: str) -> HttpError:
    return HttpError(
        400, f"Invalid Open Inference Protocol request: {reason}.", "See GET /v2/models/NAME for the inputs."
    )
