"""The outcome of a build says in plain sentences what it made of the person's own photos."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.manifest import load_manifest
from catflap.pipeline.outcome import answer_ms, outcome, same, sentences, weak_labels
from tests.tiny import Exported


@pytest.fixture
def reached(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> dict[str, object]:
    manifest = load_manifest(drawn_dataset.path.with_name("manifest"))
    return outcome(load_bundle(drawn_bundle.path), manifest, drawn_dataset, drawn_checkpoint, ms=7.04)


def test_it_counts_photos_and_leads_with_the_lower_bound(
    reached: dict,
    drawn_dataset: Dataset,  # type: ignore[type-arg]
) -> None:
    assert reached["photos"] == {"found": 60, "used": 60, "refused": 0}
    assert reached["test_photos"] == drawn_dataset.roles["test"]
    assert reached["promised"] <= reached["accuracy"]["low"] < 1
    first, second, third = reached["sentences"][:3]
    assert first == "60 of 60 photos used."
    assert second.startswith(f"At least {100 * reached['promised']:.0f} of 100 new photos like these")
    assert "test photos are too few to say more" in third
    assert reached["sentences"][-1].endswith(" 7 ms a photo here.")
    assert sum(reached["of_100"][name] for name in ("decided", "unsure", "unknown")) == 100
    assert reached["next"].startswith("catflap serve ")
    json.dumps(reached, allow_nan=False)


def test_more_photos_follow_the_measured_curve(reached: dict) -> None:  # type: ignore[type-arg]
    photos = [point["photos"] for point in reached["curve"]]
    assert len(photos) >= 4
    assert photos == sorted(set(photos)), "each point learnt from more photos than the one before"
    promises = [row["promised"] for row in reached["more"]]
    assert promises == sorted(promises)
    assert promises[-1] > reached["promised"]


def test_refused_photos_are_named_with_their_fix(reached: dict) -> None:  # type: ignore[type-arg]
    heic = {"photos": 10, "what": "are HEIC", "fix": "pip install x", "files": ["/p/IMG_1.HEIC"]}
    broken = {"photos": 1, "what": "is broken", "fix": "copy them again", "files": ["/p/IMG_0412.jpg"]}
    fields = {
        **reached, "photos": {"found": 61, "used": 50, "refused": 11}, "refused": [heic, broken],
        "not_photos": {".txt": 2}, "left_out": 0,
    }  # fmt: skip
    assert sentences(fields)[0] == (
        "50 of 61 photos used; 10 are HEIC: pip install x (IMG_1.HEIC, …); 1 is broken: copy it again "
        "(IMG_0412.jpg); 2 files are no photos (.txt)."
    )


def test_two_outcomes_differ_in_more_than_the_time(
    reached: dict,
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    drawn_dataset: Dataset,  # type: ignore[type-arg]
) -> None:
    bundle = load_bundle(drawn_bundle.path)
    manifest = load_manifest(drawn_dataset.path.with_name("manifest"))
    assert answer_ms(bundle, drawn_dataset) > 0
    assert same(reached, outcome(bundle, manifest, drawn_dataset, drawn_checkpoint, ms=99.0))
    fewer = replace(manifest, photos=61)
    assert not same(reached, outcome(bundle, fewer, drawn_dataset, drawn_checkpoint, ms=7.04))


def test_a_rare_label_that_is_not_found_is_named(reached: dict) -> None:  # type: ignore[type-arg]
    """99.7 % of 752 test photos, because all but two are of one label."""
    recalls = {"rare": (0.0, 2), "common": (1.0, 750), "new": (None, 0)}
    per_class = {name: {"recall": {"value": recall}, "support": n} for name, (recall, n) in recalls.items()}
    found = weak_labels({"accuracy": {"value": 0.9973}, "per_class": per_class})
    assert found == [{"label": "rare", "right": 0, "photos": 2}]
    lines = sentences({**reached, "weak": found})
    assert lines[2] == "But of 'rare' only 0 of 2 test photos did: add photos of what is rare."
    assert weak_labels({"accuracy": {"value": 0.6}, "per_class": per_class}) == [], "no surprise"


def test_advice_on_series_is_said(reached: dict) -> None:  # type: ignore[type-arg]
    assert reached["series"] is None
    advised = sentences({**reached, "series": "Photos are named like frames."})
    assert [line for line in advised if line not in reached["sentences"]] == ["Photos are named like frames."]


def test_photos_with_a_wrong_label_are_counted(reached: dict) -> None:  # type: ignore[type-arg]
    assert reached["wrong_labels"] is None
    wrong = {"share": 0.1, "wrong": 39, "photos": 450, "next": "catflap audit mine.catflap"}
    assert (
        "39 of 450 photos to learn from probably have a wrong label and were not learnt from. To see them: "
        "catflap audit mine.catflap"
    ) in sentences({**reached, "wrong_labels": wrong})


def test_few_test_photos_are_counted_as_they_are(reached: dict) -> None:  # type: ignore[type-arg]
    few = reached["test_photos"]
    assert few < 100
    (line,) = (line for line in reached["sentences"] if "it decides" in line)
    assert line.startswith(f"Of the {few} test photos it decides {reached['of_test']['decided']}")
    many = {**reached, "test_photos": 100}
    assert any(line.startswith("Of 100 photos it decides ") for line in sentences(many))


def test_an_operating_point_without_enough_photos_is_named(reached: dict) -> None:  # type: ignore[type-arg]
    note = "not proven with 95 % confidence: 3 independent calibration photos, 296 more are needed"
    assert f"cat:max_fpr=0.01 is {note}." in sentences({**reached, "unproven": {"cat:max_fpr=0.01": note}})
