"""The corruptions of ImageNet-C: same seed, same pixels; stronger is worse; limits only beyond chance."""

from __future__ import annotations

import json

import numpy as np
import pytest

from catflap.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, judge_corruptions
from tests.tiny import drawn

PHOTO = drawn("cat", 3)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_keeps_the_shape_and_is_repeatable(corruption):
    found = [corrupt(PHOTO, corruption, severity, 7) for severity in SEVERITIES]
    assert {(one.shape, one.dtype.name) for one in found} == {(PHOTO.shape, "uint8")}
    assert (corrupt(PHOTO, corruption, 3, 7) == found[2]).all()
    changes = [np.abs(one.astype(int) - PHOTO).mean() for one in found]
    assert min(changes) > 0.3
    if corruption not in (
        "glass blur",
        "elastic transform",
        "fog",
        "frost",
    ):  # the paper's do not rise at each step
        assert changes[4] > changes[0]
    black = np.zeros((32, 40, 3), np.uint8)
    assert np.isfinite(corrupt(black, corruption, 5, 1)).all()


def test_blurs_keep_a_flat_picture_and_noise_keeps_its_mean():
    flat = np.full((64, 80, 3), 120, np.uint8)
    for corruption in (
        "defocus blur",
        "glass blur",
        "motion blur",
        "zoom blur",
        "elastic transform",
        "pixelate",
    ):
        assert np.abs(corrupt(flat, corruption, 5, 0).astype(int) - 120).max() <= 1
    noisy = corrupt(flat, "gaussian noise", 1, 0).astype(float)
    assert noisy.mean() == pytest.approx(120, abs=1)
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.05)
    assert corrupt(flat, "contrast", 5, 0).std() == 0
    assert (corrupt(flat, "brightness", 2, 0) == round(120 + 0.2 * 255)).all()
    salted = corrupt(flat, "impulse noise", 5, 0)
    assert (salted != 120).mean() == pytest.approx(0.27, abs=0.02)


def test_limits_are_the_mildest_severities_that_lose_for_certain():
    rng, groups = np.random.default_rng(0), np.arange(300)
    clean = rng.random(300) < 0.97
    losing = {
        ("snow", severity): clean & (rng.random(300) > 0.12 * severity - 0.1) for severity in SEVERITIES
    }
    same = {("fog", severity): clean for severity in SEVERITIES}
    found = judge_corruptions(clean, {**losing, **same}, groups)
    json.dumps(found, allow_nan=False)
    assert len(found["limits"]) == 1
    assert found["limits"][0].startswith("snow from severity 2: ")
    assert found["rows"][5]["difference"]["value"] == 0
    assert judge_corruptions(clean[:10], {("snow", 5): np.zeros(10, bool)}, np.zeros(10))["limits"] == []
