"""A tiny line of artefacts that many tests share: drawn photos to a Bundle, at 64 px."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.image import Frame, Pixels

FRAME = Frame(64, 64)
COLOURS = {"cat": (200, 80, 60), "other": (60, 90, 200), "third": (70, 190, 80)}


@dataclass(frozen=True)
class Exported:
    """A Bundle, and what `export` said when it was written."""

    path: Path
    answer: dict[str, Any]


def drawn(label: str, number: int) -> Pixels:
    """A photo of blobs in the label's colour, uint8 (120, 160, 3), always the same."""
    random = np.random.default_rng([list(COLOURS).index(label), number])
    blobs = np.clip(np.array(COLOURS[label]) + random.normal(0, 60, (9, 12, 3)), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((160, 120), Image.Resampling.BICUBIC))


def draw_photos(root: Path, labels: tuple[str, ...] = ("cat", "other"), count: int = 30) -> Path:
    """A class folder of drawn JPEGs."""
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(drawn(label, number)).save(root / label / f"{number:02}.jpg", quality=90)
    return root


def make_dataset(root: Path, labels: tuple[str, ...] = ("cat", "other"), count: int = 30) -> Dataset:
    """Drawn photos, scanned and prepared for a frame of 64 px."""
    from catflap.data.prepare import prepare
    from catflap.data.scan import scan

    photos = draw_photos(root / "photos", labels, count)
    return prepare(scan(photos, root / "manifest", workers=1), root / "dataset", frame=FRAME)


def make_checkpoint(dataset: Dataset) -> Checkpoint:
    """A head on the packaged backbone."""
    from catflap.training.train import train

    return train(dataset, dataset.path.with_name("checkpoint"))


def make_bundle(checkpoint: Checkpoint, dataset: Dataset) -> Exported:
    """The Checkpoint as a Bundle of int8 and fp32."""
    from catflap.exporting.export import export

    path = dataset.path.with_name("tiny.catflap")
    return Exported(path, export(checkpoint, dataset, path))
