"""How frames look: known values, and what light and blur do to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from catflap.exporting.golden_cases import scene
from catflap.image import STATISTICS, Pixels, image_statistics
from catflap.runtime.classifier import Classifier


def by_name(frame: Pixels) -> dict[str, float]:
    return dict(zip(STATISTICS, image_statistics(frame), strict=True))


def test_a_flat_frame_has_its_level_and_nothing_else() -> None:
    look = by_name(np.full((40, 30, 3), (10, 51, 200), np.uint8))
    assert look == {"brightness": pytest.approx(0.2), "contrast": 0, "sharpness": 0}


@pytest.mark.parametrize("shape", [(8, 8), (9, 11), (37, 50), (288, 288)])
def test_it_is_what_the_description_says(shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    green = frame[:, :, 1].astype(float)
    rows = range(1, shape[0] - 1, 4)
    inner = green[rows]
    laplacian = [
        green[y - 1, x] + green[y + 1, x] + green[y, x - 1] + green[y, x + 1] - 4 * green[y, x]
        for y in rows
        for x in range(1, shape[1] - 1)
    ]
    expected = (inner.mean() / 255, inner.std() / 255, np.log1p(np.var(laplacian)))
    assert image_statistics(frame) == pytest.approx(expected, rel=1e-4)


def test_blur_lowers_sharpness_and_dusk_brightness() -> None:
    plain = scene(3, 288, 288)
    blurred = np.asarray(Image.fromarray(plain).filter(ImageFilter.GaussianBlur(1)))
    dark = (plain * 0.25).astype(np.uint8)
    first, soft, dusk = by_name(plain), by_name(blurred), by_name(dark)
    assert soft["sharpness"] < first["sharpness"] - 0.5
    assert soft["brightness"] == pytest.approx(first["brightness"], abs=0.01)
    assert dusk["brightness"] == pytest.approx(first["brightness"] / 4, abs=0.01)


def test_only_a_prediction_for_a_field_log_has_image_statistics(tiny_bundle: Path) -> None:
    frame = np.full((50, 60, 3), 128, np.uint8)
    assert Classifier(tiny_bundle)(frame).image_statistics is None
    prediction = Classifier(tiny_bundle, embed=True)(frame)
    assert prediction.image_statistics == pytest.approx((128 / 255, 0, 0))
    assert set(prediction.to_json()) == {"label", "probability", "probabilities", "decision", "ms"}
