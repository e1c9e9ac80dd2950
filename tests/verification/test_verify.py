"""A Verdict for whatever file is given: pass for what was exported, fail for anything else, never a crash."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import catflap
from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.golden import MAX_BYTES, read_golden
from catflap.artifacts.results import Verdict
from catflap.cli.main import main
from catflap.errors import BadArtifact, CatflapError
from catflap.exporting.export import PIXEL_TOLERANCE
from catflap.exporting.golden_cases import drawn_photos
from catflap.image import Frame, read_pixels
from catflap.runtime.classifier import Classifier
from catflap.runtime.engine_onnx import open_model
from catflap.verification.verify import verify
from tests.artifacts.samples import write_bundle
from tests.runtime import models
from tests.runtime.models import reworked
from tests.tiny import Exported

Arrays = dict[str, np.ndarray]
SRC = Path(catflap.__file__).parents[1]


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def test_what_was_exported_passes(drawn_bundle: Exported) -> None:
    verdict = verify(drawn_bundle.path)
    assert verdict.passed
    names = ["golden:fp32", "decisions:fp32", "golden:int8", "decisions:int8"]
    assert [check.name for check in verdict.checks] == ["integrity", "pixels", *names]
    answer = verdict.to_json()
    assert answer["verdict"] == "pass"
    assert all(set(check) == {"name", "pass", "value", "limit"} for check in answer["checks"])
    assert json.loads(json.dumps(answer)) == answer


@pytest.mark.slow
def test_the_base_installation_passes_and_asks_only_for_what_the_bundle_holds(base_python: Path) -> None:
    code = "from catflap.cli.main import run; run()"
    answer = subprocess.run(
        [base_python, "-c", code, "verify", "cat", "--json"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    verdict = json.loads(answer.stdout)
    assert verdict["verdict"] == "pass"
    assert list(verdict["not_run"]) == ["litert-int8"]
    assert verdict["not_run"]["litert-int8"].endswith("pip install ai-edge-litert")


@pytest.mark.parametrize("threads", [1, 2])
def test_it_passes_whatever_the_threads(drawn_bundle: Exported, threads: int) -> None:
    assert verify(drawn_bundle.path, threads=threads).passed


def test_no_flipped_byte_passes(drawn_bundle: Exported, tmp_path: Path) -> None:
    """300 places by chance, and one bit, all bits or a zero in each."""
    whole = drawn_bundle.path.read_bytes()
    random, path = np.random.default_rng(1), tmp_path / "flipped.catflap"
    path.write_bytes(whole)
    with open(path, "r+b", buffering=0) as file:
        for number, place in enumerate(random.integers(0, len(whole), 300).tolist()):
            flip = (1 << int(random.integers(8)), 255, whole[place] or 1)[number % 3]
            os.pwrite(file.fileno(), bytes([whole[place] ^ flip]), place)
            assert failed(verify(path)) == ["integrity"], f"byte {place}"
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    assert verify(path).passed


def test_no_cut_file_passes(drawn_bundle: Exported, tmp_path: Path) -> None:
    whole = drawn_bundle.path.read_bytes()
    path = tmp_path / "cut.catflap"
    for length in [*np.random.default_rng(2).integers(0, len(whole), 50).tolist(), 0, 1, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert failed(verify(path)) == ["integrity"], f"{length} bytes"


def test_a_failed_verdict_exits_1_and_no_file_exits_2(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.catflap"
    path.write_bytes(drawn_bundle.path.read_bytes()[:-1])
    assert main(["verify", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "fail"
    for other in (tmp_path, tmp_path / "none.catflap"):
        assert main(["verify", str(other), "--json"]) == 2
        assert "error" in json.loads(capsys.readouterr().out)


def test_the_same_network_with_other_weights_fails(drawn_bundle: Exported, tmp_path: Path) -> None:
    """The zip and every hash are right; only the golden cases can tell."""
    import onnx

    members = load_bundle(drawn_bundle.path).members
    for variant in ("fp32", "int8"):
        model = onnx.load_from_string(bytes(members[f"{variant}.onnx"]))
        for tensor in model.graph.initializer:
            if list(tensor.dims)[:1] == [2]:  # the head: swap what speaks for the two labels
                values = onnx.numpy_helper.to_array(tensor)[::-1].copy()
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        path = reworked(drawn_bundle.path, tmp_path / "other.catflap", model.SerializeToString(), variant)
        assert failed(verify(path)) == [f"golden:{variant}"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.colour_model(np.ones((3, 2)), source=models.FLOAT),
        lambda: models.colour_model(np.ones((3, 2)), source=models.INT64),
        lambda: models.colour_model(np.ones((3, 2)), side=64),
        lambda: models.colour_model(np.ones((3, 7))),
        lambda: models.colour_model(np.ones((3, 2)), scale=np.nan),
        lambda: models.colour_model(np.ones((3, 2)), scale=np.inf),
        models.two_outputs,
        models.integer_output,
        models.sequence_output,
        models.pixels_as_output,
        lambda: b"no model",
    ],
    ids=["float input", "int64 input", "other frame", "other labels", "nan", "infinite", "two outputs",
         "integer output", "sequence output", "pixels as output", "no model"],
)  # fmt: skip
def test_a_foreign_model_fails(tiny_bundle: Path, tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = reworked(tiny_bundle, tmp_path / "foreign.catflap", make())
    assert failed(verify(path)) == ["golden:fp32"]


def test_external_data_fails(tiny_bundle: Path, tmp_path: Path) -> None:
    path = reworked(tiny_bundle, tmp_path / "out.catflap", models.with_external_data(tmp_path / "secret"))
    check = verify(path).checks[-1]
    assert not check.passed
    assert "in other files" in str(check.value)


def with_golden(bundle: Path, out: Path, change: Callable[[Arrays], Any], **head: Any) -> Path:
    """The Bundle with other golden arrays, or other bytes in their place, listed with the right hash."""
    opened = load_bundle(bundle)
    files = {name: bytes(data) for name, data in opened.members.items() if name != HEAD}
    with np.load(io.BytesIO(files["golden.npz"])) as arrays:
        changed = change(dict(arrays))
    if not isinstance(changed, bytes):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **changed)
        changed = buffer.getvalue()
    files["golden.npz"] = changed
    fields = {name: value for name, value in opened.head.items() if name not in ("catflap_bundle", "files")}
    write_bundle(out, {**fields, **head}, files)
    return out


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


def npy_that_claims(shape: tuple[int, ...]) -> bytes:
    """An .npy header of a large shape, and no data behind it."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


NESTING = b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000
HOSTILE: dict[str, Callable[[Arrays], Any]] = {
    "no frames": without("frames"),
    "no logits": without("logits.fp32"),
    "no photos": without("photos"),
    "no ends": without("ends"),
    "objects": lambda arrays: {**arrays, "frames": np.array([{}, {}], object)},
    "float frames": lambda arrays: {**arrays, "frames": arrays["frames"].astype(np.float32)},
    "other frames": lambda arrays: {**arrays, "frames": arrays["frames"][:, :16]},
    "fewer frames": lambda arrays: {**arrays, "frames": arrays["frames"][1:]},
    "fewer logits": lambda arrays: {**arrays, "logits.fp32": arrays["logits.fp32"][:, :1]},
    "text as logits": lambda arrays: {**arrays, "logits.fp32": np.full((4, 2), "1.0")},
    "logits that are no numbers": lambda arrays: {**arrays, "logits.fp32": np.full((4, 2), np.nan, "f4")},
    "ends beyond": lambda arrays: {**arrays, "ends": arrays["ends"] * 2},
    "ends before": lambda arrays: {**arrays, "ends": -arrays["ends"]},
    "ends in disorder": lambda arrays: {**arrays, "ends": arrays["ends"][::-1].copy()},
    "ends that are floats": lambda arrays: {**arrays, "ends": arrays["ends"].astype(float)},
    "ends without a shape": lambda arrays: {**arrays, "ends": np.int64(3)},
    "a pickle": lambda arrays: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "no zip": lambda arrays: b"golden",
    "nothing": lambda arrays: b"",
    "an npy alone": lambda arrays: npy_that_claims((4, 32, 32, 3)) + bytes(4 * 32 * 32 * 3),
    "a shape of petabytes": lambda arrays: zipped(frames=npy_that_claims((1 << 50,))),
    "a shape of gigabytes": lambda arrays: zipped(frames=npy_that_claims((1 << 34,))),
    "a negative shape": lambda arrays: zipped(frames=npy_that_claims((-4, 32, 32, 3))),
    "a zip bomb": lambda arrays: zipped(frames=npy_that_claims((MAX_BYTES,)) + bytes(MAX_BYTES)),
    "a header that nests": lambda arrays: zipped(frames=NESTING),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_golden_cases_fail(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    path = with_golden(tiny_bundle, tmp_path / "hostile.catflap", HOSTILE[name])
    assert failed(verify(path)) == ["integrity"]


def test_pixels_that_this_machine_makes_otherwise_fail(tiny_bundle: Path, tmp_path: Path) -> None:
    limit = load_bundle(tiny_bundle).head["golden"]["pixel_tolerance"]

    def brighter(by: int) -> Callable[[Arrays], Arrays]:
        return lambda arrays: {**arrays, "frames": np.minimum(arrays["frames"], 255 - by) + np.uint8(by)}

    assert "pixels" not in failed(verify(with_golden(tiny_bundle, tmp_path / "a.catflap", brighter(limit))))
    assert "pixels" in failed(verify(with_golden(tiny_bundle, tmp_path / "b.catflap", brighter(limit + 1))))


def test_a_golden_photo_that_cannot_be_read_fails(tiny_bundle: Path, tmp_path: Path) -> None:
    path = with_golden(
        tiny_bundle, tmp_path / "x.catflap", lambda arrays: {**arrays, "photos": arrays["photos"] * 0}
    )
    verdict = verify(path)
    assert failed(verdict) == ["pixels"]
    assert "not a photo" in str(verdict.checks[1].value)


def test_answers_beyond_their_tolerance_fail(tiny_bundle: Path, tmp_path: Path) -> None:
    tolerance = load_bundle(tiny_bundle).variant().tolerance

    def shifted(by: float) -> Callable[[Arrays], Arrays]:
        return lambda arrays: {**arrays, "logits.fp32": arrays["logits.fp32"] + np.float32(by)}

    assert verify(with_golden(tiny_bundle, tmp_path / "a.catflap", shifted(0.9 * tolerance))).passed
    path = with_golden(tiny_bundle, tmp_path / "b.catflap", shifted(1.1 * tolerance))
    assert failed(verify(path)) == ["golden:fp32"]


def test_golden_photos_come_back(tiny_bundle: Path) -> None:
    golden = read_golden(load_bundle(tiny_bundle))
    assert len(golden.photos) == len(golden.frames) == 4
    assert all(photo.startswith(b"\x89PNG") for photo in golden.photos)


@pytest.mark.parametrize("side", [96, 128, *(pytest.param(n, marks=pytest.mark.slow) for n in (192, 352))])
def test_a_device_that_decodes_otherwise_fails(tiny_bundle: Path, tmp_path: Path, side: int) -> None:
    """A bundle.json that says `full` of golden cases made `scaled` stands for a device that does so."""
    frame = Frame(side, side)
    photos = drawn_photos(frame)
    frames = np.stack([read_pixels(photo, frame) for photo in photos])
    graph = models.colour_model(np.ones((3, 2)) / 255, side=side)
    arrays = {
        "photos": np.frombuffer(b"".join(photos), np.uint8),
        "ends": np.cumsum([len(photo) for photo in photos]),
        "frames": frames,
        "logits.fp32": open_model(graph)(frames),
    }
    golden = {"file": "golden.npz", "cases": len(photos), "pixel_tolerance": PIXEL_TOLERANCE}
    found = {}
    for decode in ("scaled", "full"):
        fields = {"frame": {**frame.to_json(), "decode": decode}, "golden": golden}
        path = with_golden(tiny_bundle, tmp_path / "made.catflap", lambda _: arrays, **fields)
        found[decode] = failed(verify(reworked(path, tmp_path / f"{decode}.catflap", graph)))
    assert found == {"scaled": [], "full": ["pixels"]}


def test_an_input_of_another_name_fails(tiny_bundle: Path, tmp_path: Path) -> None:
    """The camera page and the Node client feed by the name that bundle.json states."""
    about = {**load_bundle(tiny_bundle).head["input"], "name": "nope"}
    path = with_golden(tiny_bundle, tmp_path / "named.catflap", lambda arrays: arrays, input=about)
    assert failed(verify(path)) == ["golden:fp32"]


@pytest.mark.parametrize("width", [127, 128, 129])
def test_a_baseline_of_another_width_than_the_embedding_fails(
    drawn_bundle: Exported, tmp_path: Path, width: int
) -> None:
    """Stated by the graph or not; the first photo that is recorded would be an error otherwise."""
    import onnx

    bundle = load_bundle(drawn_bundle.path)
    about = {"groups": 5, "length": 0.5, "axes": "", "limit": 0.1, "ood_score": [0, 1]}
    about["mean"] = base64.b64encode(bytes([1]) * width).decode()
    variants = json.loads(json.dumps(bundle.head["variants"]))
    labels = {label: {"share": 0.5, "embedding": about} for label in bundle.labels}
    variants["fp32"]["baseline"] = {"photos": 9, "labels": labels}
    path = with_golden(drawn_bundle.path, tmp_path / "wide.catflap", lambda arrays: arrays, variants=variants)
    graph = onnx.load_from_string(bytes(bundle.members["fp32.onnx"]))
    graph.graph.output[1].type.tensor_type.shape.dim[1].dim_param = "width"
    silent = reworked(path, tmp_path / "silent.catflap", graph.SerializeToString())
    fits = width == 128
    assert failed(verify(path)) == failed(verify(silent)) == ([] if fits else ["golden:fp32"])
    with nullcontext() if fits else pytest.raises(BadArtifact, match="baseline"):
        Classifier(path, "fp32")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_a_number_fails(tiny_bundle: Path, tmp_path: Path, value: float) -> None:
    """Its logits pass; the first photo that is recorded would be an error otherwise."""
    import onnx

    model = onnx.load_from_string(bytes(load_bundle(tiny_bundle).members["fp32.onnx"]))
    node, shape = onnx.helper.make_node("Mul", ["logits", "odd"], ["embedding"]), ["n", 2]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), "odd"))
    model.graph.node.append(node)
    model.graph.output.append(onnx.helper.make_tensor_value_info("embedding", models.FLOAT, shape))
    path = reworked(tiny_bundle, tmp_path / "odd.catflap", model.SerializeToString())
    (check,) = [check for check in verify(path).checks if not check.passed]
    assert (check.name, check.value) == ("golden:fp32", "embeddings that are not finite")


def test_a_verdict_does_not_vouch_for_bundle_json(drawn_bundle: Exported, tmp_path: Path) -> None:
    """No hash in the file covers it: who changes it changes the sha256 that is printed, and that is all."""
    bundle = load_bundle(drawn_bundle.path)
    turned = list(reversed(bundle.labels))
    path = with_golden(drawn_bundle.path, tmp_path / "turned.catflap", lambda arrays: arrays, labels=turned)
    before, after = verify(drawn_bundle.path), verify(path)
    assert after.passed
    assert after.checks[0].value != before.checks[0].value
    assert after.checks[0].limit == "every file as its bundle.json lists it"


@pytest.mark.parametrize("path", ["", "none", "\0", "x" * 5000])
def test_what_is_no_file_is_one_error(path: str) -> None:
    with pytest.raises(CatflapError):
        verify(path)
