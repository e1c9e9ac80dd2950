"""The profile pages: everything in one file, the same every time, and what they must show."""

from __future__ import annotations

import hashlib
import html
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from catflap.artifacts.manifest import Manifest
from catflap.artifacts.tables import PHOTO_ROW, write_table
from catflap.data.prepare import prepare
from catflap.data.profile import profile_manifest
from catflap.data.scan import scan
from tests.data.photos import class_folders, encoded, rows


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    source = class_folders(tmp_path_factory.mktemp("profile") / "photos <b>", 15)
    (source / "cat" / "empty & <i>odd.jpg").write_bytes(b"")
    (source / "cat" / "page.jpg").write_bytes(b"<html></html>")
    for number in range(4):
        copy = Image.open(source / "dog" / f"{number:03d}.jpg").resize((90, 70))
        (source / "cat" / f"copy{number}.jpg").write_bytes(encoded(copy))
    return scan(source, source.parent / "m", workers=1)


def test_the_page_needs_nothing_else(manifest: Manifest) -> None:
    page = (manifest.path / "profile.html").read_text("utf-8")
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert set(re.findall(r'src="([^,"]*),', page)) == {"data:image/jpeg;base64"}
    assert "<b>" not in page.replace("<b>34</b>", "").partition("</h1>")[0].partition("<h1>")[2]


def test_the_page_shows_labels_samples_copies_and_every_bad_file(manifest: Manifest) -> None:
    page = (manifest.path / "profile.html").read_text("utf-8")
    for row in rows(manifest, "uri", "status", "reason"):
        if row["status"] != "ok":
            assert html.escape(row["uri"]) in page
            assert row["reason"] in page
    assert page.count('<div class="group">') == 4
    assert page.count("<img ") >= 2 * 12 + 4 * 2
    assert "4 photos show what a photo under another label shows" in page


def test_the_page_of_a_dataset_counts_labels_by_role(manifest: Manifest, tmp_path: Path) -> None:
    dataset = prepare(manifest, tmp_path / "d")
    page = (dataset.path / "profile.html").read_text("utf-8")
    for role, count in dataset.roles.items():
        assert f"<span>{role}</span><b>{count}</b>" in page
    assert "No group lies in two roles." in page
    assert page.count("<img ") > 20


def many(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows of so many photos that are gone, in pairs of copies; of every 25th pair the labels differ."""
    folder.mkdir()
    known = {"bytes": 9, "width": 8, "height": 8, "orientation": 1, "offset": -1, "status": "ok"}
    table: list[dict[str, Any]] = []
    for number in range(count):
        kind = "near_duplicate_two_labels: shows it" if number // 2 % 25 == 7 else "near_duplicate: shows it"
        row = {"id": hashlib.sha256(b"%d" % number).hexdigest(), "uri": f"/gone/{number}.jpg"}
        row |= {"label": "abc"[number % 3], "group": number // 2, "reason": kind if number % 2 else ""}
        table.append({**dict.fromkeys(PHOTO_ROW.names), **known, **row})
    write_table(folder / "photos.parquet", pa.Table.from_pylist(table, schema=PHOTO_ROW))
    return table


def test_of_many_photos_the_page_shows_the_smallest_ids_and_the_first_groups(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catflap.artifacts.tables.STREAMED", 128)
    table = many(tmp_path / "many", 5000)
    profile_manifest(tmp_path / "many", manifest)
    page = (tmp_path / "many" / "profile.html").read_text("utf-8").partition("<h2>Samples")[2]
    samples, groups = (re.findall(r"<span>(/gone/\d+\.jpg)", part) for part in page.split("<h2>Near-dup")[:2])
    table.sort(key=lambda row: str(row["id"]))
    of_label = [[row["uri"] for row in table if row["label"] == label][:12] for label in "abc"]
    assert samples == [uri for uris in of_label for uri in uris]
    assert groups == [f"/gone/{2 * pair + one}.jpg" for pair in range(7, 600, 25) for one in (0, 1)]


def test_the_memory_of_the_page_does_not_grow_with_the_photos(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catflap.artifacts.tables.STREAMED", 128)
    peaks = []
    for count in (4000, 16_000):
        many(tmp_path / str(count), count)
        tracemalloc.start()
        profile_manifest(tmp_path / str(count), manifest)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_the_page_can_be_left_off(manifest: Manifest, tmp_path: Path) -> None:
    plain = scan(manifest.source, tmp_path / "m", workers=1, profile=False)
    dataset = prepare(plain, tmp_path / "d", profile=False)
    assert plain.sha256 == manifest.sha256
    assert sorted(path.name for path in plain.path.iterdir()) == ["manifest.json", "photos.parquet"]
    assert sorted(path.name for path in dataset.path.iterdir()) == [
        "dataset.json",
        "index.parquet",
        "shards",
    ]
