"""Stores: errors keep a store's own message, and what systems leave there is passed over."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from catflap.data.examine import examine
from catflap.data.listing import REFERENCE
from catflap.data.reading import list_tars
from catflap.data.scan import scan
from catflap.data.sources import DEFAULT_COLUMNS, open_source
from catflap.errors import CatflapError
from tests.data.photos import class_folders, draw, encoded
from tests.data.test_odd_sources import SIZES, sized
from tests.data.test_sources import found, served, sharded, tarred, zipped

ARCHIVES = {"zip": zipped, "tar": tarred}


class NoCredentialsError(Exception):
    """An error of a store's own, as botocore has them."""


class Store(fsspec.AbstractFileSystem):
    """A store over the files of this machine, which refuses after `patience` reads."""

    protocol = "moody"
    patience = 0

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": Path(path).stat().st_size, "type": "file"}

    def _open(self, path: str, *_: Any, **__: Any) -> io.FileIO:
        return File(path)


class File(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        Store.patience -= 1
        if Store.patience < 0:
            raise NoCredentialsError("Unable to locate credentials")
        return super().read(-1 if size is None else size) or b""


@pytest.fixture
def store() -> Iterator[type[Store]]:
    fsspec.register_implementation("moody", Store, clobber=True)
    yield Store
    Store.patience = 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos") / "photos", 6)


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_a_store_that_refuses_an_archive_is_one_error(
    kind: str, patience: int, photos: Path, store: type[Store], tmp_path: Path
) -> None:
    path = ARCHIVES[kind](photos, tmp_path / f"photos.{kind}")
    store.patience = patience
    with pytest.raises(CatflapError, match=r"cannot be read: Unable to locate credentials\.") as error:
        scan(f"moody://{path}", tmp_path / "m", workers=1)
    assert "credentials" in error.value.fix


@pytest.mark.parametrize("kind", ARCHIVES)
def test_photos_that_a_store_refuses_are_unreadable(
    kind: str, photos: Path, store: type[Store], tmp_path: Path
) -> None:
    path = ARCHIVES[kind](photos, tmp_path / f"photos.{kind}")
    store.patience = 1000
    listing = list(open_source(f"moody://{path}", DEFAULT_COLUMNS).references)
    references = pa.Table.from_pylist(listing, schema=REFERENCE)
    for store.patience, reason in ((0, "unreadable"), (1, "unreadable"), (1000, "")):
        found = [text.partition(":")[0] for text in examine(references)["reason"].to_pylist()]
        assert found == [reason] * 12


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("more", [0, 6 << 20], ids=["small", "large"])
def test_an_archive_on_a_server_that_hands_out_whole_files_is_one_error(
    kind: str, more: int, tmp_path: Path
) -> None:
    """Python's own is one. Nothing is listed, rather than what lies in the first megabytes."""
    photos = class_folders(tmp_path / "photos", 3)
    (photos / "cat" / "more.jpg").write_bytes(encoded(draw(7)) + bytes(more))
    path = ARCHIVES[kind](photos, tmp_path / f"photos.{kind}")
    with served(tmp_path) as address, pytest.raises(CatflapError, match=r"cannot be read: .* range") as error:
        scan(f"{address}/{path.name}", tmp_path / "m", workers=1)
    assert "download the archive" in error.value.fix


def test_an_archive_that_a_server_does_not_have_is_one_error(tmp_path: Path) -> None:
    with served(tmp_path) as address, pytest.raises(CatflapError, match=r"none\.tar cannot be read"):
        scan(f"{address}/none.tar", tmp_path / "m", workers=1)


@pytest.mark.parametrize("kind", ["shard", "damaged"])
def test_a_tar_at_an_address_is_listed_as_on_disk(kind: str, photos: Path, tmp_path: Path) -> None:
    if kind == "shard":
        path = sharded(photos, tmp_path / "shards") / "shard-000001.tar"
    else:
        path = tmp_path / "photos.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(photos / "cat", "x" * 120)
        sized(path, 3, SIZES["2 to the 88th"])
    there, here = (
        [{**row, "uri": ""} for row in list_tars([name]).references] for name in (path.as_uri(), str(path))
    )
    assert there == here
    faults = {(row["label"], row["fault"]) for row in here}
    assert faults == ({("dog", "")} if kind == "shard" else {("x" * 120, ""), ("", "archive_truncated")})


def test_a_store_whose_package_is_not_here_says_which_package_reads_it(tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match=r"^nosuch:// is not supported here: ") as error:
        scan("nosuch://photos", tmp_path / "m", workers=1)
    assert error.value.fix == "Install fsspec's package for nosuch, such as s3fs for s3."


def test_a_tar_that_cannot_be_opened_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="cannot be read") as error:
        list(list_tars([str(tmp_path)]).references)
    assert error.value.fix == "Check its path and permissions."


def test_hidden_folders_of_a_store_are_no_labels(tmp_path: Path) -> None:
    """The same are passed over as on disk; above the source a folder may have any name."""
    root = class_folders(tmp_path / ".data" / "photos", 3)
    for name in (".thumbs", "__MACOSX/dog", "cat/.thumbs", "cat/deep"):
        (root / name).mkdir(parents=True)
        (root / name / "one.jpg").write_bytes(encoded(draw(len(name))))
    (root / "cat" / "._000.jpg").write_bytes(b"left here")
    manifest = scan(root.as_uri(), tmp_path / "m", workers=1, profile=False)
    assert manifest.labels == {"cat": 4, "dog": 3}
    assert manifest.photos == 7
    assert found(manifest) == found(scan(root, tmp_path / "plain", workers=1, profile=False))


def test_a_photo_of_an_archive_at_an_address_is_fetched_alone(tmp_path: Path) -> None:
    """Not with megabytes behind it, since the photos of an archive are read in any order."""
    photos = class_folders(tmp_path / "photos", 4)
    (photos / "cat" / "more.jpg").write_bytes(encoded(draw(7)) + bytes(9 << 20))
    path = tarred(photos, tmp_path / "photos.tar")
    with ranges(tmp_path) as (address, sent):
        (listing,) = [list(list_tars([f"{address}/{path.name}"]).references)]
        sent.clear()
        references = pa.Table.from_pylist(listing, schema=REFERENCE).slice(0, 4)
        assert examine(references)["reason"].to_pylist() == [""] * 4
    assert 0 < sum(sent) < 2 * sum(references["bytes"].to_pylist())


@contextmanager
def ranges(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A web server that hands out parts of files, and the bytes of each part that it sent."""
    sent: list[int] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            data = (folder / self.path.strip("/")).read_bytes()
            first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
            part = data[int(first) : int(last) + 1 if last else len(data)]
            sent.append(len(part))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            with suppress(OSError):  # the client may have left
                self.wfile.write(part)

        def end_headers(self) -> None:
            self.send_header("Accept-Ranges", "bytes")
            super().end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    handler = partial(Handler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
