"""Photos that are not used are counted by kind and named, each kind with its fix."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import catflap
from catflap.data.refusals import KINDS, refusal_sentence, refusals
from catflap.data.scan import scan


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos, and others that cannot be used."""
    random = np.random.default_rng(0)
    root = tmp_path / "photos"
    for label in ("cat", "other"):
        (root / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.kron(random.integers(0, 255, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"IMG_{number}.jpg")
    broken = root / "cat" / "IMG_2.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    (root / "other" / "copy.jpg").write_bytes((root / "other" / "IMG_0.jpg").read_bytes())
    (root / "other" / "page.jpg").write_bytes(b"<!doctype html><title>404</title>")
    (root / "other" / "nothing.jpg").touch()
    return root


def test_every_photo_that_is_not_used_is_counted_and_named(photos: Path, tmp_path: Path) -> None:
    manifest = scan(photos, tmp_path / "manifest", workers=1)
    found = refusals(manifest)
    assert sum(kind["photos"] for kind in found) == manifest.photos - manifest.ok == 4
    message = [refusal_sentence(kind) for kind in found]
    assert "1 is broken: copy it again (IMG_2.jpg)" in message
    assert "1 is a copy of another (copy.jpg)" in message
    assert "1 is a web page: download the photo instead (page.jpg)" in message
    assert "1 has no bytes: copy it again (nothing.jpg)" in message


def test_more_of_a_kind_are_one_sentence_with_some_names() -> None:
    kind = {"photos": 5, "what": KINDS["truncated"][1], "fix": KINDS["truncated"][2], "files": list("abcde")}
    assert refusal_sentence(kind) == "5 are broken: copy them again (a, b, c, …)"


def test_every_reason_of_a_photo_has_its_words() -> None:
    """Reasons are literals of BadPhoto and of the scan; each has words of its own."""
    source, reasons = Path(catflap.__file__).parent, set[str]()
    for name in ("image.py", "data/reading.py", "data/workers.py", "data/sources.py", "data/jpeg.py"):
        text = (source / name).read_text("utf-8")
        reasons |= set(re.findall(r'BadPhoto\(\s*"(\w+)"', text))
        reasons |= set(re.findall(r'fault=.*?"(\w+)"\)', text))
    assert len(reasons) >= 12
    assert reasons <= set(KINDS), reasons - set(KINDS)
