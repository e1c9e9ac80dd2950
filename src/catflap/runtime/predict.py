"""Many paths, one answer each: the verb `predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.results import Prediction
from catflap.errors import BadPhoto, system_reason
from catflap.image import read_file
from catflap.runtime.classifier import Classifier

if TYPE_CHECKING:
    from catflap.runtime.recording import Recorder

Opened: TypeAlias = "Classifier | str | os.PathLike[str] | Bundle"
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".heic", ".heif",
)  # fmt: skip
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mjpeg", ".mjpg")
WATCHED = "Use catflap watch for a video, an address, or JPEGs on stdin (-)."


def predict(
    classifier: Opened,
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    recorder: Recorder | None = None,
) -> Iterator[tuple[str, Prediction | BadPhoto]]:
    """Each photo's path with its Prediction, or with the BadPhoto that says why there is none.

    A folder stands for the photos under it, in the order of their names; one without photos, or
    one that cannot be listed, is answered with a BadPhoto too. `recorder` writes a FieldLog.
    Instead of a Classifier a bundle will do: its path, its name or an opened one.
    """
    if not isinstance(classifier, Classifier):
        classifier = Classifier(classifier, embed=recorder is not None)
    for path in (paths,) if isinstance(paths, str | os.PathLike) else paths:
        for photo, fault in list_photos(os.fspath(path)):
            try:
                yield photo, fault or _answer(classifier, photo, recorder)
            except BadPhoto as error:
                yield photo, BadPhoto(error.reason, error.what, WATCHED) if _is_watched(photo) else error


def _answer(classifier: Classifier, path: str, recorder: Recorder | None) -> Prediction:
    if recorder is None:
        return classifier(path)
    data = read_file(path, classifier.frame.max_bytes)
    prediction = classifier(data)
    recorder(classifier, data, prediction, "predict", path=path)
    return prediction


def _is_watched(path: str) -> bool:
    """Whether a path that is no photo names what the verb `watch` takes."""
    try:
        is_pipe = path == "-" or "://" in path or Path(path).is_fifo()
    except ValueError:
        return False
    return is_pipe or path.lower().endswith(VIDEOS)


def list_photos(path: str) -> Iterator[tuple[str, BadPhoto | None]]:
    """The path itself, or the photos under the folder that it names, with what is wrong with folders."""
    if not path:  # an unset variable of a shell; for Path it would be the folder one is in
        yield path, BadPhoto("unreadable", "The name of a photo is empty.", "Name a photo or a folder.")
        return
    if not Path(path).is_dir():
        yield path, None
        return
    found = 0
    for found, entry in enumerate(_under(path, ()), 1):  # noqa: B007
        yield entry
    if not found:
        yield path, BadPhoto("empty", "The folder has no photos.", f"Photos end with {', '.join(SUFFIXES)}.")


def _under(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, BadPhoto | None]]:
    """What ends like a photo in a folder and in those below it; links are followed, but not in circles."""
    try:
        status = Path(folder).stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        what = f"The folder cannot be listed: {system_reason(error)}."
        yield folder, BadPhoto("unreadable", what, "Check its permissions.")
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _under(entry.path, (*above, here))
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path, None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
