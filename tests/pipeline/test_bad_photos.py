"""Photos that are hard on a build: grey, tiny, huge, unbalanced, of one size or scene, one for each label."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from PIL import Image

from catflap.artifacts.dataset import Dataset
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.errors import CatflapError
from catflap.pipeline.build import build
from catflap.pipeline.evaluate import evaluate
from catflap.training.plan import Plan
from catflap.training.train import train
from tests.matrix import mostly_slow
from tests.tiny import FRAME, TINY, drawn

Photos: TypeAlias = Callable[[str, int], Image.Image]


def write(root: Path, photo: Photos, counts: dict[str, int], suffix: str = "png") -> Path:
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            photo(label, number).save(root / label / f"{number}.{suffix}")
    return root


def plain(label: str, number: int) -> Image.Image:
    return Image.fromarray(drawn(label, number))


def grey(label: str, number: int) -> Image.Image:
    """The labels differ in brightness, and every other photo has one channel only."""
    dark = plain(label, number).convert("L").point(lambda level: level // 2 if label == "cat" else level)
    return dark if number % 2 else dark.convert("RGB")


def sixteen_px(label: str, number: int) -> Image.Image:
    return plain(label, number).resize((16, 16))


def one_scene(label: str, number: int) -> Image.Image:
    """All photos show the same but for a corner."""
    scene = plain("third", 0)
    scene.paste(plain(label, number).resize((50, 40)), (100, 70))
    return scene


def one_size(label: str, number: int) -> Image.Image:
    """All photos have the size of the frame: none is resized, and sizes tell nothing."""
    return plain(label, number).resize((FRAME.width, FRAME.height))


KINDS = {"grey": grey, "16 px": sixteen_px, "one scene": one_scene, "one size": one_size}
EVEN = {"cat": 25, "other": 25}


def prepared(root: Path, photo: Photos, counts: dict[str, int], suffix: str = "png") -> Dataset:
    manifest = scan(write(root / "photos", photo, counts, suffix), root / "m", workers=1, profile=False)
    return prepare(manifest, root / "d", frame=FRAME, profile=False)


@pytest.mark.parametrize("kind", mostly_slow(KINDS, 2))
def test_a_head_learns_from_them(tmp_path: Path, kind: str, keep_graphs: Path) -> None:
    dataset = prepared(tmp_path, KINDS[kind], EVEN)
    assert sum(dataset.roles.values()) == 50, "none is a near-duplicate in another role"
    checkpoint = train(dataset, tmp_path / "checkpoint", Plan(backbone=TINY, recipe="head"))
    assert checkpoint.metrics["accuracy"]["value"] >= 0.8


def test_photos_of_one_size_have_no_slices_by_size(tmp_path: Path, keep_graphs: Path) -> None:
    dataset = prepared(tmp_path, one_size, EVEN)
    train(dataset, tmp_path / "checkpoint", Plan(backbone=TINY, recipe="head"))
    others = write(tmp_path / "others", lambda label, number: one_size(label, 100 + number), EVEN)
    report = evaluate(tmp_path / "checkpoint", others, tmp_path / "report")
    names = [entry["slice"] for entry in report.conditions["slices"]["rows"]]
    assert any(name.startswith("brightness") for name in names)
    assert not any("side" in name for name in names)


def test_twenty_times_as_many_photos_of_one_label(tmp_path: Path, keep_graphs: Path) -> None:
    """The rare label keeps photos in every role, and is found."""

    def small(label: str, number: int) -> Image.Image:
        return plain(label, number).resize((64, 48))

    dataset = prepared(tmp_path, small, {"cat": 10, "other": 200}, "jpg")
    for role in ("train", "validation", "calibration", "test"):
        assert (dataset.photos(role).labels == 0).any()
    checkpoint = train(dataset, tmp_path / "checkpoint", Plan(backbone=TINY, recipe="head"))
    assert checkpoint.metrics["per_class"]["cat"]["recall"]["value"] > 0


def test_one_photo_for_each_label_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="Each label needs 10 photos") as caught:
        prepared(tmp_path, plain, {"cat": 1, "other": 1, "third": 1})
    assert "'cat' has 1 photo;" in caught.value.what


def test_five_photos_beside_many_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="'cat' has 5 photos"):
        prepared(tmp_path, plain, {"cat": 5, "other": 30})


def test_photos_of_100_megapixels_are_named_with_their_fix(tmp_path: Path) -> None:
    source = write(tmp_path / "photos", plain, EVEN)
    buffer = io.BytesIO()
    plain("cat", 99).save(buffer, "JPEG")
    start, height, end = buffer.getvalue().partition((120).to_bytes(2) + (160).to_bytes(2))
    assert height, "the header states 120 × 160 px"
    (source / "cat" / "huge.jpg").write_bytes(start + (8_700).to_bytes(2) + (11_600).to_bytes(2) + end)
    manifest = scan(source, tmp_path / "m", workers=1, profile=False)
    assert (manifest.ok, manifest.quarantined) == (50, 1)
    assert manifest.reasons == {"too_many_pixels": 1}


@pytest.mark.slow
@pytest.mark.parametrize("kind", mostly_slow(KINDS, 2))
def test_a_build_of_them_ends_with_a_verified_bundle(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path / "photos", KINDS[kind], EVEN)
    summary = build(source, tmp_path / "mine.catflap", frame=FRAME, plan=Plan(backbone=TINY, recipe="head"))
    assert summary["verdict"] == "pass"
    assert summary["photos"]["found"] == 50
