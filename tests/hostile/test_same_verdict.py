"""Scan keeps what predict judges, and refuses for the same reason, whatever was done to a photo."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catflap.data.examine import examine_photo
from catflap.data.listing import reference
from catflap.errors import BadPhoto
from catflap.exporting.golden_cases import scene
from catflap.image import Frame, encode, read_pixels

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of what the tests do on purpose


def grainy(width: int = 200, height: int = 150) -> np.ndarray:
    grain = np.random.default_rng(3).integers(-12, 13, (height, width, 1))
    return np.clip(scene(2, width, height).astype(int) + grain, 0, 255).astype(np.uint8)


def of_two_frames(format: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(grainy()), Image.fromarray(scene(4, 200, 150))]
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


KINDS = {
    "jpeg": encode(grainy(), "JPEG", quality=90),
    "grey jpeg": encode(grainy(), "JPEG", "L", quality=90),
    "cmyk jpeg": encode(grainy(), "JPEG", "CMYK", quality=90),
    "progressive": encode(grainy(), "JPEG", quality=90, progressive=True),
    "restarts": encode(grainy(), "JPEG", quality=90, restart_marker_rows=1),
    "mpo": of_two_frames("MPO"),
    "png": encode(grainy(), "PNG"),
    "16-bit png": encode(grainy()[..., 0].astype(np.uint16) * 257, "PNG"),
    "apng": of_two_frames("PNG"),
    "gif": of_two_frames("GIF"),
    "webp": encode(grainy(), "WEBP", quality=80),
    "animated webp": of_two_frames("WEBP"),
    "avif": encode(grainy(), "AVIF", quality=70),
    "tiff": of_two_frames("TIFF"),
    "jpeg2000": encode(grainy(), "JPEG2000"),
    "bmp": encode(grainy(), "BMP"),
    "ppm": encode(grainy(), "PPM"),
}


def damaged(photo: bytes) -> dict[str, bytes]:
    """A photo, and what transfers, disks and tools make of it."""
    size = len(photo)
    damages = {
        "whole": photo,
        "trailing bytes": photo + b"trailer" * 50,
        "trailing zeros": photo + bytes(4096),
        "a second end marker": photo + photo[-2:],
        "another photo behind it": photo + KINDS["jpeg"],
        "bytes before it": b"\0\0" + photo,
        "a line break before it": b"\r\n" + photo,
        "surplus zeros": photo[:-2] + bytes(16) + photo[-2:],
        "many surplus zeros": photo[:-2] + bytes(4096) + photo[-2:],
        "no end": photo[:-2],
    }
    for tenth in range(1, 10):
        place = size * tenth // 10
        damages[f"cut at {tenth} tenths"] = photo[:place]
        damages[f"cut at {tenth} tenths, with an end"] = photo[:place] + photo[-12:]
        damages[f"zeros at {tenth} tenths"] = photo[:place] + bytes(500) + photo[place + 500 :]
        damages[f"bytes gone at {tenth} tenths"] = photo[:place] + photo[place + 300 :]
        damages[f"a bit at {tenth} tenths"] = photo[:place] + bytes([photo[place] ^ 8]) + photo[place + 1 :]
    for number, place in enumerate(range(0, size - 12, max(1, size // 40))):
        if photo[place : place + 2] == b"\xff\xda" or photo.find(b"\xff\xda", place) > 0:
            scan = photo.find(b"\xff\xda", place)
            damages[f"cut at scan {number}"] = photo[:scan] + b"\xff\xd9"
    return damages


@pytest.mark.parametrize("kind", KINDS)
def test_scan_and_predict_agree(kind: str, tmp_path: Path) -> None:
    apart = {}
    for number, (damage, photo) in enumerate(damaged(KINDS[kind]).items()):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(photo)
        row = examine_photo(reference(str(path), "cat", bytes=len(photo)))
        try:
            read_pixels(path, Frame(48, 32))
            verdict = "ok"
        except BadPhoto as error:
            verdict = error.reason
        found = "ok" if row["status"] == "ok" else row["reason"].partition(":")[0]
        if found != verdict:
            apart[damage] = (row["reason"], verdict)
    assert apart == {}
