"""Many paths, one answer each: the verb `predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from catflap.artifacts.results import Prediction
from catflap.errors import BadPhoto
from catflap.runtime.classifier import Classifier

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2",
)  # fmt: skip


def predict(
    classifier: Classifier, paths: Iterable[str | os.PathLike[str]]
) -> Iterator[tuple[str, Prediction | BadPhoto]]:
    """Each photo's path with its Prediction, or with the BadPhoto that says why there is none.

    A folder stands for the photos under it, in the order of their names.
    """
    for path in photo_paths(paths):
        try:
            yield path, classifier(path)
        except BadPhoto as error:
            yield path, error


def photo_paths(paths: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """The paths as they are, and for each folder those of the photos under it, by suffix."""
    for path in paths:
        if not Path(path).is_dir():
            yield os.fspath(path)
            continue
        for folder, folders, files in os.walk(path):
            folders.sort()
            for name in sorted(files):
                if name.lower().endswith(SUFFIXES):
                    yield str(Path(folder) / name)
