"""The tensors of the Open Inference Protocol, REST: JSON and the binary extension.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; the
binary extension is that of the Triton Inference Server (docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.image import Pixels
from catflap.serving.answers import Problem

Array: TypeAlias = "npt.NDArray[np.float32] | list[str]"
HEADER = "inference-header-content-length"
KINDS = ("UINT8", "BYTES")
MOST_VALUES = 1 << 20  # of JSON in one request
NUMBER = 6  # bytes that a number needs in JSON, with what is around it
MOST_TEXTS = 1000  # values of JSON that is longer than numbers are: photos in base64


@dataclass(frozen=True)
class Tensor:
    """An input: `data` is uint8 of the stated shape, or for BYTES a list of the elements."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Pixels | list[bytes]


def read_request(
    body: bytes, json_length: str | None, most: int = MOST_VALUES
) -> tuple[dict[str, Any], memoryview]:
    """The JSON object of a request and the binary data behind it.

    Raises Problem: 400 when it is neither, 413 when the JSON has more than `most` values, or needs more
    bytes than so many numbers do and is not a few long texts.
    """
    length = len(body)
    if json_length is not None:
        # Python does not turn thousands of digits into a number, but raises
        if not (json_length.isdecimal() and len(json_length) < 20 and int(json_length) <= length):
            raise _bad(f"{HEADER} is {json_length[:20]!r} in a body of {length} bytes")
        length = int(json_length)
    allowed = most if length <= most * NUMBER else MOST_TEXTS
    if _count_values(body, length) > allowed:
        raise Problem(
            413,
            f"The JSON of the request, {length} bytes, has more than {allowed} values.",
            "Send the tensor as binary data, with binary_data_size and the header "
            "Inference-Header-Content-Length, or fewer frames at once.",
        )
    try:
        request = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise _bad("the request is not JSON") from error
    if not isinstance(request, dict):
        raise _bad("the request is not a JSON object")
    return request, memoryview(body)[length:]


def read_inputs(request: Mapping[str, Any], binary: memoryview) -> list[Tensor]:
    """The inputs of a request; Problem 400 when one of them contradicts itself."""
    entries = request.get("inputs")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _bad("inputs is not a list of tensors")
    tensors: list[Tensor] = []
    for entry in entries:
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            tensors.append(_from_json(entry))
            continue
        if type(size) is not int or not 0 <= size <= len(binary):
            raise _bad(f"binary_data_size is {size!r}, and {len(binary)} bytes are left")
        tensors.append(_from_binary(entry, binary[:size]))
        binary = binary[size:]
    if len(binary):
        raise _bad(f"{len(binary)} bytes behind the last tensor belong to none")
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


def wanted_outputs(request: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, bool]:
    """The outputs that a request asks for, all when it names none, and whether each is to be binary."""
    default = _parameters(request).get("binary_data_output", False)
    entries = request.get("outputs") or [{"name": name} for name in names]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _bad("outputs is not a list")
    unknown = [entry.get("name") for entry in entries if entry.get("name") not in names]
    if unknown:
        raise _bad(f"there is no output {str(unknown[0])[:40]!r}; there are {', '.join(names)}")
    return {entry["name"]: _parameters(entry).get("binary_data", default) is True for entry in entries}


def _count_values(body: bytes, length: int) -> int:
    """How many values the JSON has at most, beside the outermost one.

    No other thread runs while JSON is read, and each value takes its time and memory; one long text, such
    as a photo in base64, takes little.
    """
    return sum(body.count(mark, 0, length) for mark in (b",", b"[", b"{"))


def _from_json(entry: Mapping[str, Any]) -> Tensor:
    name, datatype, shape = _header(entry)
    if datatype == "BYTES":
        texts = entry.get("data")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _bad(f"the data of {name} is not a list of base64 texts")
        try:
            elements = [base64.b64decode(text, validate=True) for text in texts]
        except ValueError as error:
            raise _bad(f"the data of {name} is not base64") from error
        _fits(name, shape, len(elements))
        return Tensor(name, datatype, shape, elements)
    try:
        numbers = np.asarray(entry.get("data"))
    except (ValueError, OverflowError) as error:
        raise _bad(f"the data of {name} is not one block of numbers") from error
    if numbers.dtype.kind != "i" or numbers.size == 0 or numbers.min() < 0 or numbers.max() > 255:
        raise _bad(f"the data of {name} is not numbers from 0 to 255")
    _fits(name, shape, numbers.size)
    return Tensor(name, datatype, shape, numbers.astype(np.uint8).reshape(shape))


def _from_binary(entry: Mapping[str, Any], data: memoryview) -> Tensor:
    name, datatype, shape = _header(entry)
    if "data" in entry:
        raise _bad(f"{name} has both data and binary_data_size")
    if datatype == "BYTES":
        elements = _split(name, data)
        _fits(name, shape, len(elements))
        return Tensor(name, datatype, shape, elements)
    _fits(name, shape, len(data))
    return Tensor(name, datatype, shape, np.frombuffer(data, np.uint8).reshape(shape))


def _header(entry: Mapping[str, Any]) -> tuple[str, str, tuple[int, ...]]:
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str):
        raise _bad("an input has no name")
    if datatype not in KINDS:
        raise _bad(f"{name[:40]} is {str(datatype)[:20]}; an input is {' or '.join(KINDS)}")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise _bad(f"the shape of {name[:40]} is not a list of sizes")
    return name[:40], str(datatype), tuple(shape)


def _fits(name: str, shape: tuple[int, ...], count: int) -> None:
    if len(shape) > 8 or math.prod(shape) != count:
        raise _bad(f"{name} has {count} elements for the shape {list(shape)[:8]}")


def _split(name: str, data: memoryview) -> list[bytes]:
    """BYTES elements, each behind its length, 4 bytes, little endian."""
    elements: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + 4
        if end <= len(data):
            end += struct.unpack_from("<I", data, position)[0]
        if end > len(data):
            raise _bad(f"the data of {name} is cut short")
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
        raise _bad("parameters is not an object")
    return parameters


def _bad(why: str) -> Problem:
    return Problem(400, f"Not a request of the Open Inference Protocol: {why}.", "See the model's metadata.")
