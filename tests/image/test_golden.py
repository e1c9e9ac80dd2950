"""The vectors of the Frame: what any implementation has to reach, and what it has to refuse."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from catflap import image
from catflap.errors import BadPhoto
from catflap.image import Frame, Pixels, read_pixels
from tests.image.make_golden import FOLDER, FORMAT, refused, vectors

INDEX: dict[str, Any] = json.loads((FOLDER / "vectors.json").read_text())
VECTORS: list[dict[str, Any]] = INDEX["vectors"]


def stored_pixels(name: str) -> Pixels:
    """A vector's PNG is RGB of the frame's size, which every Frame leaves as it is."""
    photo = (FOLDER / name).read_bytes()
    width, height = (int.from_bytes(photo[place : place + 4], "big") for place in (16, 20))
    return read_pixels(photo, Frame(width, height))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["photo"]))
def test_a_photo_becomes_its_stored_pixels_or_is_refused(vector: dict[str, Any]) -> None:
    frame = Frame.from_json(vector["frame"])
    photo = (FOLDER / vector["photo"]).read_bytes()
    if "refused" in vector:
        with pytest.raises(BadPhoto) as reported:
            read_pixels(photo, frame)
        assert reported.value.reason == vector["refused"]
        return
    got, expected = read_pixels(photo, frame), stored_pixels(vector["pixels"])
    assert got.shape == expected.shape == (frame.height, frame.width, 3)
    assert np.abs(got.astype(int) - expected).max() <= vector["tolerance"]


def test_the_vectors_are_those_of_the_script() -> None:
    made = {f"{name}.{suffix}": frame.to_json() for name, (_, suffix, frame, _) in vectors().items()}
    made |= {file: frame.to_json() for file, (_, frame, _) in refused().items()}
    assert made == {vector["photo"]: vector["frame"] for vector in VECTORS}
    assert INDEX == {**FORMAT, "vectors": VECTORS}


def test_the_limits_are_those_of_the_specification() -> None:
    """As docs/concepts/frame.md states them: sides, ICC profiles, scans, photos that are slow to decode."""
    assert (image.MAX_SIDE, image.MAX_PROFILE) == (65_535, 4 * 1024 * 1024)
    assert (image.MAX_SCANS, image.SLOW_BYTES) == (256, 4 * 1024 * 1024)


def test_a_frame_without_settings_is_a_square_of_288_px() -> None:
    """As docs/concepts/training.md states it for Lite0; the limits are those of docs/concepts/frame.md."""
    assert Frame() == Frame(288, 288, "squash", "bilinear", "scaled", 80_000_000, 64 * 1024 * 1024)


def test_the_folder_holds_what_is_listed_and_nothing_else() -> None:
    listed = {vector[part] for vector in VECTORS for part in ("photo", "pixels") if part in vector}
    assert {path.name for path in FOLDER.iterdir()} == {"vectors.json", *listed}


def test_plain_vectors_need_no_decoder_but_one_for_rgb_png() -> None:
    plain = [vector for vector in VECTORS if vector["plain"]]
    assert len(plain) >= 9
    for vector in plain:
        head = (FOLDER / vector["photo"]).read_bytes()[:33]
        assert head[12:16] == b"IHDR"
        assert head[24:26] == b"\x08\x02"  # 8 bits, RGB
        assert vector["tolerance"] == 1


def test_the_orientations_differ() -> None:
    turned = [stored_pixels(f"orientation_{number}.frame.png").tobytes() for number in range(1, 9)]
    assert len(set(turned)) == 8
