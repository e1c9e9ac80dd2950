"""Which backbones, frame sizes and fits a search tries, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from catflap.artifacts.dataset import Dataset
from catflap.image import Frame
from catflap.training.networks.backbone import LITES, SLIM
from catflap.training.sizes import photo_side

Candidate: TypeAlias = tuple[str, int, Frame]  # backbone, side in px of a square with as many pixels, frame
LITE0, LITE1, LITE2 = LITES
ORDER = (  # the first N are tried: what did well elsewhere comes first (docs/concepts/recipes.md)
    (LITE0, 288, False), (SLIM, 320, False), (SLIM, 320, True), (LITE1, 288, False),
    (LITE0, 288, True), (LITE0, 224, False), (SLIM, 256, False), (LITE2, 320, False),
    (LITE0, 160, False), (LITE1, 240, False), (LITE0, 128, False), (LITE0, 320, False),
    (LITE0, 192, False), (SLIM, 192, False),
)  # fmt: skip
OF_ONE_SIZE = (
    (LITE0, False), (SLIM, False), (SLIM, True), (LITE1, False), (LITE0, True), (LITE2, False),
)  # fmt: skip
OTHER_FIT = {"squash": "crop", "crop": "squash"}  # for those marked True; the rest have the Dataset's
STEP = 16  # px to which the sides of a frame are rounded; the sizes above are whole steps
MOST_TRIALS = len(ORDER)
ENLARGED = 6  # times the side of a photo: more pixels show nothing more


def candidates(dataset: Dataset, trials: int | None) -> list[Candidate]:
    """The first `trials` of the list, without frames that are much larger than the photos.

    With None the whole list, but where the Dataset's frame has another size than the usual one, that was
    somebody's wish: then only backbones and fits are tried. There is always one at least.
    """
    frame, usual = dataset.frame, Frame()
    own = max(STEP, round((frame.width * frame.height) ** 0.5))
    if trials is None and (frame.width, frame.height) != (usual.width, usual.height):
        return [(name, own, _fitted(frame, other)) for name, other in OF_ONE_SIZE]
    most = ENLARGED * photo_side(dataset.photos("train"))
    if dataset.shrink:
        most = min(most, dataset.shrink)
    listed = [(name, size, other) for name, size, other in ORDER if size <= most]
    found = [(name, size, _fitted(sized(frame, size), other)) for name, size, other in listed[:trials]]
    return found or [(LITE0, own, frame)]


def sized(frame: Frame, size: int) -> Frame:
    """The frame with as many pixels as a square of this side, in the shape that it has."""
    longer = (frame.width / frame.height) ** 0.5
    width, height = (STEP * max(1, round(side / STEP)) for side in (size * longer, size / longer))
    return replace(frame, width=width, height=height)


def _fitted(frame: Frame, other: bool) -> Frame:
    return replace(frame, fit=OTHER_FIT[frame.fit]) if other else frame
