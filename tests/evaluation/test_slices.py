"""Slices by facts of photos; the worst one is named only where it is worse beyond chance, of all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.evaluation.slices import (
    Facts,
    folder_facts,
    judge_slices,
    make_slices,
    photo_facts,
    read_facts,
)
from catflap.image import Frame, encode, image_statistics, read_pixels
from tests.tiny import drawn

NAMES = ("cat", "other")


def drawn_facts(rng, groups):
    """Facts, labels and groups of photos without any meaning; a quarter of the groups have copies."""
    owners = np.repeat(np.arange(groups), 1 + (rng.random(groups) < 0.25) * rng.integers(1, 4, groups))
    facts = Facts(
        {"shorter side, px": rng.lognormal(6, 0.5, groups)[owners], "sharpness": rng.random(groups)[owners]},
        {"folder": [f"f{number}" for number in rng.integers(0, 8, groups)[owners]]},
    )
    return facts, rng.integers(0, 2, groups)[owners], owners


@pytest.mark.slow
def test_chance_names_a_slice_in_one_set_of_twenty_at_most():
    """4.3 % of 300 sets of 1,000 groups and 78 tests; here 100 sets, whose standard error is 2.2 %."""
    rng, named = np.random.default_rng(0), 0
    for _ in range(100):
        facts, labels, owners = drawn_facts(rng, 500)
        right = (rng.random(500) > 0.05)[owners]
        named += judge_slices(right, labels, owners, NAMES, make_slices(facts))["worst"] is not None
    assert named <= 5 + 3 * 2.2


def test_a_limit_is_found_and_said():
    rng = np.random.default_rng(1)
    facts, labels, owners = drawn_facts(rng, 2000)
    small = (facts.numbers["shorter side, px"] < 250) & (labels == 0)
    right = (rng.random(2000) > np.where(np.isin(np.arange(2000), owners[small]), 0.5, 0.02))[owners]
    found = judge_slices(right, labels, owners, NAMES, make_slices(facts))
    json.dumps(found, allow_nan=False)
    assert found["worst"]["label"] == "cat"
    assert found["worst"]["slice"].startswith("shorter side below ")
    assert "px: " in found["limits"][0]
    assert "% decided right (" in found["limits"][0]
    assert all(row["right"]["value"] < row["elsewhere"]["value"] for row in found["rows"] if row["worse"])


def test_numbers_become_ranges_that_hold_each_photo_once():
    values = np.random.default_rng(2).permutation(np.arange(1000.0))
    slices = make_slices(Facts({"age, days": values}, {"camera": ["a"] * 985 + ["b"] * 15}))
    ranges = [flags for name, flags in slices.items() if name.startswith("age")]
    assert len(ranges) == 6
    assert (np.sum(ranges, axis=0) == 1).all()
    assert next(name for name in slices if name.startswith("age")) == "age below 50 days"
    assert slices["camera b"].sum() == 15
    assert make_slices(Facts({"same": np.ones(50), "none": np.full(50, np.nan)}, {"one": ["x"] * 50})) == {}


def test_facts_are_read_from_the_bytes():
    large = np.repeat(np.repeat(drawn("cat", 0), 2, axis=0), 2, axis=1)
    photos = [
        encode(drawn("cat", 0), "JPEG"),
        encode(large, "PNG"),
        encode(np.zeros((40, 90, 3), np.uint8), "PNG"),
    ]
    frame = Frame(64, 64)
    facts = photo_facts(photos, np.full((3, 3), np.nan), frame)
    assert facts.numbers["shorter side, px"].tolist() == [120, 240, 40]
    assert facts.numbers["long side / short side"].tolist() == pytest.approx([4 / 3, 4 / 3, 2.25])
    assert facts.numbers["brightness, %"][2] == 0
    measured = [image_statistics(read_pixels(photo, frame)) for photo in photos]
    for name, values in photo_facts(photos, np.array(measured, np.float32), frame).numbers.items():
        assert values.tolist() == pytest.approx(facts.numbers[name].tolist(), rel=1e-6)


def test_folders_count_unless_they_repeat_the_labels():
    labels = ["cat", "cat", "other"]
    assert folder_facts(["/p/cat/1.jpg", "/p/cat/2.jpg", "/p/other/3.jpg"], labels) == Facts()
    assert folder_facts(["", "", ""], labels) == Facts()
    by_camera = folder_facts(["/p/a/1.jpg", "/p/a/2.jpg", "/p/b/3.jpg"], ["cat", "other", "cat"])
    assert by_camera.words == {"folder": ["a", "a", "b"]}


def test_a_table_names_photos_by_path_or_sha256(tmp_path: Path):
    table = tmp_path / "facts.csv"
    table.write_text("file,camera,lux\ncat/1.jpg,old,3\nabc,new,\n")
    facts = read_facts(table, ["/photos/cat/1.jpg", "", "/photos/cat/3.jpg"], ["1", "abc", "3"])
    assert facts.words["camera"] == ["old", "new", ""]
    assert facts.words["lux"] == ["3", "", ""]  # so few numbers are words
    for text, what in (("a,b\n1,2\n", "no column"), ("file,b\nx,2\n", "names none"), ("", "no column")):
        table.write_text(text)
        with pytest.raises(CatflapError, match=what):
            read_facts(table, ["y"], ["z"])
    with pytest.raises(CatflapError, match="cannot be read"):
        read_facts(tmp_path / "absent.csv", [], [])
