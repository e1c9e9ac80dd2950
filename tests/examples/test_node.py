"""The Node client of examples/node conforms: golden cases, damaged bundles, photos as Python judges them."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import read_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.exporting.drawings import ROTATED
from catflap.exporting.export import export
from catflap.image import Frame, encode, resize
from catflap.runtime.classifier import Classifier

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
    *answers, told = answers
    missed = {answer["photo"]: answer for answer in answers if not answer["pass"]}
    assert set(missed) == NOT_REACHED
    assert missed["jpeg_half.jpg"]["value"] <= 6
    assert (code, told) == (1, {"vectors": len(answers), "failed": len(NOT_REACHED)})
    assert len(answers) == len(json.loads((folder / "vectors.json").read_text())["vectors"])


def run(client: Path, *words: object) -> tuple[int, list[dict[str, Any]]]:
    answer = subprocess.run(
        ["node", str(client), *map(str, words)], capture_output=True, text=True, check=False
    )
    return answer.returncode, [json.loads(line) for line in answer.stdout.splitlines()]


def test_the_golden_cases_pass(client: Path, framed: Path) -> None:
    code, (verdict,) = run(client, framed)
    assert (code, verdict["verdict"]) == (0, "pass"), verdict
    names = {check["name"] for check in verdict["checks"]}
    assert names == {f"golden:{name}" for name in read_bundle(framed).variants}


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


def test_what_is_no_photo_gets_a_sentence(client: Path, framed: Path, tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    code, (answer,) = run(client, framed, tmp_path / "page.jpg")
    assert code == 1
    assert answer["error"]
