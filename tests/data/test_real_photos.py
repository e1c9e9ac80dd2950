"""The real photos: a thousand re-encoded pairs that an independent hash also finds, none across roles."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catflap.artifacts.dataset import ROLES, Dataset
from catflap.artifacts.manifest import Manifest, load_manifest
from catflap.data.prepare import prepare
from catflap.data.scan import scan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def line(real_dataset: Dataset) -> tuple[Manifest, Dataset]:
    return load_manifest(real_dataset.path.with_name("manifest")), real_dataset


def difference_hash(path: Path) -> int:
    """dHash: is each of 8 × 8 pixels brighter than its right neighbour; nothing of ours in it."""
    small = Image.open(path).convert("L").resize((9, 8), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(int)
    return int("".join("01"[int(bit)] for bit in (pixels[:, 1:] > pixels[:, :-1]).ravel()), 2)


def test_every_pair_that_an_independent_hash_finds_shares_a_role(line: tuple[Manifest, Dataset]) -> None:
    manifest, dataset = line
    table = manifest.rows(["id", "uri", "group"])
    hashes = np.array([difference_hash(Path(uri)) for uri in table["uri"].to_pylist()], np.uint64)
    one, other = np.nonzero(np.triu(np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= 2, 1))
    group = table["group"].to_numpy()
    together = group[one] == group[other]
    assert together.sum() >= 1000
    assert together.mean() >= 0.99
    role = {id: name for name in ROLES for id in dataset.photos(name).ids.tolist()}
    ids = table["id"].to_pylist()
    pairs = zip(one[together].tolist(), other[together].tolist(), strict=True)
    assert [(a, b) for a, b in pairs if role[ids[a]] != role[ids[b]]] == []


def test_the_real_photos_have_a_thousand_near_duplicates(line: tuple[Manifest, Dataset]) -> None:
    manifest, dataset = line
    assert manifest.photos == manifest.ok == sum(dataset.roles.values())
    assert manifest.near_duplicates >= 1000
    for name, share in {"train": 0.6, "validation": 0.1, "calibration": 0.15, "test": 0.15}.items():
        labels = np.bincount(dataset.photos(name).labels)
        wanted = share * np.array([manifest.labels[label] for label in dataset.labels])
        assert np.abs(labels - wanted).max() <= 4


def test_packed_photos_are_the_files(line: tuple[Manifest, Dataset]) -> None:
    manifest, dataset = line
    paths = dict(zip(*manifest.rows(["id", "uri"]).to_pydict().values(), strict=True))
    photos = dataset.photos("test")
    for position in range(0, len(photos), 37):
        assert photos[position] == Path(paths[str(photos.ids[position])]).read_bytes()
        Image.open(io.BytesIO(photos[position])).verify()


def test_ten_thousand_photos_come_out_of_a_zip(photos_root: Path, tmp_path: Path) -> None:
    """Every sixth of CIFAR-10, in its nested folders, of which one is named like a role."""
    archive = photos_root.parent / "cifar10.zip"
    if not archive.exists():
        pytest.skip(f"there is no {archive}")
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "some.zip", "w") as some:
        for name in [name for name in whole.namelist() if not name.endswith("/")][::6]:
            some.writestr(name, whole.read(name))
    manifest = scan(tmp_path / "some.zip", tmp_path / "m")
    assert (manifest.photos, manifest.ok, len(manifest.labels)) == (10_000, 10_000, 10)
    dataset = prepare(manifest, tmp_path / "d")
    assert dataset.roles["test"] == 1_667
    assert sum(dataset.roles.values()) + dataset.left_out == 10_000
