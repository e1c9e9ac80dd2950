"""A decision at an operating point: by its threshold alone, whatever prior is stated, and never unsure."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.cli.main import main
from catflap.errors import CatflapError
from catflap.image import encode
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import parse_point_specs
from tests.artifacts.samples import write_bundle
from tests.serving.bundles import make_bundle, max_fpr_point

STRICT, TIED = "cat:max_fpr=0.001", "cat:max_fpr=0.01"


def photo(path: Path, redness: int) -> Path:
    """A plain photo, which is a cat with the odds e^(redness / 10)."""
    path.write_bytes(encode(np.full((40, 40, 3), (128 + redness, 0, 128), np.uint8), "PNG"))
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unsure from 0.4 to 0.6; at its points a cat from 0.9, or from just what a redness of 30 gives."""
    folder = tmp_path_factory.mktemp("points")
    exact = Classifier(make_bundle(folder / "plain.catflap"))(photo(folder / "30.png", 30)).probability
    return make_bundle(folder / "cat.catflap", points={0.001: 0.9, 0.01: exact})


def answered(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    assert main(["predict", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("redness", "usual", "at_the_point"),
    [(40, "cat", "cat"), (10, "cat", "not_cat"), (1, "unsure", "not_cat"), (-40, "not_cat", "not_cat")],
)
def test_predict_decides_by_the_threshold_of_the_point(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    redness: int,
    usual: str,
    at_the_point: str,
) -> None:
    taken = photo(tmp_path / "photo.png", redness)
    before = answered(capsys, bundle, taken)
    after = answered(capsys, bundle, taken, "--operating-point", STRICT)
    assert (before.pop("decision"), after.pop("decision")) == (usual, at_the_point)
    assert {**before, "ms": 0} == {**after, "ms": 0}


@pytest.mark.parametrize("prior", [1e-12, 0.001, 0.9])
def test_a_stated_prior_does_not_move_it(bundle: Path, tmp_path: Path, prior: float) -> None:
    at_point = {
        name: Classifier(bundle, prior={"cat": prior}, operating_point=name) for name in (STRICT, TIED)
    }
    for redness, decision in ((40, "cat"), (20, "not_cat")):
        assert at_point[STRICT](photo(tmp_path / "photo.png", redness)).decision == decision
    assert at_point[TIED](photo(tmp_path / "photo.png", 30)).decision == "cat"  # a tie, after two corrections


def test_people_see_a_decision_that_is_not_the_likeliest_label(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = photo(tmp_path / "photo.png", 10)
    assert main(["predict", str(bundle), str(taken), "--operating-point", STRICT]) == 0
    assert "photo.png: cat 0.7311  (not_cat)" in capsys.readouterr().out


def test_below_it_the_likeliest_of_the_other_labels_is_decided(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    head = {name: value for name, value in opened.head.items() if name not in ("catflap_bundle", "files")}
    head |= {"labels": ["not_cat", "cat", "dog"], "prior": {"not_cat": 0.2, "cat": 0.3, "dog": 0.5}}
    write_bundle(
        tmp_path / "three.catflap", head, {n: bytes(d) for n, d in opened.members.items() if n != HEAD}
    )
    classifier = Classifier(tmp_path / "three.catflap", operating_point=STRICT)
    decisions = [
        classifier.to_prediction(np.array(row), 0.0).decision
        for row in ([0.05, 0.9, 0.05], [0.05, 0.8, 0.15], [0.15, 0.8, 0.05], [0.9, 0.05, 0.05])
    ]
    assert decisions == ["cat", "dog", "not_cat", "not_cat"]


@pytest.mark.parametrize("name", ["cat:max_fpr=0.002", "not_cat:max_fpr=0.001", "cat:max_fpr", "unsure", ""])
def test_an_unknown_point_is_one_error_that_lists_those_that_there_are(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    reported = answered(capsys, bundle, tmp_path, "--operating-point", name, code=2)
    assert reported == {
        "error": {
            "what": f"fp32 of {bundle.name} has no operating point {name!r}.",
            "fix": "Use one of: cat:max_fpr=0.001, cat:max_fpr=0.01.",
        }
    }


def test_a_bundle_without_points_says_how_to_get_one(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "cat.catflap")
    with pytest.raises(CatflapError, match=f"Export it with --operating-point {STRICT}"):
        Classifier(path, operating_point=STRICT)
    assert Classifier(path, operating_point=None).operating_point is None


def test_a_name_is_read_as_a_number(bundle: Path) -> None:
    point = Classifier(bundle, operating_point="cat:max_fpr=1e-3").operating_point
    assert point == max_fpr_point("cat", 0.001, 0.9)


def test_labels_may_hold_what_separates_the_parts_of_a_name() -> None:
    (wish,) = parse_point_specs(["a:b=c:min_recall=0.99"], ["a:b=c", "d"])
    assert (wish.label, wish.kind, wish.value, wish.name) == (
        "a:b=c",
        "min_recall",
        0.99,
        "a:b=c:min_recall=0.99",
    )


def test_a_copy_decides_at_the_same_point(bundle: Path) -> None:
    copied = pickle.loads(pickle.dumps(Classifier(bundle, operating_point=STRICT)))
    assert copied(np.full((40, 40, 3), (138, 0, 128), np.uint8)).decision == "not_cat"
