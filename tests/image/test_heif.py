"""HEIC photos: read where pi-heif is installed, turned exactly once, and a fix where it is not."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catflap.artifacts.manifest import load_manifest
from catflap.data.scan import scan
from catflap.errors import BadPhoto
from catflap.exporting.golden_cases import scene
from catflap.image import Frame, inspect, read_pixels, read_whole, thumbnail
from catflap.installing import install_extra
from tests.data.photos import class_folders

FRAME = Frame(48, 32)


def heic(orientation: int = 1) -> bytes:
    """A drawn photo, 160 × 120, quality 80, turned by EXIF and by the file's boxes, as phones write it.

    pi-heif reads only: the files were written once by pillow-heif 1.8.1.
    """
    pytest.importorskip("pi_heif")
    return (Path(__file__).parent / "heic" / f"orientation_{orientation}.heic").read_bytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_photo_is_turned_exactly_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(scene(3, 160, 120)).save(buffer, "PNG", exif=exif)
    expected = read_whole(buffer.getvalue(), FRAME).astype(int)
    found = read_whole(heic(orientation), FRAME)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 4
    assert inspect(heic(orientation)).orientation == 1


def test_every_reader_gives_a_heic_photo_the_same_pixels(tmp_path: Path) -> None:
    photo = heic(6)
    (tmp_path / "photo.heic").write_bytes(photo)
    pixels = read_pixels(photo, FRAME)
    assert np.array_equal(pixels, read_pixels(tmp_path / "photo.heic", FRAME))
    assert np.array_equal(pixels, read_pixels(read_whole(photo, FRAME), FRAME))
    assert thumbnail(photo, 32)[:2] == b"\xff\xd8"


def test_scan_keeps_a_heic_photo_and_finds_its_copy(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 3)
    (source / "cat" / "phone.heic").write_bytes(heic(6))
    buffer = io.BytesIO()
    Image.fromarray(scene(3, 160, 120)).transpose(Image.Transpose.ROTATE_270).save(buffer, "JPEG", quality=90)
    (source / "cat" / "converted.jpg").write_bytes(buffer.getvalue())
    manifest = scan(source, tmp_path / "m", workers=1)
    assert (manifest.ok, manifest.near_duplicates) == (8, 1)
    row = next(row for row in load_manifest(tmp_path / "m").rows().to_pylist() if "phone" in row["uri"])
    assert (row["format"], row["width"], row["height"]) == ("HEIF", 120, 160)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_heic_photo_that_was_cut_short_is_refused(share: float) -> None:
    photo = heic()
    with pytest.raises(BadPhoto) as error:
        read_pixels(photo[: max(24, int(share * len(photo)))], FRAME)
    assert error.value.reason in ("truncated", "damaged")
    assert "0x" not in error.value.what


def test_without_pi_heif_the_error_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300))
    code = (
        "import sys; sys.modules['pi_heif'] = None\n"
        "from catflap.errors import BadPhoto\n"
        "from catflap.image import Frame, read_pixels\n"
        "try: read_pixels(sys.argv[1], Frame())\n"
        "except BadPhoto as error: print(error.reason, error.what, error.fix)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "phone.heic")], capture_output=True, text=True, check=True
    )
    assert answer.stdout.startswith("unsupported_format HEIC photos need pi-heif")
    assert install_extra("heif") in answer.stdout
