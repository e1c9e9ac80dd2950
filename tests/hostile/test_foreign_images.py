"""The images with which Pillow tests itself, hostile ones among them; fetched, never committed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from catflap.errors import BadPhoto
from catflap.image import Frame, read_pixels
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
def test_every_image_gives_pixels_or_a_reason(images: Path) -> None:
    files = [path for path in sorted(images.rglob("*")) if path.is_file()]
    assert len(files) > 700
    found = Counter(outcome(path.read_bytes()) for path in files)
    assert found["pixels"] > 600


@pytest.mark.slow
def test_the_bombs_of_pillow_are_refused(images: Path) -> None:
    for name in ("decompression_bomb.gif", "png_decompression_dos.png", "broken_data_stream.png"):
        with pytest.raises(BadPhoto):
            read_pixels(images / name, Frame())
