"""Operating points: chosen for each variant on calibration, reported on test, kept and chosen again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.cli.main import main
from catflap.errors import CatflapError, Refused
from catflap.evaluation.calibration import operating_point, rates_at
from catflap.exporting.export import export, export_fingerprint
from catflap.exporting.judging import FIGURES, choose_point
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import PointSpec, softmax
from catflap.runtime.engine_onnx import open_model
from tests.exporting.test_export import frames_of_role
from tests.tiny import Exported

WISHES = {
    "cat:max_fpr=0.1": ("cat", {"max_fpr": 0.1}),
    "other:cost_ratio=20": ("other", {"cost_ratio": 20.0}),
}


@pytest.fixture(scope="module")
def pointed(drawn_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The drawn Checkpoint, exported with two operating points."""
    path = tmp_path_factory.mktemp("points") / "pointed.catflap"
    words = [word for name in WISHES for word in ("--operating-point", name)]
    assert main(["export", str(drawn_checkpoint.path), "-o", str(path), *words]) == 0
    return load_bundle(path)


def probabilities(
    bundle: Bundle, dataset: Dataset, variant: str, role: str, checkpoint: Checkpoint
) -> np.ndarray:
    """Of calibration photos those of a head that has not learnt from them."""
    about = bundle.variant(variant)
    logits = open_model(bundle.members[about.file])(frames_of_role(dataset, role))
    logits = logits + checkpoint.held_out(dataset.photos(role).ids)
    return softmax(logits, about.temperature)


@pytest.mark.parametrize("variant", ["int8", "fp32"])
@pytest.mark.parametrize("name", WISHES)
def test_a_threshold_is_chosen_on_calibration_and_reported_on_test(
    pointed: Bundle, drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, variant: str, name: str
) -> None:
    label, wish = WISHES[name]
    (point,) = [point for point in pointed.variant(variant).operating_points if point["wish"] == wish]
    position = pointed.labels.index(label)
    photos, others = drawn_dataset.photos("calibration"), drawn_dataset.photos("test")
    scores = probabilities(pointed, drawn_dataset, variant, "calibration", drawn_checkpoint)[:, position]
    chosen = operating_point(scores, photos.labels == position, groups=photos.groups, **wish)
    assert point["label"] == label
    assert point["threshold"] == pytest.approx(chosen["threshold"], abs=1e-6)
    assert point["calibration"] == {figure: chosen[figure] for figure in FIGURES}
    scores = probabilities(pointed, drawn_dataset, variant, "test", drawn_checkpoint)[:, position]
    reached = rates_at(point["threshold"], scores, others.labels == position, groups=others.groups)
    assert point["test"] == {figure: reached[figure] for figure in FIGURES}
    assert Classifier(pointed, variant, operating_point=name).operating_point == point


def test_photos_that_are_too_few_to_show_a_rate_are_told(pointed: Bundle, drawn_dataset: Dataset) -> None:
    photos = drawn_dataset.photos("calibration")
    others = len(np.unique(photos.groups[photos.labels != pointed.labels.index("cat")]))
    strict, cheap = pointed.variant("fp32").operating_points
    note = (
        f"not proven with 95 % confidence: {others} independent calibration photos of labels other than cat"
    )
    assert strict["note"] == f"{note}, {29 - others} more are needed", "0.9 to the power of 29 is below 0.05"
    assert (strict["proven"], strict["missing"], strict["groups"]) == (False, 29 - others, others)
    assert "note" not in cheap
    assert Classifier(pointed, "fp32", operating_point="cat:max_fpr=0.1").notice == (
        f"cat:max_fpr=0.1 is {strict['note']}."
    )
    card = bytes(pointed.members["card.md"]).decode()
    reported = f"cat:max_fpr=0.1 says cat at a probability of {strict['threshold']:.6g} or more"
    assert f"- fp32 at an operating point: {reported}" in card
    assert note in card


def test_inspect_names_them_and_strip_keeps_them_and_add_chooses_them_again(
    pointed: Bundle, drawn_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reported(*words: object) -> dict:
        assert main(["bundle", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    named = [variant["operating_points"] for variant in reported("inspect", pointed.path)["variants"]]
    assert named == [[*WISHES]] * 2
    small, again = tmp_path / "small.catflap", tmp_path / "again.catflap"
    reported("strip", pointed.path, "-o", small, "--variants", "int8")
    assert load_bundle(small).variants == {"int8": pointed.variant("int8")}
    reported("add", small, "-o", again, "--checkpoint", drawn_checkpoint.path, "--variants", "fp32")
    assert load_bundle(again).variants == pointed.variants
    assert pointed.variant("int8").operating_points != pointed.variant("fp32").operating_points


def test_a_bundle_without_wishes_has_no_points(drawn_bundle: Exported, drawn_checkpoint: Checkpoint) -> None:
    plain = load_bundle(drawn_bundle.path)
    assert all("operating_points" not in variant for variant in plain.head["variants"].values())
    assert plain.head["made_from"] == export_fingerprint(drawn_checkpoint)
    wished = {
        export_fingerprint(drawn_checkpoint, operating_points=(f"cat:max_fpr={limit}",)) for limit in "01"
    }
    assert len({plain.head["made_from"], *wished}) == 3


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["dog:max_fpr=0.1"], "names an unknown label"),
        (["cat:max_fpr=0.1", "cat:max_fpr=1e-1"], "is stated twice"),
        (["cat:max_fpr=1.1"], "is not LABEL:KIND=NUMBER"),
        (["cat:min_recall=nan"], "is not LABEL:KIND=NUMBER"),
        (["cat:cost_ratio=inf"], "is not LABEL:KIND=NUMBER"),
        (["cat:precision=0.9"], "is not LABEL:KIND=NUMBER"),
        (["max_fpr=0.1"], "is not LABEL:KIND=NUMBER"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_before_any_work(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, names: list[str], what: str
) -> None:
    steps: list[str] = []
    with pytest.raises(CatflapError, match=what):
        export(
            drawn_checkpoint, drawn_dataset, tmp_path / "x.catflap", operating_points=tuple(names),
            progress=lambda step, *_: steps.append(step),
        )  # fmt: skip
    assert (steps, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(
    ("kind", "value", "what", "fix"),
    [
        ("max_fpr", 0.1, "except by never deciding cat: 1 of", "allow more: cat:max_fpr=0."),
        ("cost_ratio", 0.0, "except by never deciding cat", "State a greater cost_ratio"),
        ("min_recall", 0.0, "except by never deciding cat", "State a greater min_recall"),
    ],
)
def test_a_wish_that_no_threshold_meets_is_refused(
    drawn_dataset: Dataset, kind: str, value: float, what: str, fix: str
) -> None:
    photos, labels = drawn_dataset.photos("calibration"), drawn_dataset.labels
    scores = np.where(photos.labels == labels.index("cat"), 0.6, 0.1)
    scores[np.flatnonzero(photos.labels != labels.index("cat"))[0]] = 0.9
    answers = np.stack([scores, 1 - scores], 1) if labels[0] == "cat" else np.stack([1 - scores, scores], 1)
    judged = (answers, photos)
    with pytest.raises(Refused) as refused:
        choose_point(PointSpec("cat", kind, value), "int8", labels, judged, judged)
    assert refused.value.what.startswith(
        f"No threshold of int8 meets cat:{kind}={value:g} on the calibration"
    )
    assert what in refused.value.what
    assert fix in refused.value.fix
