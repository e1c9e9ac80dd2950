"""How the tests start Chromium; the one that they share is the fixture `browser` of conftest.py."""

from __future__ import annotations

import io
import shutil

import numpy as np
from PIL import Image

# Without a graphics card, a sandbox (tests may run as root) or calls to its makers; the camera is a film.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)  # fmt: skip


def chromium() -> str | None:
    """Where a Chromium is."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def slow_film(photo: bytes) -> bytes:
    """A photo as an uncompressed film of eight frames a second, for a page judges each of them."""
    planes = np.asarray(Image.open(io.BytesIO(photo)).convert("YCbCr"), np.float32)
    height, width, _ = planes.shape
    light = 16 + planes[..., 0] * 219 / 255
    colours = planes[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean((1, 3))
    colours = 128 + (colours - 128) * 224 / 255
    frame = b"".join(part.round().astype(np.uint8).tobytes() for part in (light, *np.moveaxis(colours, 2, 0)))
    return f"YUV4MPEG2 W{width} H{height} F8:1 Ip A1:1 C420jpeg\n".encode() + (b"FRAME\n" + frame) * 8
