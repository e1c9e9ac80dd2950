"""Answers on their way into a FieldLog: how `predict`, `watch` and `serve` record what they saw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time

import numpy as np

from catflap.artifacts.field_log import By, FieldLog, Seen
from catflap.artifacts.results import Prediction
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Photo, thumbnail
from catflap.runtime.classifier import Classifier

QUALITY = 90  # of the JPEGs that are kept


@dataclass(frozen=True)
class LogSettings:
    """Where to log, and what: `pictures` keeps a JPEG of each photo, of twice the frame's size.

    `limit` is how many bytes the log may have.
    """

    path: Path
    pictures: bool = False
    limit: int = 1_000_000_000

    def __post_init__(self) -> None:
        if not 1_000_000 <= self.limit <= 10**15:
            raise CatflapError(f"A field log of {self.limit} bytes is not possible.", "Use 1 MB or more.")


class Recorder:
    """Writes answers into a FieldLog; whatever happens to the disk, it does not stop the work."""

    def __init__(self, settings: LogSettings, note: Callable[[str], None]) -> None:
        self._log = FieldLog(settings.path, limit=settings.limit, note=note)
        self._pictures = settings.pictures

    def __call__(
        self,
        classifier: Classifier,
        photo: Photo,
        prediction: Prediction,
        verb: str,
        *,
        path: str = "",
        regular: bool = True,
    ) -> None:
        """Record an answer about a photo, which is the bytes of a file, with its `path`, or pixels."""
        picture = None
        if self._pictures:
            try:
                side = 2 * max(classifier.frame.width, classifier.frame.height)
                picture = thumbnail(photo, side, QUALITY)
            except BadPhoto:  # what could be judged may still be too odd for a picture
                picture = None
        bundle = classifier.bundle
        prior = tuple(sorted((classifier.prior or {}).items()))
        by = By(bundle.name, bundle.sha256, classifier.variant.name, classifier.labels, prior)
        probabilities = np.array(list(prediction.probabilities.values()), np.float32)
        answer = (probabilities, prediction.decision, verb, regular)
        found = str(Path(path).resolve()) if path else ""  # whoever reads the log may be somewhere else
        where = found.encode("utf-8", "backslashreplace").decode()  # a name that is not UTF-8 is no text
        signs = (prediction.look, prediction.embedding, prediction.strangeness)
        self._log.add(Seen(time(), digest_photo(photo), by, *answer, where, picture, *signs))

    def close(self) -> None:
        """Write what waits."""
        self._log.close()


@contextmanager
def recording(settings: LogSettings | None, note: Callable[[str], None]) -> Iterator[Recorder | None]:
    """A Recorder while the block runs; None without settings."""
    if settings is None:
        yield None
        return
    recorder = Recorder(settings, note)
    try:
        yield recorder
    finally:
        recorder.close()


def digest_photo(photo: Photo) -> str:
    """The sha256 of a photo's bytes, or of its pixels where it never was a file."""
    data = photo if isinstance(photo, bytes) else np.ascontiguousarray(photo).tobytes()
    return hashlib.sha256(data).hexdigest()
