"""Features are worked out once: the cache answers when the photos are gone, and never for another frame."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.dataset import SHARDS, Dataset, load_dataset
from catflap.artifacts.manifest import load_manifest
from catflap.data.prepare import prepare
from catflap.data.roles import SHARES
from catflap.errors import BadArtifact, CatflapError
from catflap.image import Frame, Pixels, read_pixels
from catflap.training import features as room
from catflap.training.backbones import Backbone, load_backbone
from catflap.training.features import Extractor, Features, features, open_extractor
from catflap.training.head import fit_head
from tests.matrix import mostly_slow
from tests.tiny import FRAME, TINY
from tests.training.small import small_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(TINY)


@pytest.fixture(scope="module")
def small() -> Backbone:
    """Two convolutions, of which a graph is soon written."""
    return small_backbone()


@pytest.fixture(scope="module")
def extractor(backbone: Backbone) -> Extractor:
    return open_extractor(backbone, FRAME)


@pytest.fixture
def dataset(drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A Dataset of the test's own, and an empty cache."""
    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path / "cache"))
    shutil.copytree(drawn_dataset.path, tmp_path / "dataset")
    return load_dataset(tmp_path / "dataset")


def parts(tmp_path: Path, extractor: Extractor) -> list[Path]:
    return sorted((tmp_path / "cache" / "features" / extractor.key).glob("*.npz"))


def test_they_are_those_of_the_model_in_order(extractor: Extractor, dataset: Dataset) -> None:
    photos = dataset.photos("train")
    frames = np.stack([read_pixels(photos[n], FRAME) for n in range(len(photos))])
    found = features(extractor, photos)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.concatenate([extractor.model(frame[None]) for frame in frames]))
    backwards = np.arange(len(photos))[::-1].copy()
    assert np.array_equal(features(extractor, photos.take(backwards)), found[::-1])


@pytest.mark.slow
def test_frames_of_one_size_share_a_graph_but_no_features(
    small: Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    """How a photo is made to fit is not in the graph, which takes long to write."""
    squashed, cropped = (open_extractor(small, replace(FRAME, fit=fit)) for fit in ("squash", "crop"))
    (graph,) = (tmp_path / "cache" / "backbones").iterdir()
    wider = open_extractor(small, replace(FRAME, width=FRAME.width + 16))
    assert len({path.read_bytes() for path in graph.parent.iterdir()}) == 2
    assert len({squashed.key, cropped.key, wider.key}) == 3


def test_many_threads_give_what_one_gives(
    extractor: Extractor, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each works on photos of its own; two of them wait for each other, so there must be two."""
    photos, both = dataset.photos("train"), threading.Barrier(2)
    alone = features(replace(extractor, workers=1), photos)
    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path / "another"))
    first = threading.local()

    def run(frames: Pixels) -> Features:
        if not hasattr(first, "met"):
            first.met = both.wait(timeout=60)
        return extractor.model(frames)

    assert np.array_equal(features(replace(extractor, model=run, workers=2), photos), alone)


def test_many_are_in_a_file_that_is_gone_with_them(
    extractor: Extractor, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = dataset.photos("train")
    held = features(extractor, photos)
    monkeypatch.setattr(room, "MEMORY_SHARE", 0)
    mapped = features(extractor, photos)
    assert (isinstance(held, np.memmap), isinstance(mapped, np.memmap)) == (False, True)
    assert np.array_equal(mapped, held)
    assert [path for path in (tmp_path / "cache" / "features").iterdir() if path.is_file()] == []
    head, again = (
        fit_head([(known, photos.labels)], len(dataset.labels), 0.01, True) for known in (held, mapped)
    )
    assert again.weights.tobytes() == head.weights.tobytes()


def test_no_room_for_them_is_one_error(dataset: Dataset) -> None:
    with pytest.raises(CatflapError, match=r"of 1,000,000,000,000 photos take 5120000.0 GB") as reported:
        room._allocate(10**12, 1280)
    assert "CATFLAP_CACHE" in str(reported.value.fix)


def test_torch_gives_them_in_the_same_order(
    backbone: Backbone, extractor: Extractor, dataset: Dataset
) -> None:
    """As before a GPU: many at a time, in bf16, from threads that take turns."""
    torchs = open_extractor(backbone, FRAME, device="cpu:0")
    photos = dataset.photos("train")
    one, other = features(extractor, photos), features(torchs, photos)
    near = one @ other.T / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(other, axis=1)
    assert near.diagonal().min() > 0.99
    assert near.argmax(1).tolist() == list(range(len(photos)))


def test_the_second_time_no_photo_is_read(extractor: Extractor, dataset: Dataset) -> None:
    photos = dataset.photos("train")
    first = features(extractor, photos)
    shutil.rmtree(dataset.path / SHARDS)
    assert np.array_equal(features(extractor, photos), first)
    with pytest.raises(CatflapError):
        features(extractor, dataset.photos("validation"))


def test_a_photo_that_was_made_smaller_has_features_of_its_own(
    extractor: Extractor, dataset: Dataset, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    """Under the same id, which is that of the original."""
    manifest = load_manifest(drawn_dataset.path.with_name("manifest"))
    small = prepare(
        manifest, tmp_path / "small", frame=FRAME, shares=SHARES, shrink=64, profile=False
    ).photos("train")
    first, second = features(extractor, dataset.photos("train")), features(extractor, small)
    assert np.array_equal(small.ids, dataset.photos("train").ids)
    assert not (first == second).all(axis=1).any()
    frame = read_pixels(small[0], FRAME)
    assert np.array_equal(second[0], extractor.model(frame[None])[0])


def test_a_stopped_run_goes_on(extractor: Extractor, dataset: Dataset, tmp_path: Path) -> None:
    """Photos that are added later are worked out, and those that are known are kept."""
    photos = dataset.photos("train")
    some = features(extractor, photos.take(np.arange(0, len(photos), 2)))
    whole = features(extractor, photos)
    assert np.array_equal(whole[::2], some)
    for path in parts(tmp_path, extractor)[::2]:
        path.unlink()
    assert np.array_equal(features(extractor, photos), whole)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "other width", "pickle"])
def test_a_damaged_part_is_worked_out_again(
    extractor: Extractor, dataset: Dataset, tmp_path: Path, damage: str
) -> None:
    photos = dataset.photos("validation")
    first = features(extractor, photos)
    for path in parts(tmp_path, extractor):
        whole = path.read_bytes()
        if damage == "cut":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "flipped":
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :])
        elif damage == "other width":
            np.savez(path, ids=photos.ids, features=np.zeros((len(photos), 5), np.float32))
        elif damage == "pickle":
            np.savez(path, ids=photos.ids.astype(object), features=np.zeros_like(first))
        else:
            path.write_bytes(b"" if damage == "empty" else b"text")
    assert np.array_equal(features(extractor, photos), first)
    shutil.rmtree(dataset.path / SHARDS)
    assert np.array_equal(features(extractor, photos), first)  # and it was kept


def test_nothing_else_than_parts_is_left(extractor: Extractor, dataset: Dataset, tmp_path: Path) -> None:
    features(extractor, dataset.photos("validation"))
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert all(name.endswith(".npz") and not name.startswith(".") for name in left)


@pytest.mark.parametrize("damage", mostly_slow(["cut", "flipped", "empty"]))
def test_a_damaged_graph_is_written_again(
    small: Backbone, dataset: Dataset, tmp_path: Path, damage: str
) -> None:
    whole = room.feature_graph(small, FRAME)
    (path,) = (tmp_path / "cache" / "backbones").iterdir()
    damaged = {"cut": whole[: len(whole) // 2], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}
    path.write_bytes(damaged[damage])
    assert room.feature_graph(small, FRAME) == whole
    assert [left.read_bytes() for left in path.parent.iterdir()] == [whole]


@pytest.mark.slow
def test_without_a_cache_that_can_be_written_work_goes_on(
    small: Backbone,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    photos = dataset.photos("validation")
    extractor = open_extractor(small, FRAME)
    known = features(extractor, photos)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CATFLAP_CACHE", str(tmp_path / "file"))
    other = open_extractor(small, FRAME)
    assert np.array_equal(features(other, photos), known)
    (reported,) = (record.getMessage() for record in caplog.records if record.name == room.__name__)
    assert f"The cache {tmp_path / 'file'} cannot be written" in reported
    monkeypatch.setattr(room, "MEMORY_SHARE", 0)
    with pytest.raises(CatflapError, match="CATFLAP_CACHE"):
        features(extractor, photos)


def test_another_frame_or_backbone_has_another_key(backbone: Backbone, extractor: Extractor) -> None:
    """A GPU's name makes a key without an ONNX file; only the key is looked at."""
    others = [
        replace(backbone, sha256="0" * 64),
        replace(backbone, mean=(0.4, 0.5, 0.5)),
        replace(backbone, name="efficientnet_lite0"[::-1]),
    ]
    frames = [
        Frame(72, 64),
        Frame(64, 64, "crop"),
        Frame(64, 64, decode="full"),
        Frame(64, 64, filter="bicubic"),
    ]
    keys = {open_extractor(backbone, frame, device="meta").key for frame in [FRAME, *frames]}
    keys |= {open_extractor(other, FRAME, device="meta").key for other in others}
    assert len(keys | {extractor.key}) == 1 + len(frames) + len(others) + 1


def test_a_damaged_shard_is_one_error(extractor: Extractor, dataset: Dataset) -> None:
    for path in (dataset.path / SHARDS).glob("train-*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BadArtifact, match=r"does not contain the photo .*: its bytes have changed"):
        features(extractor, dataset.photos("train"))
    for path in (dataset.path / SHARDS).glob("train-*.tar"):
        path.write_bytes(b"")
    with pytest.raises(CatflapError):
        features(extractor, dataset.photos("train"))
