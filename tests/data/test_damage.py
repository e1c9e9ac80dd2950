"""A Dataset whose bytes have changed on the disk: learning ends, and the photo is named."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catflap.artifacts.dataset import INDEX, SHARDS, Dataset, Photos
from catflap.artifacts.manifest import Manifest
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.errors import BadArtifact, BadPhoto
from catflap.image import Frame
from catflap.training.augment import load_batches
from tests.data.photos import class_folders

FRAME = Frame(48, 32)
PLACE = 20  # of the photo that is harmed


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    source = class_folders(tmp_path_factory.mktemp("damage") / "photos", 40)
    return scan(source, source.parent / "m", workers=1, profile=False)


def packed(manifest: Manifest, folder: Path, shrink: int = 0) -> tuple[Dataset, Photos, Path]:
    """A Dataset, its train photos, and the shard that has them."""
    dataset = prepare(manifest, folder, frame=FRAME, shrink=shrink, profile=False)
    photos = dataset.photos("train")
    return dataset, photos, dataset.path / SHARDS / str(photos.shards[PLACE])


def learn(photos: Photos) -> None:
    for _ in load_batches(photos, FRAME, 7, epochs=1):
        pass


@pytest.mark.parametrize("shrink", [0, 32], ids=["as it was", "made smaller"])
def test_one_bit_that_changed_in_a_photo_is_an_error(manifest: Manifest, tmp_path: Path, shrink: int) -> None:
    dataset, photos, shard = packed(manifest, tmp_path / "d", shrink)
    learn(photos)
    data = bytearray(shard.read_bytes())
    data[int(photos.offsets[PLACE] + photos.lengths[PLACE] // 2)] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BadArtifact, match=f"{photos.ids[PLACE]}: its bytes have changed") as error:
        learn(dataset.photos("train"))
    assert shard.name in error.value.what


def test_a_shard_that_is_cut_short_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    _, photos, shard = packed(manifest, tmp_path / "d")
    shard.write_bytes(shard.read_bytes()[: int(photos.offsets[PLACE] + photos.lengths[PLACE]) - 1])
    with pytest.raises(BadArtifact, match="it is cut short") as error:
        learn(photos)
    assert len([id for id in photos.ids.tolist() if id in error.value.what]) == 1
    assert shard.name in error.value.what


def test_a_shard_that_is_gone_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    _, photos, shard = packed(manifest, tmp_path / "d")
    shard.unlink()
    with pytest.raises(BadArtifact, match=shard.name) as error:
        learn(photos)
    assert len([id for id in photos.ids.tolist() if id in error.value.what]) == 1


def test_a_photo_that_cannot_be_decoded_is_named(manifest: Manifest, tmp_path: Path) -> None:
    """What is in the shard is what was packed, but no photo here: another Pillow, say."""
    _, photos, shard = packed(manifest, tmp_path / "d")
    data, start, crcs = bytearray(shard.read_bytes()), int(photos.offsets[PLACE]), photos.crcs.copy()
    stop = start + int(photos.lengths[PLACE])
    data[start:stop] = bytes(stop - start)
    shard.write_bytes(data)
    crcs[PLACE] = zlib.crc32(data[start:stop])
    with pytest.raises(BadPhoto, match=str(photos.ids[PLACE])) as error:
        learn(replace(photos, crcs=crcs))
    assert shard.name in error.value.what


def test_one_bit_that_changed_in_the_index_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    dataset, _, _ = packed(manifest, tmp_path / "d")
    index = dataset.path / INDEX
    group = pq.ParquetFile(index).metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    column = next(each for each in columns if each.path_in_schema == "id")
    data = bytearray(index.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + column.total_compressed_size // 2] ^= 1
    index.write_bytes(data)
    with pytest.raises(BadArtifact, match="cannot be read"):
        dataset.photos("validation")


def test_an_index_of_an_older_catflap_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    dataset, _, _ = packed(manifest, tmp_path / "d")
    index = dataset.path / INDEX
    pq.write_table(pq.read_table(index).drop_columns(["crc32"]), index)
    with pytest.raises(BadArtifact, match="older Catflap"):
        dataset.photos("validation")
