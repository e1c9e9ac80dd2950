"""Pictures for the page: thumbnails, kept in the cache; large photos; where a network found its label."""

from __future__ import annotations

from contextlib import suppress

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.folder import write_atomically
from catflap.errors import CatflapError
from catflap.image import encode, highlight, read_file, thumbnail
from catflap.runtime.activation_maps import activation_map
from catflap.runtime.classifier import Classifier
from catflap.studio.project import Project

SIDE, QUALITY = 256, 82  # px and JPEG quality of thumbnails
LARGE_SIDE, LARGE_QUALITY = 1600, 88  # of a photo on the screen


class Pictures:
    """The photos of a project as JPEGs, upright in sRGB; None for a number that no photo has."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._classifier: tuple[Bundle, Classifier] | None = None  # the last one

    def small(self, number: int) -> bytes | None:
        """The thumbnail of a photo; BadPhoto when it vanished or changed since it was imported."""
        kept = self._project.path / "cache" / "thumbs" / f"{number % 256:02x}" / f"{number}.jpg"
        with suppress(OSError):
            return kept.read_bytes()
        place = self._project.place_of(number)
        if place is None:
            return None
        made = thumbnail(place, SIDE, QUALITY)
        with suppress(OSError, CatflapError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, made, durable=False)
        return made

    def large(self, number: int) -> bytes | None:
        """A photo for the whole screen; BadPhoto as above."""
        place = self._project.place_of(number)
        return None if place is None else thumbnail(place, LARGE_SIDE, LARGE_QUALITY)

    def heat(self, bundle: Bundle, number: int, label: str) -> bytes | None:
        """Where the network of a Bundle found a label; None, too, when its default variant has no maps."""
        place = self._project.place_of(number)
        if place is None:
            return None
        kept = self._classifier
        if kept is None or kept[0] is not bundle:
            self._classifier = kept = bundle, Classifier(bundle, threads=1)
        classifier = kept[1]
        data = read_file(str(place), classifier.frame.max_bytes)
        heat = activation_map(classifier.model, data, classifier.frame, classifier.labels.index(label))
        if heat is None:
            return None
        return encode(highlight(data, heat, classifier.frame), "JPEG", quality=LARGE_QUALITY)
