"""The Open Inference Protocol: asked by tritonclient, and by hand to ask what that one would not."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from catflap.image import Frame, read_pixels
from tests.artifacts.samples import with_litert
from tests.matrix import mostly_slow
from tests.serving.bundles import BLUE, RED, SIDE, make_bundle
from tests.serving.client import Server, eventually, running

PIXELS = np.stack([read_pixels(photo, Frame(SIDE, SIDE)) for photo in (RED, BLUE)])


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    one = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield one
    one.close()


def photos(*data: bytes) -> Any:
    tensor = triton.InferInput("photo", [len(data)], "BYTES")
    tensor.set_data_from_numpy(np.array(data, dtype=object), binary_data=True)
    return tensor


def frames(pixels: np.ndarray, *, binary: bool) -> Any:
    tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def test_health_and_metadata(server: Server, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cat")
    assert client.is_model_ready("cat", server.models["cat"])
    assert not client.is_model_ready("cow")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    about = client.get_model_metadata("cat")
    assert about["versions"] == [server.models["cat"]]
    assert {entry["name"]: entry["shape"] for entry in about["inputs"]} == {
        "photo": [-1],
        "pixels": [-1, SIDE, SIDE, 3],
    }


@pytest.mark.parametrize(
    ("variant", "platform"),
    mostly_slow([("fp32", "onnxruntime_onnx"), ("litert-fp32", "litert_tflite")], several=True),
)
def test_the_platform_is_what_runs_the_variant(
    tiny_bundle: Path, tmp_path: Path, variant: str, platform: str
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'")
    tflite = Path(__file__).parents[1] / "runtime" / "colour.tflite"
    both = with_litert(tiny_bundle, tmp_path / "both.catflap", tflite.read_bytes())
    with running(both, "--variant", variant) as server:
        assert server.ask("/v2/models/warmth").json()["platform"] == platform


@pytest.mark.slow
def test_a_shadow_judges_photos_and_frames_that_fit_its_own(quick: Path, tmp_path: Path) -> None:
    opposite = make_bundle(tmp_path / "opposite.catflap", sharpness=-0.05)
    larger = make_bundle(tmp_path / "larger.catflap", sharpness=-0.05, side=2 * SIDE)
    for shadow, of_frames in ((opposite, "other"), (larger, "skipped")):
        with running(quick, "--shadow", shadow) as server:
            one = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
            counts = Counter[str]()
            for result, tensor in (("other", photos(RED)), (of_frames, frames(PIXELS[:1], binary=True))):
                assert one.infer("cat", [tensor]).as_numpy("label").tolist() == [b"cat"]
                counts[result] += 1
                for name, count in counts.items():
                    eventually(partial(is_counted, server, name, count))
            one.close()


@pytest.mark.parametrize("other", mostly_slow([{"side": 2 * SIDE}, {"fit": "crop"}]))
def test_frames_are_judged_only_by_versions_of_the_same_frame(
    quick: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    canary = make_bundle(tmp_path / "canary.catflap", sharpness=-0.05, **other)
    with running(quick, "--canary", canary, "--share", "0.5") as server:
        one = triton.InferenceServerClient(f"127.0.0.1:{server.port}")

        def versions(tensor: Any) -> set[str]:
            return {one.infer("cat", [tensor]).get_response()["model_version"] for _ in range(8)}

        assert versions(frames(PIXELS, binary=True)) == {server.models["cat"]}
        assert len(versions(photos(RED))) == 2, "photos it judges, for it makes its own frames of them"
        reported = one.get_model_metadata("cat", one.get_model_metadata("cat")["versions"][1])
        stated = np.zeros((1, *reported["inputs"][1]["shape"][1:]), np.uint8)
        reply = one.infer("cat", [frames(stated, binary=True)], model_version=reported["versions"][1])
        assert reply.get_response()["model_version"] == reported["versions"][1], "who names it gets it"
        one.close()
    with running(quick, "--shadow", canary) as server:
        one = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        one.infer("cat", [frames(PIXELS, binary=True)])
        eventually(partial(is_counted, server, "skipped", 2))
        one.close()


def test_a_canary_of_the_same_frame_judges_its_share_of_frames(quick: Path, tmp_path: Path) -> None:
    canary = make_bundle(tmp_path / "canary.catflap", sharpness=-0.05)
    with running(quick, "--canary", canary, "--share", "0.25") as server:
        one = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        message = [
            one.infer("cat", [frames(PIXELS[:1], binary=True)]).as_numpy("label")[0] for _ in range(40)
        ]
        assert message.count(b"not_cat") == 10
        one.close()


def is_counted(server: Server, result: str, count: int) -> bool:
    """Whether the shadow has judged so often, and does not any more."""
    reported = server.metric("catflap_shadow_total", result=result) == count
    return reported and server.metric("catflap_running") == 0


def test_jpegs_as_bytes(client: Any) -> None:
    answer = client.infer("cat", [photos(RED, BLUE, RED)], request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert answer.as_numpy("label").tolist() == [b"cat", b"not_cat", b"cat"]
    assert answer.as_numpy("decision").tolist() == [b"cat", b"not_cat", b"cat"]
    assert answer.as_numpy("probabilities").sum(1) == pytest.approx(1)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_frames_give_what_the_photos_give(client: Any, binary_in: bool, binary_out: bool) -> None:
    names = ("logits", "probabilities", "label")
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    from_frames = client.infer("cat", [frames(PIXELS, binary=binary_in)], outputs=wanted)
    from_photos = client.infer("cat", [photos(RED, BLUE)], outputs=wanted)
    for name in names[:2]:
        assert from_frames.as_numpy(name).dtype == np.float32
        np.testing.assert_array_equal(from_frames.as_numpy(name), from_photos.as_numpy(name))
    assert {str(text) for text in from_frames.as_numpy("label")} == {
        str(text) for text in from_photos.as_numpy("label")
    }
    assert from_frames.as_numpy("decision") is None


def test_a_version_can_be_named(server: Server, client: Any) -> None:
    answer = client.infer("cat", [photos(RED)], model_version=server.models["cat"])
    assert answer.get_response()["model_version"] == server.models["cat"]
    with pytest.raises(InferenceServerException, match="has no version '3'"):
        client.infer("cat", [photos(RED)], model_version="3")


def test_base64_in_json(server: Server) -> None:
    tensor = {"name": "photo", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]}
    reply = server.ask("/v2/models/cat/infer", json.dumps({"inputs": [tensor]}).encode())
    outputs = {entry["name"]: entry["data"] for entry in reply.json()["outputs"]}
    assert reply.status == 200
    assert outputs["label"] == ["cat"]


def test_nested_and_flat_json_are_the_same(server: Server) -> None:
    answers = []
    for data in (PIXELS.tolist(), PIXELS.ravel().tolist()):
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(PIXELS.shape), "data": data}
        answers.append(server.ask("/v2/models/cat/infer", json.dumps({"inputs": [tensor]}).encode()).json())
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (frames(PIXELS[:, :16], binary=True), "is not one of the model's"),
        (frames(PIXELS[0], binary=True), "is not one of the model's"),
        (frames(PIXELS[:0], binary=True), "has 0 photos"),
        (frames(np.repeat(PIXELS, 5, 0), binary=True), "has 10 photos"),
        (photos(b"no photo"), "Photo 0: "),
        (photos(RED, b""), "Photo 1: The photo has no bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_input_is_one_sentence(client: Any, tensor: Any, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("cat", [tensor])
    assert caught.value.status() == "400"
    assert client.infer("cat", [photos(RED)]).as_numpy("label")[0] == b"cat"


def test_a_wrong_type_is_one_sentence(client: Any) -> None:
    tensor = triton.InferInput("pixels", [1, SIDE, SIDE, 3], "FP32")
    tensor.set_data_from_numpy(PIXELS[:1].astype(np.float32))
    with pytest.raises(InferenceServerException, match="is FP32; an input is UINT8 or BYTES"):
        client.infer("cat", [tensor])


def test_an_unknown_model_output_or_pair_of_inputs(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="There is no model 'cow'"):
        client.infer("cow", [photos(RED)])
    with pytest.raises(InferenceServerException, match="no output 'milk'"):
        client.infer("cat", [photos(RED)], outputs=[triton.InferRequestedOutput("milk")])
    with pytest.raises(InferenceServerException, match="has 2 inputs"):
        client.infer("cat", [photos(RED), frames(PIXELS, binary=True)])


def test_many_frames_in_json_are_told_to_come_as_binary_data(quick: Path) -> None:
    with running(quick) as server:
        heavy = {"name": "pixels", "datatype": "UINT8", "shape": [400, SIDE, SIDE, 3]}
        heavy["data"] = [0] * (400 * SIDE * SIDE * 3)
        body = json.dumps({"inputs": [heavy]}).encode()
        reply = server.ask("/v2/models/cat/infer", body)
        assert reply.status == 413
        assert "as binary data" in reply.json()["error"]
        photo = base64.b64encode(RED + bytes(4_000_000)).decode()
        tensor = {"name": "photo", "datatype": "BYTES", "shape": [1], "data": [photo]}
        assert server.ask("/v2/models/cat/infer", json.dumps({"inputs": [tensor]}).encode()).status == 200


def test_parameters_may_be_null(server: Server) -> None:
    request = {"inputs": [{**GOOD, "parameters": None}], "parameters": None}
    request["outputs"] = [{"name": "label", "parameters": None}]
    assert server.ask("/v2/models/cat/infer", json.dumps(request).encode()).status == 200


GOOD = {"name": "pixels", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3], "data": PIXELS[0].tolist()}
TEXT = {"name": "photo", "datatype": "BYTES", "shape": [1], "data": ["!!"]}


@pytest.mark.parametrize(
    "request_body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"inputs": 3}',
        b'{"inputs": [3]}',
        b"\xff\xfe",
        *(
            json.dumps({"inputs": [{**GOOD, **change}]}).encode()
            for change in (
                {"data": [1, 2]},
                {"data": [[1], [2, 3]]},
                {"data": None},
                {"data": "cat"},
                {"data": [256] * (SIDE * SIDE * 3)},
                {"data": [-1] * (SIDE * SIDE * 3)},
                {"data": [0.5] * (SIDE * SIDE * 3)},
                {"data": [10**30] * (SIDE * SIDE * 3)},
                {"shape": [1, SIDE, SIDE, "3"]},
                {"shape": [-1, SIDE, SIDE, 3]},
                {"shape": [2**40, 2**40]},
                {"shape": None},
                {"name": None},
                {"datatype": ["UINT8"]},
                {"parameters": []},
                {"parameters": {"binary_data_size": 9}},
                {"parameters": {"binary_data_size": True}},
            )
        ),
        json.dumps({"inputs": [TEXT]}).encode(),
        json.dumps({"inputs": [{**TEXT, "data": [1]}]}).encode(),
        json.dumps({"inputs": [GOOD], "outputs": [3]}).encode(),
        json.dumps({"inputs": [GOOD], "outputs": {"a": 1}}).encode(),
        json.dumps({"inputs": [GOOD], "parameters": 3}).encode(),
    ],
)
def test_a_request_by_hand_that_is_none(server: Server, request_body: bytes) -> None:
    reply = server.ask("/v2/models/cat/infer", request_body)
    assert reply.status == 400
    assert isinstance(reply.json()["error"], str)


@pytest.mark.parametrize("length", ["9999999", "-1", "x", "", "9" * 5000])
def test_a_wrong_length_of_the_json_part(server: Server, length: str) -> None:
    body = json.dumps({"inputs": [GOOD]}).encode()
    assert server.ask("/v2/models/cat/infer", body, {"Inference-Header-Content-Length": length}).status == 400


@pytest.mark.parametrize("elements", [b"\x04\0\0\0abc", b"\xff\xff\xff\xffabc", b"\0\0", b""])
def test_bytes_elements_that_are_cut_short(server: Server, elements: bytes) -> None:
    tensor = {**TEXT, "parameters": {"binary_data_size": len(elements)}}
    del tensor["data"]
    head = json.dumps({"inputs": [tensor]}).encode()
    reply = server.ask(
        "/v2/models/cat/infer", head + elements, {"Inference-Header-Content-Length": str(len(head))}
    )
    assert reply.status == 400


def test_bytes_that_belong_to_no_tensor(server: Server) -> None:
    body = json.dumps({"inputs": [GOOD]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    assert server.ask("/v2/models/cat/infer", body + b"more", headers).status == 400
