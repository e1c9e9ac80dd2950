"""Forms and tensors, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.message import EmailMessage

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catflap.serving.form_data import parse_form
from catflap.serving.http_messages import HttpError
from catflap.serving.inference_protocol import read_inputs, read_request, requested_outputs, write_response
from tests.serving.client import form

NAMES = st.text(st.characters(exclude_categories=["C"], exclude_characters='"\\%'), max_size=20)
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a machine that does more


@BUSY
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=200)), min_size=1, max_size=4),
    st.sampled_from(["xYz", "--a", "'()"]),
)
def test_a_form_gives_back_its_files(photos: list[tuple[str, bytes]], boundary: str) -> None:
    photos = [(name, data.replace(boundary.encode(), b"")) for name, data in photos]
    body, headers = form(*photos, boundary=boundary)
    for around in (body, b"\r\n" + body + b"epilogue"):
        parts = parse_form(around, headers["Content-Type"], 4)
        assert [(part.name, part.data) for part in parts] == photos


def test_what_the_standard_library_writes() -> None:
    """Quoted boundary, quotes in a name, a plain field among the files."""
    message = EmailMessage()
    message["Content-Type"] = "multipart/form-data"
    for disposition in (
        'name="word"',
        'name="a"; filename="a \\"b\\".jpg"',
        'name="c"; filename="c.jpg"',
    ):
        part = EmailMessage()
        part["Content-Disposition"] = f"form-data; {disposition}"
        part.set_payload("bytes")
        message.attach(part)
    message.set_boundary("a b")
    body = message.as_bytes().replace(b"\n", b"\r\n").partition(b"\r\n\r\n")[2]
    parts = parse_form(body, str(message["Content-Type"]), 3)
    assert [(part.name, part.data) for part in parts] == [('a "b".jpg', b"bytes"), ("c.jpg", b"bytes")]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("name=photo; filename=a.jpg", "a.jpg"),
        ("name=photo;FileName=a-b_c.jpg", "a-b_c.jpg"),
        ('name="photo"; filename=""', ""),
        ('name="x; filename=a.jpg"', None),
    ],
)
def test_a_name_may_stand_without_quotes(disposition: str, name: str | None) -> None:
    body = f"--a\r\nContent-Disposition: form-data; {disposition}\r\n\r\nbytes\r\n--a--".encode()
    parts = parse_form(body, "multipart/form-data; boundary=a", 1)
    assert [(part.name, part.data) for part in parts] == ([] if name is None else [(name, b"bytes")])


FIELD = b'--xYz\r\nContent-Disposition: form-data; name="word"\r\n\r\nx\r\n'


def test_a_form_may_have_a_hundred_fields_beside_its_photos() -> None:
    body, headers = form(("a.jpg", b"a"), ("b.jpg", b"b"))
    body = body.removesuffix(b"--xYz--\r\n") + FIELD * 100
    assert len(parse_form(body + b"--xYz--", headers["Content-Type"], 2)) == 2
    with pytest.raises(HttpError, match="more than 102 parts") as caught:
        parse_form(body + FIELD + b"--xYz--", headers["Content-Type"], 2)
    assert caught.value.status == 413


@settings(BUSY, max_examples=150)
@given(st.binary(max_size=300), st.text(max_size=40))
def test_any_bytes_are_parts_or_a_problem(body: bytes, kind: str) -> None:
    for content_type in (kind, "multipart/form-data; boundary=a"):
        assert status_of(lambda of=content_type: parse_form(body, of, 4)) in (None, 400, 413)


def status_of(step: Callable[[], object]) -> int | None:
    """The status of the HttpError that a step raises, or None."""
    try:
        step()
    except HttpError as problem:
        return problem.status
    return None


KEYS = ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@settings(BUSY, max_examples=150)
@given(
    st.dictionaries(st.sampled_from(["inputs", "outputs", "parameters", "id"]), JSON), st.binary(max_size=20)
)
def test_any_request_is_tensors_or_a_problem(request_fields: dict[str, object], rest: bytes) -> None:
    body = json.dumps(request_fields).encode()
    request, binary = read_request(body + rest, str(len(body)))
    assert status_of(lambda: read_inputs(request, binary)) in (None, 400)
    assert status_of(lambda: requested_outputs(request, ("logits",))) in (None, 400)


def test_json_of_many_values_is_413_and_a_long_text_is_not() -> None:
    for heavy in ("0,", "[],", '{"a":0},'):
        body = f'{{"inputs": [{heavy * 1001}0]}}'.encode()
        assert status_of(lambda of=body: read_request(of, None, 1000)) == 413
        assert status_of(lambda of=body: read_request(of + b",,,", str(len(of)), 4000)) is None
    for texts, status in ((["A" * 9000], None), (["A" * 9] * 999, None), (["A" * 9] * 1001, 413)):
        body = json.dumps({"inputs": texts}).encode()
        assert status_of(lambda of=body: read_request(of, None, 1200)) == status


@given(
    st.sampled_from(["UINT8", "BYTES"]),
    st.lists(st.integers(0, 255), max_size=4),
    st.lists(st.sampled_from([0, 1, 2, 3, -1, True, None, "1", 2**31]), max_size=3),
    st.binary(max_size=12),
)
def test_any_tensor_is_what_it_says_or_a_problem(
    datatype: str, data: list[int], shape: list[object], binary: bytes
) -> None:
    for entry in ({"data": data}, {"parameters": {"binary_data_size": len(binary)}}):
        request = {"inputs": [{"name": "a", "datatype": datatype, "shape": shape, **entry}]}
        try:
            tensor = read_inputs(request, memoryview(binary if "data" not in entry else b""))[0]
        except HttpError:
            continue
        assert int(np.prod(tensor.shape)) == (
            len(tensor.data) if datatype == "BYTES" else np.size(tensor.data)
        )


@pytest.mark.parametrize("binary", [True, False])
def test_a_response_says_what_is_in_it(binary: bool) -> None:
    rows = np.array([[0.5, -1.25], [3, 4]], np.float32)
    body, length = write_response(
        {"model_name": "cat"}, {"logits": rows, "label": ["zö", ""]}, {"logits": binary, "label": binary}
    )
    fields = json.loads(body[:length])
    assert [entry["shape"] for entry in fields["outputs"]] == [[2, 2], [2]]
    if binary:
        assert body[length:] == rows.tobytes() + b"\x03\0\0\0" + "zö".encode() + b"\0\0\0\0"
    else:
        assert fields["outputs"][0]["data"] == [0.5, -1.25, 3.0, 4.0]
        assert fields["outputs"][1]["data"] == ["zö", ""]
