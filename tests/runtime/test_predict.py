"""Many paths, one answer each: bad photos spoil only themselves."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.cli.main import main
from catflap.data.listing import PHOTO_SUFFIXES
from catflap.errors import BadPhoto, Refused
from catflap.exporting.golden_cases import scene
from catflap.image import encode
from catflap.runtime.classifier import SUFFIXES, Classifier, Prediction, list_photos, predict
from catflap.serving.http_messages import HttpError
from tests.serving.bundles import make_bundle


@pytest.fixture
def classifier(tiny_bundle: Path) -> Classifier:
    return Classifier(tiny_bundle, threads=1)


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(scene(seed, 40, 30), "PNG"))
    return path


def test_answers_come_in_the_order_of_the_paths(classifier: Classifier, tmp_path: Path) -> None:
    paths = [photo(tmp_path / f"{n}.png", n) for n in (3, 1, 2)]
    found = list(predict(classifier, paths))
    assert [path for path, _ in found] == [str(path) for path in paths]
    assert all(isinstance(answer, Prediction) for _, answer in found)


def test_one_path_alone_is_one_path(classifier: Classifier, tmp_path: Path) -> None:
    """Its letters are none."""
    path = photo(tmp_path / "a.png")
    assert [found for found, _ in predict(classifier, str(path))] == [str(path)]
    assert [found for found, _ in predict(classifier, path)] == [str(path)]


def test_what_is_for_watch_or_has_no_name_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "clip.MP4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(5000))
    (tmp_path / "bad.jpg").write_bytes(b"x")
    names = ["-", "http://camera/shot.jpg", str(tmp_path / "pipe"), str(tmp_path / "clip.MP4")]
    command = [Path(sys.executable).with_name("catflap"), "predict", tiny_bundle, "--json"]
    answer = subprocess.run([*command, *names, str(tmp_path / "bad.jpg"), ""], capture_output=True)
    assert answer.returncode == 1
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [line["path"] for line in lines] == [*names, str(tmp_path / "bad.jpg"), ""]
    assert ["catflap watch" in line["error"]["fix"] for line in lines] == [True] * 4 + [False] * 2
    assert lines[-1]["error"]["what"] == "The name of a photo is empty."


def _raised(path: str) -> str:
    raise BadPhoto("unreadable", f"{path} cannot be read.", "Check it.")


def test_a_bundle_or_its_name_stands_for_its_classifier(tiny_bundle: Path, tmp_path: Path) -> None:
    path = photo(tmp_path / "photo.png")
    (_, expected) = next(predict(Classifier(tiny_bundle), path))
    assert isinstance(expected, Prediction)
    for opened in (tiny_bundle, str(tiny_bundle), load_bundle(tiny_bundle)):
        ((name, answer),) = predict(opened, [path])
        assert isinstance(answer, Prediction)
        assert (name, answer.probabilities) == (str(path), expected.probabilities)
    ((_, answer),) = predict("cat", path)
    assert isinstance(answer, Prediction)
    assert set(answer.probabilities) == {"cat", "not_cat"}


def test_errors_travel_between_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_raised, "x.jpg").exception(timeout=60)
    assert isinstance(error, BadPhoto)
    assert (error.reason, error.what, error.fix) == ("unreadable", "x.jpg cannot be read.", "Check it.")
    for each in (Refused("No.", "Do."), HttpError(413, "Large.", "Less.", {"a": "b"})):
        again = pickle.loads(pickle.dumps(each))
        assert (type(again), vars(again), str(again)) == (type(each), vars(each), str(each))


def test_a_folder_stands_for_its_photos_in_order(classifier: Classifier, tmp_path: Path) -> None:
    names = ["a.png", "b/c.PNG", "b/d/e.png", "c.png"]
    for name in names:
        photo(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    photo(tmp_path / ".hidden" / "f.png")
    assert [path for path, _ in predict(classifier, [tmp_path])] == [str(tmp_path / name) for name in names]


def test_bad_photos_spoil_only_themselves(classifier: Classifier, tmp_path: Path) -> None:
    good = photo(tmp_path / "a-good.png")
    (tmp_path / "b-cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "c-empty.jpg").touch()
    (tmp_path / "d-page.jpg").write_text("<!doctype html><title>404</title>")
    (tmp_path / "e-dangling.jpg").symlink_to("nowhere")
    (tmp_path / "f-phone.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(40))
    photo(tmp_path / "g-good.png")
    found = dict(predict(classifier, [tmp_path, tmp_path / "none.jpg"]))
    reasons = {Path(path).name: getattr(answer, "reason", "ok") for path, answer in found.items()}
    heic = "damaged" if find_spec("pi_heif") else "unsupported_format"
    assert reasons == {
        "a-good.png": "ok", "b-cut.png": "truncated", "c-empty.jpg": "empty", "d-page.jpg": "not_a_photo",
        "e-dangling.jpg": "unreadable", "f-phone.heic": heic, "g-good.png": "ok",
        "none.jpg": "unreadable",
    }  # fmt: skip


def test_a_name_that_is_not_utf_8_is_answered(classifier: Classifier, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9-\xff.png")
    photo(tmp_path / name)
    ((path, answer),) = predict(classifier, [tmp_path])
    assert path == str(tmp_path / name)
    assert isinstance(answer, Prediction)
    ((_, missing),) = predict(classifier, [tmp_path / f"no-{name}"])
    assert isinstance(missing, BadPhoto)
    missing.what.encode("utf-8")


def test_an_empty_folder_is_said_to_be_empty(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    ((path, answer),) = predict(classifier, [tmp_path])
    assert path == str(tmp_path)
    assert isinstance(answer, BadPhoto)
    assert answer.reason == "empty"


def test_what_scan_takes_for_a_photo_is_one() -> None:
    assert set(SUFFIXES) >= PHOTO_SUFFIXES


def test_links_are_followed_but_not_in_circles(classifier: Classifier, tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "deep" / "up").symlink_to(tmp_path / "photos")
    found = [path for path, _ in predict(classifier, [tmp_path / "photos"])]
    assert found == [str(tmp_path / "photos" / "linked" / "a.png")]


def test_a_folder_that_cannot_be_listed_is_named() -> None:
    """As a user without rights, in a child process; root may list everything."""
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        photo(root / "open.png")
        photo(root / "shut" / "a.png").parent.chmod(0o000)
        child = os.fork()
        if not child:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            found = [(path, fault and fault.reason) for path, fault in list_photos(str(root))]
            expected = [(str(root / "open.png"), None), (str(root / "shut"), "unreadable")]
            os._exit(0 if found == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        (root / "shut").chmod(0o755)
        shutil.rmtree(root)


def test_predict_decides_at_another_error_rate_of_the_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same photo, a cat with 0.731: decided at 3 %, where 0.7 is enough, and unsure at 1 %."""
    curve = [
        {"error_rate": 0.01, "threshold": 0.9, "unsure": 0.4},
        {"error_rate": 0.03, "threshold": 0.7, "unsure": 0.1},
    ]
    decision = {"threshold": 0.7, "error_rate": 0.03, "photos": 100, "rule": "top", "curve": curve}
    bundle = make_bundle(tmp_path / "cat.catflap", decision=decision)
    path = tmp_path / "photo.png"
    path.write_bytes(encode(np.full((40, 40, 3), (138, 0, 128), np.uint8), "PNG"))

    def decided(*options: str, code: int = 0) -> dict[str, Any]:
        assert main(["predict", str(bundle), str(path), "--json", *options]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert decided()["probability"] == pytest.approx(0.731, abs=1e-3)
    words = {rate: decided("--error-rate", rate)["decision"] for rate in ("0.01", "0.02", "0.03", "0.5")}
    assert words == {"0.01": "unsure", "0.02": "unsure", "0.03": "cat", "0.5": "cat"}
    assert decided()["decision"] == "cat"
    assert "cannot promise the error rate 0.001" in decided("--error-rate", "0.001", code=2)["error"]["what"]
    both = decided("--error-rate", "0.01", "--operating-point", "cat:max_fpr=0.1", code=2)
    assert "both" in both["error"]["what"]
    assert copy.copy(Classifier(bundle, error_rate=0.01))(path).decision == "unsure"
