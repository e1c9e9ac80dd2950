"""Photos to Manifest to Dataset, on real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catflap.artifacts.dataset import ROLES
from catflap.data.prepare import prepare
from catflap.data.scan import scan


def draw_photos(root: Path, labels: tuple[str, ...] = ("cat", "dog"), count: int = 40) -> Path:
    """Photos of random blobs, all different from one another."""
    dice = np.random.default_rng(7)
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(count):
            blobs = Image.fromarray(dice.integers(0, 255, (9, 12, 3), dtype=np.uint8))
            blobs.resize((160, 120), Image.Resampling.BICUBIC).save(root / label / f"{number:03d}.jpg")
    return root


def test_the_line_keeps_every_photo_and_every_byte(tmp_path: Path) -> None:
    source = draw_photos(tmp_path / "photos")
    manifest = scan(source, tmp_path / "m", workers=1)
    assert (manifest.photos, manifest.ok, manifest.labels) == (80, 80, {"cat": 40, "dog": 40})
    dataset = prepare(manifest, tmp_path / "d")
    assert dataset.labels == ("cat", "dog")
    assert sum(dataset.roles.values()) == 80
    stored = {photo for role in ROLES for photo in map(dataset.photos(role).__getitem__, range(3))}
    assert stored <= {path.read_bytes() for path in source.glob("*/*.jpg")}


def test_near_duplicates_share_a_role(tmp_path: Path) -> None:
    source = draw_photos(tmp_path / "photos")
    for path in sorted(source.glob("*/*.jpg"))[::2]:
        Image.open(path).resize((120, 90)).save(path.with_suffix(".copy.jpg"), quality=60)
    manifest = scan(source, tmp_path / "m", workers=1)
    assert (manifest.near_duplicates, manifest.near_duplicate_groups) == (40, 40)
    dataset = prepare(manifest, tmp_path / "d")
    groups = [set(dataset.photos(role).groups.tolist()) for role in ROLES]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 80


@pytest.mark.parametrize("role", ROLES)
def test_roles_reach_their_shares_in_every_label(tmp_path: Path, role: str) -> None:
    source = draw_photos(tmp_path / "photos")
    dataset = prepare(scan(source, tmp_path / "m", workers=1), tmp_path / "d")
    share = {"train": 24, "validation": 4, "calibration": 6, "test": 6}[role]
    assert np.abs(np.bincount(dataset.photos(role).labels) - share).max() <= 1
