"""The profile pages: everything in one file, the same every time, and what they must show."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from PIL import Image

from catflap.artifacts.manifest import Manifest
from catflap.data.prepare import prepare
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
