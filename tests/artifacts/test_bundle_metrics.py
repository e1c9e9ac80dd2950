"""Measured figures in bundle.json: what export writes is read, and every absurd edit of it is refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import BadArtifact, encode_bundle, load_bundle
from catflap.evaluation.calibration import operating_point
from catflap.evaluation.metrics import measure
from tests.artifacts.samples import FILES, small_head

EDITS = 2000


def measured_head(labels: tuple[str, ...], photos: int = 120) -> dict[str, Any]:
    """A head with everything that export measures, on random answers."""
    dice = np.random.default_rng(len(labels))
    truth = dice.integers(0, len(labels), photos)
    logits = dice.normal(size=(photos, len(labels))) + 2 * np.eye(len(labels))[truth]
    head = small_head()
    head |= {"labels": list(labels), "prior": dict.fromkeys(labels, 1 / len(labels))}
    variant = head["variants"]["int8"]
    variant["metrics"] = measure(logits, truth, np.arange(photos) // 2, labels)
    point = operating_point(logits[:, 0] / 20 + 0.5, truth == 0, max_fpr=0.1)
    reached = {
        name: point[name] for name in ("recall", "false_positive_rate", "precision", "positives", "negatives")
    }
    variant["operating_points"] = [
        {
            "label": labels[0],
            "wish": {"max_fpr": 0.1},
            "threshold": 0.6,
            "calibration": reached,
            "test": reached,
        }
    ]
    variant["fidelity"] |= {"groups": 60, "flip_rate_low": 0.001, "flip_rate_high": 0.05}
    variant["fidelity"] |= {
        "mean_probability_difference": 0.001,
        "accuracy_difference": -0.01,
        "mcnemar_p": 1.0,
    }
    return head


def write(head: dict[str, Any], path: Path) -> Path:
    """The bundle, also where encode_bundle would refuse it."""
    path.write_bytes(encode_bundle(path, head, FILES))
    return path


@pytest.mark.parametrize("labels", [("cat", "not_cat"), ("a", "b", "c"), tuple(f"l{n}" for n in range(40))])
def test_what_is_measured_is_read(labels: tuple[str, ...], tmp_path: Path) -> None:
    head = measured_head(labels)
    bundle = load_bundle(write(head, tmp_path / "x.catflap"))
    assert bundle.variant().metrics == head["variants"]["int8"]["metrics"]


def test_a_label_without_photos_is_read(tmp_path: Path) -> None:
    head = small_head()
    figures = measure([[2.0, 0.0]] * 3, [0, 0, 0], [0, 1, 2], ("cat", "not_cat"))
    head["variants"]["int8"]["metrics"] = figures
    assert figures["per_class"]["not_cat"]["recall"]["reason"]
    load_bundle(write(head, tmp_path / "x.catflap"))


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a value, objects and lists too."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from leaves(value[key], (*place, key))


def absurd(value: Any, place: tuple[Any, ...]) -> list[Any]:
    """What cannot stand in place of a value."""
    if isinstance(value, bool | str):
        return [7, None, [], {}, "", 0.5] if place[-1] not in ("true", "predicted") else [7, None, [], "dog"]
    if isinstance(value, int):
        return [-1, 0.5, 10**13, "3", None, True, [], {}, [1]]
    if isinstance(value, float):
        return [
            -1.5,
            10.0**13,
            10**400,
            "0.5",
            True,
            [],
            {},
            [0.5],
            *([] if place[-1] == "threshold" else [None]),
        ]
    if value is None:
        return [-1.5, 10.0**13, "0.5", True, {}, [0.5]]
    if isinstance(value, list):
        return [{}, "x", 3, True, [*value, -1], [[[]]]]
    return [[], "x", 3, True, *([] if place[-1] == "confusion_matrix" else [None])]


@pytest.mark.slow
def test_absurd_figures_are_refused(tmp_path: Path) -> None:
    """2,000 edits of metrics, fidelity, decision and operating points: none loads."""
    dice, loaded = random.Random(1), []
    heads = [measured_head(("cat", "not_cat")), measured_head(("a", "b", "c"))]
    parts = ("metrics", "fidelity", "decision", "operating_points")
    for _ in range(EDITS):
        head = copy.deepcopy(dice.choice(heads))
        variant = head["variants"]["int8"]
        place = dice.choice([(part, *below) for part in parts for below in [(), *leaves(variant[part])]])
        if place[:1] == ("operating_points",) and len(place) > 2 and place[2] == "wish":
            continue  # of which later versions may have others
        node = variant
        for key in place[:-1]:
            node = node[key]
        new = dice.choice(absurd(node[place[-1]], place))
        node[place[-1]] = new
        try:
            load_bundle(write(head, tmp_path / "x.catflap"))
        except BadArtifact:
            continue
        loaded.append((place, new))
    assert loaded == []


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a value above its interval": lambda m: m["accuracy"].update(value=1.0, high=0.9),
    "a value below its interval": lambda m: m["accuracy"].update(value=0.1, low=0.2),
    "an interval upside down": lambda m: m["roc_auc"].update(low=m["roc_auc"]["high"], high=0.1),
    "a null without a reason": lambda m: m["macro_f1"].update(value=None, low=None, high=None),
    "an empty reason": lambda m: m["macro_f1"].update(value=None, low=None, high=None, reason=""),
    "no accuracy": lambda m: m.pop("accuracy"),
    "an unknown label": lambda m: m["per_class"].update(dog=m["per_class"]["cat"]),
    "another number of photos": lambda m: m.update(photos=m["photos"] + 1),
    "more groups than photos": lambda m: m.update(groups=m["photos"] + 1),
    "a matrix without a row": lambda m: m["confusion_matrix"]["value"].pop(),
    "a matrix of other photos": lambda m: m["confusion_matrix"]["photos"][0].__setitem__(0, 10**6),
    "another label's name": lambda m: m["labels"].__setitem__(0, "dog"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_figures_that_contradict_each_other_are_refused(name: str, tmp_path: Path) -> None:
    head = measured_head(("cat", "not_cat"))
    CONTRADICTIONS[name](head["variants"]["int8"]["metrics"])
    with pytest.raises(BadArtifact, match=r"metrics"):
        load_bundle(write(head, tmp_path / "x.catflap"))


def test_figures_of_a_later_version_are_read(tmp_path: Path) -> None:
    head = measured_head(("cat", "not_cat"))
    head["variants"]["int8"]["metrics"]["brier_score"] = {"value": 0.1, "low": 0.05, "high": 0.2}
    load_bundle(write(head, tmp_path / "x.catflap"))
