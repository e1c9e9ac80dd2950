"""One frame in, what it shows and what is believed now out."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from catflap.artifacts.results import UNSURE, Prediction
from catflap.image import Photo, Pixels, read_whole
from catflap.live.frames import Shot
from catflap.live.settings import Region
from catflap.live.smoothing import UNKNOWN, Rules, State, step
from catflap.runtime.classifier import Classifier

WHOLE = (0.0, 0.0, 1.0, 1.0)


class Judge:
    """A classifier with a memory: `state` is what is believed after the frames so far."""

    def __init__(self, classifier: Classifier, region: Region, rules: Rules) -> None:
        self.classifier = classifier
        self.region = region
        self._rules = rules
        self.state = UNKNOWN

    @property
    def decision(self) -> str:
        """A label, or "unsure"."""
        current = self.state.current
        return UNSURE if current is None else self.classifier.labels[current]

    @property
    def average(self) -> dict[str, float]:
        """Averaged probabilities, or decisions at an operating point, by label; empty before any frame."""
        average: Sequence[float] = self.state.average
        return dict(zip(self.classifier.labels, average, strict=False))

    def __call__(self, shot: Shot, photo: Photo) -> tuple[Prediction, float]:
        """The Prediction for a frame alone, and its age in seconds when it was there; BadPhoto."""
        prediction = self.classifier(self._part(photo))
        age = monotonic() - shot.taken
        self.state = step(self.state, self._said(prediction), shot.clock, self._rules)
        return prediction, age

    def _said(self, prediction: Prediction) -> tuple[float, ...]:
        """What a frame adds to the average: probabilities, or at an operating point 1 for what it decides."""
        if self.classifier.operating_point is None:
            return tuple(prediction.probabilities.values())
        return tuple(float(label == prediction.decision) for label in self.classifier.labels)

    def forget(self) -> None:
        """Believe nothing any more: the source is gone."""
        self.state = State(clock=self.state.clock)

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The region in pixels of a frame: left, top, right, bottom; at least one pixel."""
        left, top = int(self.region[0] * width), int(self.region[1] * height)
        return (
            left,
            top,
            max(left + 1, int(self.region[2] * width)),
            max(top + 1, int(self.region[3] * height)),
        )

    def whole(self, photo: Photo) -> Pixels:
        """All the pixels of a frame, RGB (H, W, 3)."""
        return photo if not isinstance(photo, bytes) else read_whole(photo, self.classifier.frame)  # type: ignore[return-value]

    def _part(self, photo: Photo) -> Photo:
        if self.region == WHOLE:
            return photo
        pixels = self.whole(photo)
        left, top, right, bottom = self.box(pixels.shape[1], pixels.shape[0])
        return pixels[top:bottom, left:right]
