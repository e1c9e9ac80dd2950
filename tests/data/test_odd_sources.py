"""Archives and lists that mislead, or are damaged where few look: rows with reasons, or one error."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from catflap.data.listing import read_mapping
from catflap.data.reading import list_tars
from catflap.data.scan import scan
from catflap.data.sources import Columns, list_table
from catflap.errors import CatflapError
from tests.data.photos import class_folders, encoded
from tests.data.test_sources import found, listed, streamed_zip, zipped

COUNT = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos") / "photos", COUNT)


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_a_sparse_member_is_set_aside_and_those_after_it_are_right(format: str, tmp_path: Path) -> None:
    """Only tar knows where the pieces of a file with holes belong (tar -S)."""
    root = class_folders(tmp_path / "photos", 3)
    whole = encoded(Image.new("RGB", (300, 300)), "BMP")
    with open(root / "cat" / "000.bmp", "wb") as file:
        file.write(whole[:4096])
        file.truncate(len(whole) - 512)  # black is zeros: a hole
        file.seek(0, 2)
        file.write(bytes([9] * 512))
    command = ["tar", f"--format={format}", "-S", "--sort=name", "-cf", tmp_path / "s.tar", "-C", tmp_path]
    if subprocess.run([*command, "photos"], check=False).returncode:
        pytest.skip("this tar writes no sparse members")
    with tarfile.open(tmp_path / "s.tar") as archive:
        if not any(member.issparse() for member in archive):
            pytest.skip("this file system has no holes")
    manifest = scan(tmp_path / "s.tar", tmp_path / "m", workers=1, profile=False)
    assert manifest.reasons == {"sparse": 1}
    (root / "cat" / "000.bmp").unlink()
    assert found(manifest) == found(scan(root, tmp_path / "plain", workers=1, profile=False))


def sized(tar: Path, place: int, size: bytes) -> None:
    """Give the header of the member at a place in a tar another size, and its checksum."""
    with tarfile.open(tar) as archive:
        start = archive.getmembers()[place].offset
    data = bytearray(tar.read_bytes())
    header = data[start : start + 512]
    header[124:136], header[148:156] = size, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[start : start + 512] = header
    tar.write_bytes(data)


SIZES = {"2 to the 88th": b"\x80" + b"\xff" * 11, "below 0": b"\xff" * 10 + b"\xf0\0", "-1": b"\xff" * 12}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_a_member_of_a_tar_with_a_size_that_cannot_be(
    photos: Path, tmp_path: Path, size: str, format: int
) -> None:
    with tarfile.open(tmp_path / "t.tar", "w", format=format) as archive:
        for file in sorted(photos.glob("*/*.jpg")):
            archive.add(file, file.relative_to(photos))
    sized(tmp_path / "t.tar", 2 * COUNT - 1, SIZES[size])  # of its pax header, where it has one
    manifest = scan(tmp_path / "t.tar", tmp_path / "m", workers=1, profile=False)
    assert manifest.ok == 2 * COUNT - 1
    assert manifest.reasons.pop("archive_truncated") == 1
    assert manifest.reasons == ({"truncated": 1} if manifest.photos == 2 * COUNT + 1 else {})
    assert manifest.photos == 2 * COUNT + (format == tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_whose_paths_lead_out_of_the_archive_are_rows(
    photos: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"odd.{kind}"
    files = {str(file.relative_to(photos)): file.read_bytes() for file in photos.glob("*/*.jpg")}
    files |= {"/root/cat/a.jpg": b"absolute", "../cat/b.jpg": b"above"}
    with tarfile.open(path, "w") if kind == "tar" else zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr(name, data)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    manifest = scan(path, tmp_path / "m", workers=1, profile=False)
    assert manifest.labels == {"cat": COUNT, "dog": COUNT}
    assert manifest.reasons == {"outside_archive": 2}


def test_a_member_of_a_zip_without_a_name_is_a_row(photos: Path, tmp_path: Path) -> None:
    path = zipped(photos, tmp_path / "photos.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("?", b"x")
    path.write_bytes(path.read_bytes().replace(b"?PK\x05", b"\0PK\x05"))  # a name ends where a zero is
    manifest = scan(path, tmp_path / "m", workers=1, profile=False)
    assert (manifest.ok, manifest.reasons) == (2 * COUNT, {"no_label": 1})


def test_a_spoilt_member_of_a_streamed_zip_is_noticed(photos: Path, tmp_path: Path) -> None:
    """Its CRC does not stand before it; that in the directory is known all the same."""
    path = streamed_zip(photos, tmp_path / "photos.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].flag_bits & 8
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 16] ^= 1  # the lowest bit of the CRC that the directory has
    path.write_bytes(data)
    manifest = scan(path, tmp_path / "m", workers=1, profile=False)
    assert (manifest.ok, manifest.reasons) == (2 * COUNT - 1, {"unreadable": 1})


BAD_COLUMNS: dict[str, dict[str, Any]] = {
    "photos in the table": {"image": [{"bytes": b"x", "path": "a"}] * 2, "label": [0, 1]},
    "lists for labels": {"path": ["a", "b"], "label": [[0], [1]]},
    "paths that are not UTF-8": {"path": [b"\xff", b"\xfe"], "label": [0, 1]},
    "infinite labels": {"path": ["a", "b"], "label": [1.0, float("inf")]},
    "labels beyond every whole number": {"path": ["a", "b"], "label": [1.0, 1e300]},
}


@pytest.mark.parametrize("kind", BAD_COLUMNS)
def test_a_column_that_is_no_text_is_one_error(kind: str, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table(BAD_COLUMNS[kind]), tmp_path / "list.parquet")
    with pytest.raises(CatflapError, match="cannot be read as text"):
        scan(tmp_path / "list.parquet", tmp_path / "m", workers=1)


def test_labels_in_half_precision_are_numbers(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*/*.jpg"))
    labels = pa.array(np.array([file.parent.name == "cat" for file in files], np.float16))
    table = pa.table({"path": [str(file) for file in files], "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    manifest = scan(tmp_path / "list.parquet", tmp_path / "m", workers=1, profile=False)
    assert manifest.labels == {"0": COUNT, "1": COUNT}


@pytest.mark.parametrize("header", ["path,label,label", "path,label, Label"])
def test_a_list_with_two_columns_of_one_name_is_refused(header: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"{header}\n{photos}/cat/000.jpg,cat,dog\n")
    with pytest.raises(CatflapError, match="2 columns named label"):
        scan(tmp_path / "list.csv", tmp_path / "m", workers=1)


def test_a_damaged_parquet_is_a_list_or_one_error(photos: Path, tmp_path: Path) -> None:
    whole = listed(photos, tmp_path / "list.parquet").read_bytes()
    path, refused = tmp_path / "damaged.parquet", 0
    for place in range(len(whole) - 700, len(whole)):  # where the names and types stand
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            list(list_table(path, Columns()).references)
        except CatflapError:
            refused += 1
    assert refused > 100


def test_half_a_letter_is_no_label(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"cat": "\\ud800"}')
    with pytest.raises(CatflapError, match="cannot be read"):
        read_mapping(tmp_path / "map.json")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, data in (("a.jpg", b"x"), ("a.json", b'{"label": "\\ud800"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert [row["label"] for row in list_tars([str(tmp_path / "t.tar")]).references] == ["\\ud800"]


def test_no_name_is_not_the_current_folder(tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="name of the source is empty"):
        scan("", tmp_path / "m", workers=1)
