"""Photos for the tests of the data room: drawn, all different, made anew for every test."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS = ("cat", "dog")


def draw(number: int, width: int = 160, height: int = 120) -> Image.Image:
    """A smooth picture of random blobs; another number is another picture."""
    blobs = np.random.default_rng(number).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def class_folders(root: Path, count: int = 40, labels: tuple[str, ...] = LABELS) -> Path:
    """`count` JPEGs in a folder for each label."""
    for place, label in enumerate(labels):
        (root / label).mkdir(parents=True)
        for number in range(count):
            (root / label / f"{number:03d}.jpg").write_bytes(encoded(draw(1000 * place + number)))
    return root


def rows(manifest: Any, *columns: str) -> list[dict[str, Any]]:
    """Some columns of a Manifest's table as dictionaries."""
    found: list[dict[str, Any]] = manifest.rows(columns).to_pylist()
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
