"""Many photos to frames and logits: in order, whatever the number; a bad one is named."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from catflap.errors import BadPhoto, CatflapError
from catflap.exporting.golden_cases import scene
from catflap.image import Frame, Pixels, encode, read_pixels
from catflap.runtime.engine import Logits
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import frames_of, score
from tests.runtime.models import colour_model

FRAME = Frame(32, 32)
PHOTOS = [encode(scene(seed, 40, 40), "PNG") for seed in range(37)]
FRAMES = np.stack([read_pixels(photo, FRAME) for photo in PHOTOS])


@pytest.mark.parametrize("count", [1, 15, 16, 17, 37])
@pytest.mark.parametrize("workers", [1, 3])
def test_frames_come_in_order(count: int, workers: int) -> None:
    batches = list(frames_of(PHOTOS[:count], FRAME, workers))
    assert max(map(len, batches)) <= 16
    assert np.array_equal(np.concatenate(batches), FRAMES[:count])


def test_scores_are_those_of_the_model() -> None:
    model = open_model(colour_model(np.eye(3)))
    reported: list[tuple[str, int, int]] = []
    logits = score(model, PHOTOS, FRAME, "score", lambda *about: reported.append(about))
    np.testing.assert_allclose(logits, FRAMES.mean((1, 2)), atol=1e-3)
    assert reported == [("score", done, 3) for done in range(4)]


def test_a_bad_photo_is_named() -> None:
    bad = PHOTOS[20][:100]
    with pytest.raises(BadPhoto) as caught:
        list(frames_of([*PHOTOS[:20], bad, *PHOTOS[21:]], FRAME))
    assert "Photo 21 of 37" in caught.value.what
    assert hashlib.sha256(bad).hexdigest() in caught.value.what


def test_a_reader_may_stop_early() -> None:
    before = set(threading.enumerate())
    batches = frames_of(PHOTOS, FRAME)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not set(threading.enumerate()) - before


def test_no_photos_are_one_error() -> None:
    assert list(frames_of([], FRAME)) == []
    with pytest.raises(CatflapError, match="no photos"):
        score(open_model(colour_model(np.eye(3))), [], FRAME)


def test_a_part_that_was_damaged_is_scored_again(tmp_path: Path) -> None:
    model, looked_at = open_model(colour_model(np.eye(3))), list[int]()

    def counted(frames: Pixels) -> Logits:
        looked_at.append(len(frames))
        return model(frames)

    expected = score(counted, PHOTOS, FRAME, kept=tmp_path, part=16)
    assert np.array_equal(score(counted, PHOTOS, FRAME, kept=tmp_path, part=16), expected)
    assert looked_at == [16, 16, 5, 5], "what fills no part is scored again"
    first, second = sorted(tmp_path.iterdir())
    second.write_bytes(second.read_bytes()[:100])
    assert np.array_equal(score(counted, PHOTOS, FRAME, kept=tmp_path, part=16), expected)
    first.write_bytes(b"")
    assert np.array_equal(score(counted, PHOTOS, FRAME, kept=tmp_path, part=16), expected)
    assert looked_at[4:] == [16, 5, 16, 16, 5]
