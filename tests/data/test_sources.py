"""Every kind of source gives the same photos under the same labels."""

from __future__ import annotations

import csv
import functools
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from catflap.artifacts.manifest import Manifest
from catflap.data.listing import read_mapping
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.data.sources import Columns
from catflap.errors import CatflapError
from tests.data.photos import class_folders, rows

COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos") / "all" / "photos", COUNT)


@pytest.fixture(scope="module")
def plain(photos: Path) -> set[tuple[str, str]]:
    """The photos and labels that every source has to give."""
    return found(scan(photos, photos.parent.parent / "plain" / "m", workers=1, profile=False))


def found(manifest: Manifest) -> set[tuple[str, str]]:
    return {
        (row["id"], row["label"]) for row in rows(manifest, "id", "label", "status") if row["status"] == "ok"
    }


def zipped(photos: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, file in enumerate(sorted(photos.glob("*/*.jpg"))):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.write(file, file.relative_to(photos.parent), method)
    return path


def streamed_zip(photos: Path, path: Path) -> Path:
    """A zip whose local headers have no sizes, as programs that write into a pipe make it."""

    class Pipe(io.FileIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("a pipe has no position")

    with Pipe(path, "w") as pipe, zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(photos.glob("*/*.jpg")):
            archive.writestr(str(file.relative_to(photos)), file.read_bytes())
    return path


def tarred(photos: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(photos, "photos")
    return path


def sharded(photos: Path, folder: Path) -> Path:
    """WebDataset shards: one with .cls, one with .json beside each photo."""
    folder.mkdir()
    for number, label in enumerate(sorted(path.name for path in photos.iterdir())):
        with tarfile.open(folder / f"shard-{number:06d}.tar", "w") as archive:
            for place, file in enumerate(sorted((photos / label).iterdir())):
                sidecar = label.encode() if number else json.dumps({"label": label}).encode()
                suffix = "cls" if number else "json"
                for name, data in (
                    (f"{place:04d}.jpg", file.read_bytes()),
                    (f"{place:04d}.{suffix}", sidecar),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


def listed(photos: Path, path: Path) -> Path:
    files = sorted(photos.glob("*/*.jpg"))
    table = pa.table({"Path": [str(file) for file in files], "label": [file.parent.name for file in files]})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        options = pyarrow.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        pyarrow.csv.write_csv(table, path, options)
    return path


def spread(photos: Path, path: Path, mark: str = ";") -> Path:
    """A list as a spreadsheet writes it where numbers have commas, or with tabs; with a byte order mark."""
    lines = [f"{file}{mark}{file.parent.name}" for file in sorted(photos.glob("*/*.jpg"))]
    path.write_text("\r\n".join([f"Image_Path{mark}class", *lines]), "utf-8-sig")
    return path


def described(photos: Path, folder: Path, jsonl: bool = False) -> Path:
    """Hugging Face's layout: photos and their metadata in a folder of their own for each split."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        with open(folder / split / "metadata.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "label"])
            for number, photo in enumerate(sorted(photos.glob("*/*.jpg"))):
                if (number % 4 == 0) == (split == "test"):
                    name = f"{photo.parent.name}-{photo.name}"
                    (folder / split / name).write_bytes(photo.read_bytes())
                    table.writerow([name, photo.parent.name])
        if jsonl:
            named = list(csv.DictReader((folder / split / "metadata.csv").read_text().splitlines()))
            (folder / split / "metadata.csv").unlink()
            (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, named)))
    return folder


KINDS: dict[str, Callable[[Path, Path], Path | str]] = {
    "folders": lambda photos, root: photos,
    "one folder around": lambda photos, root: photos.parent,
    "zip": lambda photos, root: zipped(photos, root / "photos.zip"),
    "streamed zip": lambda photos, root: streamed_zip(photos, root / "photos.zip"),
    "tar": lambda photos, root: tarred(photos, root / "photos.tar"),
    "shards": lambda photos, root: sharded(photos, root / "shards"),
    "csv": lambda photos, root: listed(photos, root / "photos.csv"),
    "tsv": lambda photos, root: listed(photos, root / "photos.tsv"),
    "parquet": lambda photos, root: listed(photos, root / "photos.parquet"),
    "csv with semicolons": lambda photos, root: spread(photos, root / "photos.csv"),
    "csv with tabs": lambda photos, root: spread(photos, root / "photos.csv", "\t"),
    "metadata": lambda photos, root: described(photos, root / "described"),
    "metadata in JSON Lines": lambda photos, root: described(photos, root / "described", jsonl=True),
    "address": lambda photos, root: photos.as_uri(),
    "tar at an address": lambda photos, root: tarred(photos, root / "photos.tar").as_uri(),
    "zip at an address": lambda photos, root: zipped(photos, root / "photos.zip").as_uri(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_photos(
    kind: str, photos: Path, plain: set[tuple[str, str]], tmp_path: Path
) -> None:
    source = KINDS[kind](photos, tmp_path)
    manifest = scan(source, tmp_path / "m", workers=1, profile=False)
    assert found(manifest) == plain
    assert manifest.photos == 2 * COUNT
    dataset = prepare(manifest, tmp_path / "d", profile=False)
    assert dataset.bytes == sum(path.stat().st_size for path in photos.glob("*/*.jpg"))


def test_a_dataset_is_a_source_again(photos: Path, tmp_path: Path) -> None:
    """Its shards are WebDataset shards, and their names state the roles."""
    first = prepare(scan(photos, tmp_path / "m", workers=1), tmp_path / "d", profile=False)
    again = scan(tmp_path / "d" / "shards", tmp_path / "again", workers=1, profile=False)
    assert again.labels == {"0": COUNT, "1": COUNT}
    second = prepare(again, tmp_path / "second", profile=False)
    assert second.roles == first.roles


def test_folders_named_train_and_test_state_roles(
    photos: Path, plain: set[tuple[str, str]], tmp_path: Path
) -> None:
    for split, wanted in (("train", range(10)), ("val", range(10, 12))):
        for label in ("cat", "dog"):
            (tmp_path / "split" / split / label).mkdir(parents=True)
            for number in wanted:
                name = f"{number:03d}.jpg"
                data = (photos / label / name).read_bytes()
                (tmp_path / "split" / split / label / name).write_bytes(data)
    manifest = scan(tmp_path / "split", tmp_path / "m", workers=1, profile=False)
    assert found(manifest) == plain
    stated = [row["role"] for row in rows(manifest, "role")]
    assert (stated.count("train"), stated.count("validation")) == (20, 4)
    assert prepare(manifest, tmp_path / "d", profile=False).roles["validation"] == 4


def test_photos_at_web_addresses_in_a_list(photos: Path, plain: set[tuple[str, str]], tmp_path: Path) -> None:
    with served(photos) as address:
        files = sorted(photos.glob("*/*.jpg"))
        lines = [f"{address}/{file.parent.name}/{file.name},{file.parent.name}" for file in files]
        lines.append(f"{address}/cat/none.jpg,cat")
        (tmp_path / "list.csv").write_text("\n".join(["url,class", *lines]))
        manifest = scan(tmp_path / "list.csv", tmp_path / "m", workers=1, profile=False)
        assert found(manifest) == plain
    assert manifest.reasons == {"unreadable": 1}


class served:
    """A web server over a folder, on a port of this machine."""

    def __init__(self, folder: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

        handler = functools.partial(Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def numbered_list(photos: Path, tmp_path: Path) -> Path:
    """A list with numbers for labels, groups, roles, and every fault that a list can have."""
    path = tmp_path / "list.csv"
    lines = ["file,kind,animal,split"]
    for number, file in enumerate(sorted(photos.glob("*/*.jpg"))):
        role = ("train", "test")[number % 4 == 0]
        lines.append(f"{file},{int(file.parent.name == 'cat')},animal {number // 4},{role}")
    some = photos / "cat" / "000.jpg"
    lines += [f"{photos}/none.jpg,1,,train", f"{some},1,,test", f"{some.with_name('001.jpg')},,,train"]
    lines += [f"{some.with_name('002.jpg')},1,,holdout", ",0,,"]
    path.write_text("\n".join(lines))
    return path


def test_a_list_with_groups_roles_and_faults(numbered_list: Path, tmp_path: Path) -> None:
    columns = Columns(label="kind", group="animal")
    manifest = scan(numbered_list, tmp_path / "m", columns=columns, workers=1, profile=False)
    assert manifest.labels == {"0": COUNT, "1": COUNT}
    assert manifest.reasons == {
        "exact_duplicate": 1, "missing": 1, "no_label": 1, "unknown_role": 1, "unreadable": 1,
    }  # fmt: skip
    table = rows(manifest, "user_group", "group", "role", "status")
    groups = {
        (row["user_group"], row["group"]) for row in table if row["status"] == "ok" and row["user_group"]
    }
    assert len(groups) == len({group for _, group in groups}) == 2 * COUNT // 4


def test_a_list_that_was_written_on_windows(
    photos: Path, plain: set[tuple[str, str]], tmp_path: Path
) -> None:
    lines = ["path,label"]
    for photo in sorted(photos.glob("*/*.jpg")):
        folder = photo.relative_to(photos.parent.parent)
        lines.append("\\".join(folder.parts) + f",{photo.parent.name}")
    listed = photos.parent.parent / "windows.csv"
    listed.write_text("\r\n".join(lines), "utf-8")
    assert found(scan(listed, tmp_path / "m", workers=1, profile=False)) == plain


def test_a_list_without_the_column_says_which_it_has(numbered_list: Path, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match=r"no column label.*kind") as error:
        scan(numbered_list, tmp_path / "m", workers=1)
    assert "--label-column" in error.value.fix


def test_a_list_that_is_utf_16_says_so(photos: Path, tmp_path: Path) -> None:
    path = listed(photos, tmp_path / "list.csv")
    path.write_text(path.read_text(), "utf-16")
    with pytest.raises(CatflapError, match="UTF-16, not UTF-8") as error:
        scan(path, tmp_path / "m", workers=1)
    assert "UTF-8" in error.value.fix


def test_a_folder_of_parquet_files_that_hold_the_photos_says_so(photos: Path, tmp_path: Path) -> None:
    """As data sets of Hugging Face lie on disk."""
    table = pa.table({"image": [{"bytes": b"x", "path": "a"}] * 2, "label": [0, 1]})
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "README.md").touch()
    pyarrow.parquet.write_table(table, tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(CatflapError, match=r"Parquet file .*train-00000.* holds the photos themselves"):
        scan(tmp_path / "set", tmp_path / "m", workers=1)


@pytest.mark.parametrize("kind", ["folders", "zip", "tar", "shards", "address"])
def test_columns_that_are_named_for_a_source_without_are_refused(
    kind: str, photos: Path, tmp_path: Path
) -> None:
    source, columns = KINDS[kind](photos, tmp_path), Columns(group="animal", role="split")
    with pytest.raises(CatflapError, match="is not a list") as error:
        scan(source, tmp_path / "m", columns=columns, workers=1)
    assert error.value.fix == "Leave out --group-column, --role-column."
    assert not (tmp_path / ".m.scan").exists()


def test_columns_of_metadata_can_be_named(photos: Path, plain: set[tuple[str, str]], tmp_path: Path) -> None:
    source, columns = described(photos, tmp_path / "described"), Columns("file_name", "label")
    assert found(scan(source, tmp_path / "m", columns=columns, workers=1, profile=False)) == plain


def test_labels_can_be_renamed_merged_and_left_out(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 4, ("lion", "dog", "tabby", "wolf"))
    (tmp_path / "map.json").write_text(
        json.dumps({"tabby": "cat", "lion": "cat", "wolf": None, "*": "other"})
    )
    mapping = read_mapping(tmp_path / "map.json")
    manifest = scan(source, tmp_path / "m", labels=mapping, workers=1, profile=False)
    assert manifest.labels == {"cat": 8, "other": 4}
    assert manifest.left_out == {"wolf": 4}
    (tmp_path / "map.csv").write_text("label,to\ntabby,cat\nlion,cat\nwolf,\n*,other\n")
    assert read_mapping(tmp_path / "map.csv") == mapping
    for text in ("", "from,to\ntabby,cat\n", "label\ntabby\n"):
        (tmp_path / "map.csv").write_text(text)
        with pytest.raises(CatflapError, match="columns label and to are missing"):
            read_mapping(tmp_path / "map.csv")
    with pytest.raises(CatflapError, match="'tiger'"):
        scan(source, tmp_path / "m", labels={"tiger": "cat"}, workers=1)


def test_a_tar_that_breaks_off_keeps_what_is_whole(photos: Path, tmp_path: Path) -> None:
    path = tarred(photos, tmp_path / "photos.tar")
    path.write_bytes(path.read_bytes()[:-40_000])
    manifest = scan(path, tmp_path / "m", workers=1, profile=False)
    assert 10 < manifest.ok < 2 * COUNT
    assert manifest.reasons.pop("archive_truncated") == 1
    assert manifest.reasons in ({}, {"truncated": 1})


def test_archives_that_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    whole = zipped(photos, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "not.tar").write_bytes(b"no archive at all" * 100)
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    faults = {"half.zip": "not a complete zip", "not.tar": "not a tar", "photos.tar.gz": "compressed"}
    for name, what in faults.items():
        with pytest.raises(CatflapError, match=what):
            scan(tmp_path / name, tmp_path / "m", workers=1)


def test_members_of_a_zip_that_are_spoilt_or_locked(photos: Path, tmp_path: Path) -> None:
    path = zipped(photos, tmp_path / "photos.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, second = archive.infolist()[0], archive.infolist()[1]
    data[first.header_offset + 400] ^= 255  # inside the stored photo
    directory = data.index(b"PK\x01\x02")
    entry = data.index(second.filename.encode(), directory) - 46
    data[entry + 8] |= 1  # the flag that says encrypted
    path.write_bytes(data)
    manifest = scan(path, tmp_path / "m", workers=1, profile=False)
    assert manifest.reasons == {"encrypted": 1, "unreadable": 1}


@pytest.mark.parametrize("name", ["nothing", "notes.txt", "s4://bucket/photos"])
def test_sources_that_are_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photos")
    with pytest.raises(CatflapError):
        scan(name if "://" in name else tmp_path / name, tmp_path / "m", workers=1)
