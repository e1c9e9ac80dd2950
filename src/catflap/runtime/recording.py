"""Recording: how `predict`, `watch` and `serve` write their answers into a FieldLog, of which size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time

import numpy as np

from catflap.artifacts.field_log import FieldLog, LogModel, LogRow
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Photo, thumbnail
from catflap.runtime.classifier import Classifier, Prediction

QUALITY = 90  # of the JPEGs that are kept


@dataclass(frozen=True)
class LogSettings:
    """Where to log, and what: `pictures` keeps a JPEG of each photo, at twice the frame's size.

    `limit` is the maximum size of the log in bytes.
    """

    path: Path
    pictures: bool = False
    limit: int = 1_000_000_000

    def __post_init__(self) -> None:
        if not 1_000_000 <= self.limit <= 10**15:
            raise CatflapError(f"The field log's limit is {self.limit} bytes.", "Use 1 MB or more.")


class Recorder:
    """Writes answers into a FieldLog; a failing disk does not stop the caller."""

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
        """Record the answer to a photo, given as the bytes of a file, with its `path`, or as pixels."""
        picture = None
        if self._pictures:
            try:
                side = 2 * max(classifier.frame.width, classifier.frame.height)
                picture = thumbnail(photo, side, QUALITY)
            except BadPhoto:  # a photo can have an answer and still be too odd for a thumbnail
                picture = None
        bundle = classifier.bundle
        prior = tuple(sorted((classifier.prior or {}).items()))
        # An absolute path, because the log may be read elsewhere; and text, whatever bytes the name has.
        absolute = str(Path(path).resolve()) if path else ""
        self._log.add(
            LogRow(
                time(),
                digest_photo(photo),
                LogModel(bundle.name, bundle.sha256, classifier.variant.name, classifier.labels, prior),
                np.array(list(prediction.probabilities.values()), np.float32),
                prediction.decision,
                verb,
                regular,
                absolute.encode("utf-8", "backslashreplace").decode(),
                picture,
                prediction.image_statistics,
                prediction.embedding,
                prediction.ood_score,
            )
        )

    def close(self) -> None:
        """Write what is still queued."""
        self._log.close()


@contextmanager
def recording(settings: LogSettings | None, note: Callable[[str], None]) -> Iterator[Recorder | None]:
    """A Recorder for the duration of the block; None without settings."""
    if settings is None:
        yield None
        return
    recorder = Recorder(settings, note)
    try:
        yield recorder
    finally:
        recorder.close()


def digest_photo(photo: Photo) -> str:
    """The sha256 of a photo's bytes, or of its pixels if it never was a file."""
    data = photo if isinstance(photo, bytes) else np.ascontiguousarray(photo).tobytes()
    return hashlib.sha256(data).hexdigest()
