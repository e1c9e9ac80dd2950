"""One photo in, one Prediction out: from whatever the photo comes, in any thread, for any prior."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.exporting.golden_cases import drawn_photos, scene
from catflap.image import encode
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import complete_prior, parse_prior
from catflap.runtime.engine import engine_error
from catflap.verification.verify import verify
from tests.artifacts.samples import write_bundle
from tests.runtime.models import colour_model, reworked
from tests.tiny import Exported, drawn

SKEWED = {"cold": 0.5, "warm": 0.5}


def answers(classifier: Classifier, photo: object) -> dict[str, float]:
    return classifier(photo).probabilities  # type: ignore[arg-type]


def test_path_bytes_image_and_array_agree(tiny_bundle: Path, tmp_path: Path) -> None:
    classifier = Classifier(tiny_bundle)
    pixels = scene(3, 90, 70)
    data = encode(pixels, "PNG")
    (tmp_path / "photo.png").write_bytes(data)
    expected = answers(classifier, pixels)
    for photo in (tmp_path / "photo.png", str(tmp_path / "photo.png"), data, Image.open(BytesIO(data))):
        assert answers(classifier, photo) == expected
    for photo in (bytearray(data), memoryview(data), BytesIO(data)):
        assert answers(classifier, photo) == expected
    with open(tmp_path / "photo.png", "rb") as file:
        assert answers(classifier, file) == expected
    assert answers(classifier, np.asfortranarray(pixels)) == expected
    assert answers(classifier, pixels[::2]) == answers(classifier, pixels[::2].copy())


def test_every_kind_of_photo_agrees_with_its_image(drawn_bundle: Exported) -> None:
    """A JPEG's bytes may be decoded at a smaller scale, which an image in memory is not."""
    classifier = Classifier(drawn_bundle.path)
    for data in drawn_photos():
        image = Image.open(BytesIO(data))
        allowed = 0.1 if image.format == "JPEG" else 0
        assert answers(classifier, image) == pytest.approx(answers(classifier, data), abs=allowed)


def test_a_prediction_is_whole(tiny_bundle: Path) -> None:
    prediction = Classifier(tiny_bundle)(scene(1, 50, 40))
    assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    assert prediction.probability == prediction.probabilities[prediction.label]
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert list(prediction.probabilities) == ["cold", "warm"]
    assert prediction.ms > 0
    assert set(prediction.to_json()) == {"label", "probability", "probabilities", "decision", "ms"}


def test_the_prior_of_the_field_moves_the_odds_by_its_ratio(tiny_bundle: Path) -> None:
    photo = scene(2, 50, 40)
    plain = answers(Classifier(tiny_bundle), photo)
    rare = answers(Classifier(tiny_bundle, prior={"warm": 0.001}), photo)
    odds = plain["warm"] / plain["cold"] * (0.001 / 0.999)  # trained on one to one
    assert rare["warm"] / rare["cold"] == pytest.approx(odds)
    assert answers(Classifier(tiny_bundle, prior=SKEWED), photo) == pytest.approx(plain)


def test_labels_that_are_not_stated_share_the_rest_as_in_training() -> None:
    trained = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert complete_prior({"a": 0.9}, trained) == pytest.approx([0.9, 0.06, 0.04])
    assert complete_prior({}, trained) == pytest.approx([0.5, 0.3, 0.2])
    assert complete_prior({"c": 0.1, "a": 0.2, "b": 0.7}, trained) == pytest.approx([0.2, 0.7, 0.1])


@pytest.mark.parametrize(
    "stated",
    [{"dog": 0.5}, {"a": 0.0}, {"a": 1.0}, {"a": -0.1}, {"a": float("nan")}, {"a": 0.7, "b": 0.6},
     {"a": 0.5, "b": 0.4, "c": 0.05}, {"a": "0.2"}, [("a", 0.2)], 0.2],
)  # fmt: skip
def test_a_prior_that_cannot_be_is_refused(stated: object) -> None:
    with pytest.raises(CatflapError, match="prior"):
        complete_prior(stated, {"a": 0.5, "b": 0.3, "c": 0.2})  # type: ignore[arg-type]


def test_a_prior_names_a_label_whatever_blanks_are_around_it() -> None:
    trained = {" a ": 0.5, "b": 0.5}
    for stated in ({"a": 0.2}, {" a ": 0.2}, {"a ": 0.2, " b": 0.8}):
        assert complete_prior(stated, trained).tolist() == [0.2, 0.8]


def test_a_prior_is_read_as_people_write_it() -> None:
    assert parse_prior(["cat=0.001", " dog =0.2,bird=0.1"]) == {"cat": 0.001, "dog": 0.2, "bird": 0.1}
    assert parse_prior(["a=b=0.5"]) == {"a=b": 0.5}
    assert parse_prior(["Müller, brown=0.3", "dog=0.2"]) == {"Müller, brown": 0.3, "dog": 0.2}
    assert parse_prior([]) is None
    for bad in ("cat", "cat=", "cat=much", ""):
        with pytest.raises(CatflapError, match="LABEL=SHARE"):
            parse_prior([bad])
    for twice in (["cat=.5", "cat=.6"], ["cat=.5, cat =.5"]):
        with pytest.raises(CatflapError, match="names 'cat' twice"):
            parse_prior(twice)


def rewritten(bundle: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The Bundle with another bundle.json, whose form and hashes are right."""
    opened = load_bundle(bundle)
    head = json.loads(json.dumps(opened.head))
    change(head)
    files = {name: bytes(data) for name, data in opened.members.items() if name != HEAD}
    write_bundle(out, {name: head[name] for name in head if name not in ("catflap_bundle", "files")}, files)
    return out


def test_a_prior_that_no_probability_can_follow_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    tiny = {"cold": 1e-320, "warm": 1.0}
    path = rewritten(tiny_bundle, tmp_path / "tiny.catflap", lambda head: head.update(prior=tiny))
    assert Classifier(path)(scene(1, 40, 40)).probability > 0
    with pytest.raises(CatflapError, match="differ by more than"):
        Classifier(path, prior={"cold": 0.5})
    with pytest.raises(CatflapError, match=r"share of a label|differ by more than"):
        Classifier(path, prior={"warm": 0.5})
    with pytest.raises(CatflapError, match="differ by more than"):
        Classifier(tiny_bundle, prior={"cold": 1e-320})


FOREIGN: dict[str, Callable[[dict[str, Any]], object]] = {
    "two files for ONNX Runtime": lambda head: head["variants"]["fp32"].update(weights="card.md"),
    "one file for OpenVINO": lambda head: head["variants"]["fp32"].update(runtime="openvino"),
    "one file for ncnn": lambda head: head["variants"]["fp32"].update(runtime="ncnn"),
    "another name for the output": lambda head: head["output"].update(name="nope"),
    "another name for the input": lambda head: head["input"].update(name="nope"),
}


@pytest.mark.parametrize("change", FOREIGN)
def test_a_variant_that_is_not_what_its_runtime_needs_is_refused(
    tiny_bundle: Path, tmp_path: Path, change: str
) -> None:
    path = rewritten(tiny_bundle, tmp_path / "odd.catflap", FOREIGN[change])
    why = engine_error(load_bundle(path).variant())
    if why is not None:
        pytest.skip(why.what)
    with pytest.raises(BadArtifact, match=r"has [12] files|has no (in|out)put"):
        Classifier(path)


def test_between_two_labels_it_is_unsure(tiny_bundle: Path) -> None:
    classifier = Classifier(tiny_bundle)
    threshold = classifier.variant.decision["threshold"]
    grey = classifier(np.full((40, 40, 3), 128, np.uint8))
    assert grey.probability < threshold
    assert grey.decision == "unsure"
    red = classifier(np.full((40, 40, 3), (250, 60, 60), np.uint8))
    assert red.probability > threshold
    assert red.decision == red.label == "warm"


def test_threads_share_one_classifier(drawn_bundle: Exported) -> None:
    classifier = Classifier(drawn_bundle.path, threads=1)
    photos = [encode(drawn(label, n), "JPEG") for label in ("cat", "other") for n in range(4)]
    photos += [*drawn_photos()[:2], *drawn_photos()[3:]]  # the large one takes as long as the others together
    alone = [answers(classifier, photo) for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            assert list(pool.map(lambda photo: answers(classifier, photo), photos)) == alone
    assert [answers(Classifier(drawn_bundle.path, threads=2), photo) for photo in photos] == alone


def test_what_is_no_photo_is_one_error(tiny_bundle: Path, tmp_path: Path) -> None:
    classifier = Classifier(tiny_bundle)
    for photo in (
        b"",
        b"text",
        tmp_path,
        tmp_path / "none.jpg",
        "\0",
        np.zeros((4, 4)),
        np.zeros((0, 3, 3)),
        7,
    ):
        with pytest.raises(BadPhoto) as caught:
            classifier(photo)  # type: ignore[arg-type]
        assert caught.value.what
        assert caught.value.fix


def test_an_open_file_that_gives_no_photo_is_one_error(tiny_bundle: Path, tmp_path: Path) -> None:
    classifier = Classifier(tiny_bundle)
    closed = BytesIO(b"x")
    closed.close()
    (tmp_path / "text").write_text("text")
    large = BytesIO(bytes(classifier.frame.max_bytes + 1))
    with open(tmp_path / "text", encoding="utf-8") as text, open(tmp_path / "text", "rb") as words:
        for photo, what in (
            (closed, "The BytesIO cannot be read"),
            (text, "A TextIOWrapper is not a photo"),
            (words, "not a photo in a supported format"),
            (BytesIO(), "has no bytes"),
            (bytearray(b"x"), "not a photo in a supported format"),
            (large, "more than"),
        ):
            with pytest.raises(BadPhoto, match=what):
                classifier(photo)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_classifier_is_copied_and_goes_to_other_processes(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.catflap"
    path.write_bytes(tiny_bundle.read_bytes())
    monkeypatch.chdir(tmp_path)
    classifier = Classifier("tiny.catflap", "fp32", threads=1, prior={"cold": 0.2}, embed=True)
    photo, expected = scene(3, 40, 40), answers(classifier, scene(3, 40, 40))
    kept = pickle.dumps(classifier)
    for copied in (copy.copy(classifier), copy.deepcopy(classifier)):
        assert answers(copied, photo) == expected
        assert (copied.prior, copied.variant) == (classifier.prior, classifier.variant)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(answers, classifier, photo).result() == expected
    monkeypatch.chdir("/")
    assert pickle.loads(kept)(photo).embedding is None
    assert pickle.loads(pickle.dumps(Classifier("cat", embed=True)))(photo).embedding is not None
    rewritten(tiny_bundle, path, lambda head: head.update(name="another"))
    with pytest.raises(BadArtifact, match="has changed since"):
        pickle.loads(kept)


@pytest.mark.parametrize("nothing", [None, 7, b"cat"])
def test_what_cannot_be_a_path_is_no_bundle(nothing: object) -> None:
    for opening in (Classifier, load_bundle):
        with pytest.raises(CatflapError, match="is not a bundle"):
            opening(nothing)  # type: ignore[arg-type]
    with pytest.raises(CatflapError, match="There is no bundle"):
        verify(nothing)  # type: ignore[arg-type]


def test_what_is_no_bundle_is_one_error(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.catflap").write_text("text")
    for path in (tmp_path / "none.catflap", tmp_path / "text.catflap"):
        with pytest.raises(CatflapError):
            Classifier(path)
    with pytest.raises(BadArtifact, match="no variant 'int4'") as caught:
        Classifier(tiny_bundle, "int4")
    assert "fp32" in caught.value.fix


@pytest.mark.parametrize(
    ("weights", "scale"),
    [(np.ones((3, 5)), 1.0), (np.ones((3, 2)), np.inf), (np.ones((3, 2)), np.nan)],
    ids=["too many labels", "infinite", "not a number"],
)
def test_answers_that_are_none_are_refused(
    tiny_bundle: Path, tmp_path: Path, weights: np.ndarray, scale: float
) -> None:
    path = reworked(tiny_bundle, tmp_path / "odd.catflap", colour_model(weights, scale=scale))
    with pytest.raises(BadArtifact, match="does not give a finite logit for each label"):
        Classifier(path)(scene(1, 40, 40))


def test_without_the_runtime_of_the_default_variant_another_one_answers(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    def foreign(head: dict[str, Any]) -> None:
        head["variants"]["tpu"] = {**head["variants"]["fp32"], "runtime": "tpu9"}
        head["default_variant"] = "tpu"

    path = rewritten(tiny_bundle, tmp_path / "tpu.catflap", foreign)
    photo = scene(2, 50, 40)
    assert Classifier(path).variant.name == "fp32"
    assert Classifier(path).notice == "tpu cannot run here, so fp32 answers."
    assert Classifier(path, "fp32").notice == Classifier(tiny_bundle).notice == ""
    assert answers(Classifier(path), photo) == answers(Classifier(tiny_bundle, "fp32"), photo)
    with pytest.raises(CatflapError, match="tpu9"):
        Classifier(path, "tpu")
