"""What a search tries: frames shaped as the Dataset's, of a size asked for, not far larger than photos."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catflap.artifacts.dataset import Dataset
from catflap.image import Frame
from catflap.training.search import candidates as room
from catflap.training.search.candidates import MOST_TRIALS, candidates, sized
from catflap.training.sizes import photo_side


def test_frames_keep_their_shape() -> None:
    square, wide = Frame(64, 64, "crop"), Frame(352, 288)
    assert sized(square, 240) == Frame(240, 240, "crop")
    assert sized(wide, 320) == Frame(352, 288, "squash")
    tried = sized(wide, 160)
    assert (tried.width, tried.height) == (176, 144)


def test_the_first_of_the_list_are_tried(drawn_dataset: Dataset) -> None:
    found = candidates(drawn_dataset, 3)
    assert [(name, size, frame.fit) for name, size, frame in found] == [
        ("efficientnet_lite0", 288, "squash"),
        ("efficientnet_lite2_slim", 320, "squash"),
        ("efficientnet_lite2_slim", 320, "crop"),
    ]
    cropping = replace(drawn_dataset, frame=Frame(64, 64, "crop"))
    assert [frame.fit for _, _, frame in candidates(cropping, 3)] == ["crop", "crop", "squash"]


def test_a_size_that_was_asked_for_stays(drawn_dataset: Dataset) -> None:
    """64 px is not the usual size; without a number of trials the list is as long as there is time for."""
    found = candidates(drawn_dataset, None)
    assert found[0] == ("efficientnet_lite0", 64, drawn_dataset.frame)
    assert {(frame.width, frame.height) for _, _, frame in found} == {(64, 64)}
    assert len({(name, frame.fit) for name, _, frame in found}) == len(found) > 3
    usual = replace(drawn_dataset, frame=Frame())
    assert len(candidates(usual, None)) == MOST_TRIALS


def test_no_frame_is_much_larger_than_the_photos(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert photo_side(drawn_dataset.photos("train")) == 160
    monkeypatch.setattr(room, "ENLARGED", 1)
    assert {size for _, size, _ in candidates(drawn_dataset, MOST_TRIALS)} == {128, 160}
    shrunk = replace(drawn_dataset, shrink=130)
    assert [size for _, size, _ in candidates(shrunk, MOST_TRIALS)] == [128]
    tiny = replace(drawn_dataset, shrink=40)
    assert candidates(tiny, 5) == [("efficientnet_lite0", 64, tiny.frame)], "the Dataset's own is left"
