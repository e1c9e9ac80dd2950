"""The Node client of examples/node conforms: golden cases, damaged bundles, photos as Python judges them."""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from catflap.artifacts.bundle import HEAD, encode_members, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.errors import BadArtifact
from catflap.exporting.export import export
from catflap.exporting.golden_cases import ROTATED, scene
from catflap.image import Frame, encode, read_pixels, resize
from catflap.runtime.classifier import Classifier
from tests.artifacts.samples import write_bundle
from tests.image.make_golden import FORMAT, SVG, ways, xmp

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(repo: Path) -> Path:
    """client.mjs with its packages installed beside it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no Node here; the example needs it")
    folder = repo / "examples" / "node"
    with open(Path(tempfile.gettempdir()) / "catflap-node.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules" / ".package-lock.json").is_file():
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "client.mjs"


Arrays = dict[str, np.ndarray]

# sharp reads no BMP and gives no CMYK and no scaled decode: its means of 2 × 2 pixels blur the chroma.
NOT_REACHED = {"bmp.bmp", "tiff_cmyk.tiff", "jpeg_cmyk.jpg", "jpeg_half.jpg"}


@pytest.fixture(scope="module")
def framed(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("framed") / "framed.catflap"
    export(drawn_checkpoint, drawn_dataset, path, variants=("fp32", "int8", "onnx-frame"))
    return path


def test_its_pixels_are_those_of_the_vectors(client: Path, repo: Path) -> None:
    folder = repo / "docs" / "reference" / "vectors"
    code, answers = run(client.with_name("vectors.mjs"), folder)
    *answers, counts = answers
    missed = {answer["photo"]: answer for answer in answers if not answer["pass"]}
    assert set(missed) == NOT_REACHED
    assert missed["jpeg_half.jpg"]["value"] <= 6
    assert (code, counts) == (1, {"vectors": len(answers), "failed": len(NOT_REACHED)})
    assert len(answers) == len(json.loads((folder / "vectors.json").read_text())["vectors"])


@pytest.mark.parametrize("orientation", [2, 5, 6, 8])
def test_every_way_to_tell_an_orientation(client: Path, tmp_path: Path, orientation: int) -> None:
    """Also XMP in a TIFF, which no vector has."""
    pixels = scene(1, 61, 47)
    photos = ways(pixels, orientation) | {
        "tiff_xmp": encode(pixels, "TIFF", tiffinfo={700: xmp(orientation)})
    }
    frame, vectors = Frame(41, 29, fit="crop"), []
    for way, photo in photos.items():
        (tmp_path / way).write_bytes(photo)
        (tmp_path / f"{way}.png").write_bytes(encode(read_pixels(photo, frame), "PNG"))
        vectors.append({"photo": way, "frame": frame.to_json(), "pixels": f"{way}.png", "tolerance": 4})
    (tmp_path / "vectors.json").write_text(json.dumps({**FORMAT, "vectors": vectors}))
    code, answers = run(client.with_name("vectors.mjs"), tmp_path)
    assert (code, answers[-1]) == (0, {"vectors": len(photos), "failed": 0}), answers


def run(client: Path, *words: object) -> tuple[int, list[dict[str, Any]]]:
    answer = subprocess.run(
        ["node", str(client), *map(str, words)], capture_output=True, text=True, check=False
    )
    return answer.returncode, [json.loads(line) for line in answer.stdout.splitlines()]


def test_the_golden_cases_pass(client: Path, framed: Path) -> None:
    code, (verdict,) = run(client, framed)
    assert (code, verdict["verdict"]) == (0, "pass"), verdict
    names = {check["name"] for check in verdict["checks"]}
    assert names == {
        f"{kind}:{name}" for kind in ("golden", "decisions") for name in load_bundle(framed).variants
    }


@pytest.mark.parametrize("change", [{"temperature": 9.0}, {"decision": {"threshold": 1.0, "rule": "top"}}])
def test_another_temperature_or_threshold_does_not_pass(
    client: Path, framed: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    members = {name: bytes(data) for name, data in load_bundle(framed).members.items()}
    head = json.loads(members[HEAD])
    head["variants"]["int8"].update(change)
    members[HEAD] = json.dumps(head).encode()
    path = tmp_path / "changed.catflap"
    path.write_bytes(encode_members(members))
    code, (verdict,) = run(client, path)
    assert (code, verdict["verdict"]) == (1, "fail")
    assert [check["name"] for check in verdict["checks"] if not check["pass"]] == ["decisions:int8"]


def test_no_damaged_bundle_gets_an_answer(client: Path, framed: Path, tmp_path: Path) -> None:
    whole = framed.read_bytes()
    path = tmp_path / "damaged.catflap"
    for place in np.random.default_rng(0).integers(0, len(whole), 8).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        code, (answer,) = run(client, path)
        assert code != 0
        assert "error" in answer
    path.write_bytes(whole[:-1])
    assert run(client, path)[0] != 0


def changed(bundle: Path, out: Path, **files: bytes) -> Path:
    """The Bundle with other bytes in some of its files, listed with the right hash."""
    opened = load_bundle(bundle)
    head = {name: value for name, value in opened.head.items() if name not in ("catflap_bundle", "files")}
    members = {name: bytes(data) for name, data in opened.members.items() if name != HEAD}
    write_bundle(out, head, {**members, **files})
    return out


def with_a_nan(rows: Arrays, off: float) -> Arrays:
    """The logits of fp32 in which one number is none and the others are off."""
    logits = rows["logits.fp32"] + np.float32(off)
    logits[1, 0] = np.nan
    return {**rows, "logits.fp32": logits}


UNFIT: dict[str, Callable[[Arrays], Arrays]] = {
    "no number": lambda rows: with_a_nan(rows, 0),
    "no number, the others off": lambda rows: with_a_nan(rows, 5),
    "infinite": lambda rows: {**rows, "logits.int8": np.full_like(rows["logits.int8"], np.inf)},
    "fewer labels": lambda rows: {**rows, "logits.fp32": rows["logits.fp32"][:, :1]},
    "fewer cases": lambda rows: {**rows, "logits.fp32": rows["logits.fp32"][:1]},
    "no logits": lambda rows: {name: array for name, array in rows.items() if name != "logits.int8"},
    "decisions in 64 bits": lambda rows: {**rows, "decisions.fp32": rows["decisions.fp32"].astype(np.int64)},
    "no probes": lambda rows: {name: array for name, array in rows.items() if name != "probes.fp32"},
    "fewer frames": lambda rows: {**rows, "frames": rows["frames"][:1]},
    "no frames": lambda rows: {**rows, "frames": rows["frames"][:0]},
    "frames of another shape": lambda rows: {
        **rows,
        "frames": rows["frames"].reshape(len(rows["frames"]), -1, rows["frames"].shape[2] // 2, 3),
    },
    "ends out of order": lambda rows: {**rows, "ends": rows["ends"][::-1].copy()},
}


@pytest.mark.parametrize("name", UNFIT)
def test_golden_cases_that_do_not_fit_are_refused(
    client: Path, framed: Path, tmp_path: Path, name: str
) -> None:
    with np.load(io.BytesIO(bytes(load_bundle(framed).members["golden.npz"]))) as arrays:
        rows = UNFIT[name](dict(arrays))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **rows)
    path = changed(framed, tmp_path / "unfit.catflap", **{"golden.npz": buffer.getvalue()})
    code, (answer,) = run(client, path)
    assert code == 1
    assert "the golden" in answer["error"]


HEADS: dict[str, Callable[[dict[str, Any]], object]] = {
    "threshold": lambda head: head["variants"]["fp32"]["decision"].pop("threshold"),
    "the threshold": lambda head: head["variants"]["fp32"]["decision"].update(threshold="0.5"),
    "the threshold of fp32": lambda head: head["variants"]["fp32"]["decision"].update(threshold=2),
    "tolerance": lambda head: head["variants"]["fp32"].update(tolerance="9999"),
    "the tolerance": lambda head: head["variants"]["fp32"].update(tolerance=1e300),
    "the tolerance of fp32": lambda head: head["variants"]["fp32"].update(tolerance=0),
    "labels": lambda head: head.update(labels=[head["labels"][0]] * 2),
    "the variant fp32": lambda head: head["variants"]["fp32"].update(file="none.onnx"),
    "no variants": lambda head: head.update(variants={}),
    "not list its files": lambda head: head.pop("files"),
    "list its files": lambda head: head.update(files=None),
    "golden": lambda head: head["golden"].update(file="none.npz"),
    "other fields": lambda head: head["frame"].update(mean=0.5),
    "the fit": lambda head: head["frame"].update(fit="stretch"),
    "format": lambda head: head.update(catflap_bundle="2.0"),
}
TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "no object": lambda _: b"null",
    "not JSON": lambda head: b"\xef\xbb\xbf" + head,
    "twice": lambda head: head.rstrip()[:-1] + b', "a": {"b\\"{": [":"], "c": 1, "\\u0063" : 2}}',
    "64 deep": lambda head: head.rstrip()[:-1] + b', "a": ' + b"[" * 3000 + b"]" * 3000 + b"}",
}


@pytest.mark.parametrize("defect", [*HEADS, *TEXTS])
def test_a_head_that_python_refuses_is_refused(
    client: Path, framed: Path, tmp_path: Path, defect: str
) -> None:
    members = {name: bytes(data) for name, data in load_bundle(framed).members.items()}
    if defect in HEADS:
        head = json.loads(members[HEAD])
        HEADS[defect](head)
        members[HEAD] = json.dumps(head).encode()
    else:
        members[HEAD] = TEXTS[defect](members[HEAD])
    path = tmp_path / "odd.catflap"
    path.write_bytes(encode_members(members))
    with pytest.raises(BadArtifact):
        load_bundle(path)
    code, (answer,) = run(client, path)
    assert code == 1
    assert defect in answer["error"]


def without_numbers(model: bytes) -> bytes:
    """The graph with weights that are no numbers."""
    graph = onnx.load_from_string(model)
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return bytes(graph.SerializeToString())


@pytest.mark.parametrize("name", ["fp32", "onnx-frame"])
def test_answers_that_are_no_numbers_do_not_pass(
    client: Path, framed: Path, tmp_path: Path, name: str
) -> None:
    opened = load_bundle(framed)
    file = opened.variants[name].file
    model = without_numbers(bytes(opened.members[file]))
    path = changed(framed, tmp_path / "nan.catflap", **{file: model})
    code, (verdict,) = run(client, path)
    assert (code, verdict["verdict"]) == (1, "fail")
    assert [check["name"] for check in verdict["checks"] if not check["pass"]] == [f"golden:{name}"]
    if name == "onnx-frame":
        (tmp_path / "photo.png").write_bytes(encode(np.zeros((40, 50, 3), np.uint8), "PNG"))
        code, (answer,) = run(client, path, tmp_path / "photo.png")
        assert code == 1
        assert "finite number" in answer["error"]


def test_real_photos_are_judged_as_python_judges_them(client: Path, framed: Path, tmp_path: Path) -> None:
    """scikit-image's free photos: PNG, JPEG, turned by EXIF, and large enough for a scaled decode."""
    data = pytest.importorskip("skimage.data")
    photos = {
        "chelsea.png": encode(data.chelsea(), "PNG"),
        "astronaut.jpg": encode(data.astronaut(), "JPEG", quality=95),
        "coffee.jpg": encode(data.coffee(), "JPEG", quality=92, exif=ROTATED),
        "rocket.jpg": encode(resize(data.rocket(), Frame(1280, 854)), "JPEG", quality=95),
    }
    for name, photo in photos.items():
        (tmp_path / name).write_bytes(photo)
    code, answers = run(client, framed, *(tmp_path / name for name in photos))
    assert code == 0, answers
    classifier = Classifier(framed, "fp32")
    for answer, photo in zip(answers, photos.values(), strict=True):
        expected = classifier(photo)
        assert answer["label"] == expected.label
        assert answer["probability"] == pytest.approx(expected.probability, abs=0.02), answer["path"]


@pytest.fixture(scope="module")
def refusing(three_labels: Checkpoint) -> Path:
    """A bundle of three labels, which calls photos of other things unknown."""
    path = three_labels.path.with_name("refusing.catflap")
    export(three_labels, load_dataset(three_labels.dataset_path), path, variants=("int8", "onnx-frame"))
    return path


def test_unknown_is_told_as_python_tells_it(client: Path, refusing: Path, tmp_path: Path) -> None:
    code, (verdict,) = run(client, refusing)
    assert (code, verdict["verdict"]) == (0, "pass"), verdict
    assert {"unknown:int8", "unknown:onnx-frame"} <= {check["name"] for check in verdict["checks"]}
    paths = sorted((refusing.parent / "photos").rglob("*.jpg"))[::15]
    for number, colour in enumerate([(255, 255, 255), (0, 0, 0), (255, 0, 255), (0, 255, 255)]):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode(np.full((64, 64, 3), colour, np.uint8), "PNG"))
    code, answers = run(client, refusing, *paths)
    assert code == 0, answers
    classifier = Classifier(refusing, "onnx-frame")
    expected = [classifier(path).decision for path in paths]
    assert [answer["decision"] for answer in answers] == expected
    assert "unknown" in expected
    assert set(expected) & {"cat", "other", "third"}


def test_a_changed_ood_threshold_or_baseline_does_not_pass(
    client: Path, refusing: Path, tmp_path: Path
) -> None:
    opened = load_bundle(refusing)
    members = {name: bytes(data) for name, data in opened.members.items()}
    path = tmp_path / "changed.catflap"

    def verify_changed(change: Callable[[dict[str, Any]], object]) -> tuple[int, dict[str, Any]]:
        head = json.loads(members[HEAD])
        change(head["variants"]["onnx-frame"])
        path.write_bytes(encode_members({**members, HEAD: json.dumps(head).encode()}))
        code, (answer,) = run(client, path)
        return code, answer

    code, verdict = verify_changed(lambda variant: variant["unknown"].update(threshold=1e5))
    assert code == 1
    assert [check["name"] for check in verdict["checks"] if not check["pass"]] == ["unknown:onnx-frame"]
    code, verdict = verify_changed(lambda variant: variant.pop("baseline"))
    assert code == 1
    assert "without a baseline" in verdict["error"]


def test_what_is_no_photo_gets_a_sentence(client: Path, framed: Path, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    code, (answer,) = run(client, framed, tmp_path / "page.jpg")
    assert code == 1
    assert answer["error"]
    (tmp_path / "drawing.png").write_bytes(SVG)
    (tmp_path / "long.png").write_bytes(encode(np.zeros((1, 70_000, 3), np.uint8), "PNG"))
    code, answers = run(client, framed, tmp_path / "drawing.png", tmp_path / "long.png")
    assert code == 1
    errors = [answer["error"] for answer in answers]
    assert errors == ["Its format is none of the Frame's.", "The photo has too many pixels."]
