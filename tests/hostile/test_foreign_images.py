"""The images with which Pillow tests itself, hostile ones among them; fetched, never committed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from catflap.data.scan import scan
from catflap.errors import BadPhoto
from catflap.image import Frame, read_pixels
from tests.data.photos import class_folders, rows
from tests.hostile.test_photos import outcome

PILLOW = "13.0.0"


@pytest.fixture(scope="module")
def images(repo: Path) -> Path:
    folder = repo / ".cache" / f"pillow-{PILLOW}"
    archive = folder.with_name(f"{folder.name}.tar.gz")
    if not archive.exists():
        wanted = ["--no-deps", "--no-binary", "pillow", f"pillow=={PILLOW}"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *wanted, "--dest", str(archive.parent)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if not archive.exists():
            pytest.skip(f"pip could not fetch the sources of Pillow: {answer.stderr[-200:]}")
    if not folder.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder.with_name("unpacking"), filter="data")
        (folder.with_name("unpacking") / folder.name).rename(folder)
    return folder / "Tests" / "images"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scan_keeps_exactly_what_predict_judges(images: Path, tmp_path: Path) -> None:
    """And every image gives pixels or a reason."""
    files = {}
    for number, path in enumerate(path for path in sorted(images.rglob("*")) if path.is_file()):
        files[f"{number:04d}{path.suffix}"] = path
        (tmp_path / "photos" / "foreign").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "foreign" / f"{number:04d}{path.suffix}").symlink_to(path)
    class_folders(tmp_path / "photos", 3, ("drawn",))
    manifest = scan(tmp_path / "photos", tmp_path / "m", workers=1, profile=False)
    status = {Path(row["uri"]).name: row for row in rows(manifest, "uri", "status", "reason")}
    apart, found = {}, Counter[str]()
    for name, path in files.items():
        row = status[name]
        kept = row["status"] in ("ok", "dropped")  # dropped: a copy of one that is kept
        judged = outcome(path.read_bytes())
        found[judged] += 1
        if kept != (judged == "pixels") or (not kept and row["reason"].partition(":")[0] != judged):
            apart[path.name] = (row["status"], row["reason"], judged)
    assert apart == {}
    assert len(files) > 700
    assert found["pixels"] > 600
    assert manifest.remarks.keys() >= {"tiny", "colour_space", "animated"}


@pytest.mark.slow
def test_the_bombs_of_pillow_are_refused(images: Path) -> None:
    for name in ("decompression_bomb.gif", "png_decompression_dos.png", "broken_data_stream.png"):
        with pytest.raises(BadPhoto):
            read_pixels(images / name, Frame())
