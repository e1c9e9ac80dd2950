"""The loader: train photos as shuffled batches of random parts, resumable to the bit.

What a batch holds follows from the seed, the epoch and the ids of its photos alone: not from threads, nor
from where a run was stopped. Threads suffice, because decoding and resizing let go of Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Photos, Positions
from catflap.data.jpeg import plain_rgb
from catflap.data.roles import shares
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, Pixels, decode, resize
from catflap.machine import describe_machine
from catflap.progress import prefetch

Resize: TypeAlias = Callable[..., Pixels]


@dataclass(frozen=True)
class Place:
    """Where a loader is: `position` photos of the epoch's order, over all ranks, are done."""

    seed: int = 0
    epoch: int = 0
    position: int = 0

    def to_json(self) -> dict[str, Any]:
        """The place as it is kept beside half-trained weights."""
        return asdict(self)


@dataclass(frozen=True)
class Crops:
    """How photos are varied: a random part, mirrored half of the time.

    Its area is drawn from `smallest` to 1, then its aspect: the frame's, stretched by a factor of up to
    e ** `stretch` either way. A side that would be longer than the photo's is cut, so that an area of 0.8
    may become 0.7. Where the frame crops, the area is that of the largest part which has the frame's
    aspect. With `shift` the whole photo is moved instead, by up to this share of its sides, and what lies
    beyond its edge is mirrored: a picture that is not resized keeps every pixel as sharp as those that it
    is judged by (He et al. 2016).
    """

    smallest: float = 0.5
    stretch: float = 0.25
    shift: float = 0.0


BEGIN, USUAL = Place(), Crops()
THREADS = 16  # each holds a batch


class Batch(NamedTuple):
    """Frames uint8 RGB (n, height, width, 3), labels int64 (n,), ids (n,), and the place after them."""

    frames: Pixels
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    after: Place


def load_batches(
    photos: Photos,
    frame: Frame,
    batch: int,
    *,
    start: Place = BEGIN,
    epochs: int | None = None,
    crops: Crops = USUAL,
    pixels: Pixels | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    resize: Resize = resize,
    merge: bool = False,
) -> Iterator[Batch]:
    """Batches of `batch` photos, shuffled anew each epoch, from `start` to the end of `epochs` (or for ever).

    `rank` of `world` processes takes its share: no photo comes to two of them, all get equally many, and
    fewer than `world` photos an epoch come to none. `pixels` is the Dataset's memory map and stands in
    for the photos' bytes. `workers` threads (one a core, 16 at most) work ahead; `resize` turns a part
    of a photo into the frame, like image.resize. Started at the place `after` a batch it goes on exactly
    behind it, also when `world` has changed. `merge` puts a photo that would be alone in an epoch's last
    batch into the one before. Raises BadPhoto, which names the photo that cannot be decoded, and BadArtifact.
    """
    least = min(start.seed, start.epoch, start.position)
    if batch < 1 or not 0 <= rank < world or least < 0 or start.position > len(photos):
        raise CatflapError(
            f"Batches of {batch} for rank {rank} of {world} from {start} in {len(photos)} photos "
            "are not possible.",
            "Use batches of 1 or more, ranks from 0, and a place in these photos.",
        )
    if len(photos) < world:
        raise CatflapError(f"{len(photos)} photos are too few for {world} processes.", "Use fewer processes.")
    whole = _decoded(photos, frame) if pixels is None else pixels.__getitem__

    def load(step: tuple[Positions, Place, Place]) -> Batch:
        chosen, place, after = step
        ids = photos.ids[chosen]
        chances = shares(ids, f"catflap crops {place.seed} {place.epoch}", 5)
        frames = np.empty((len(chosen), frame.height, frame.width, 3), np.uint8)
        for row, position in enumerate(chosen.tolist()):
            part = cut(whole(position), frame, crops, chances[row])
            frames[row] = resize(part, frame, mirror=bool(chances[row, 4] < 0.5))
        return Batch(frames, photos.labels[chosen], ids, after)

    steps = _steps(len(photos), batch, start, epochs, rank, world, merge)
    return prefetch(load, steps, workers or reading_threads())


def reading_threads() -> int:
    """How many threads read photos where nothing else wants the cores: one a core, 16 at most."""
    return min(THREADS, describe_machine().cores)


def batches_an_epoch(photos: int, batch: int, *, world: int = 1, merge: bool = False) -> int:
    """How many batches of an epoch `load_batches` gives each of `world` processes."""
    return len(_starts(0, photos - photos % world, batch, world, merge))


def _steps(
    total: int, batch: int, start: Place, epochs: int | None, rank: int, world: int, merge: bool
) -> Iterator[tuple[Positions, Place, Place]]:
    """The positions of each batch, its place and the place after it."""
    place = start
    for epoch in count(start.epoch) if epochs is None else range(start.epoch, epochs):
        order = np.random.default_rng([start.seed, epoch]).permutation(total)
        end = total - (total - place.position) % world
        starts = _starts(place.position, end, batch, world, merge)
        for position, stop in pairwise((*starts, end)):
            after = Place(start.seed, epoch, stop) if stop < end else Place(start.seed, epoch + 1)
            yield order[position:stop][rank::world], place, after
            place = after
        place = Place(start.seed, epoch + 1)


def _starts(begin: int, end: int, batch: int, world: int, merge: bool) -> range:
    """Where the batches of all ranks begin in an epoch's order, from `begin` to `end`."""
    starts = range(begin, end, batch * world)
    is_alone = len(starts) > 1 and end - starts[-1] == world  # the last photo of each rank
    return starts[:-1] if merge and is_alone else starts


def cut(whole: Pixels, frame: Frame, crops: Crops, chance: npt.NDArray[np.float64]) -> Pixels:
    """The random part of a decoded photo that four numbers in 0..1 stand for."""
    height, width = whole.shape[:2]
    if crops.shift:
        columns, rows = round(crops.shift * width), round(crops.shift * height)
        left, top = int(chance[2] * (2 * columns + 1)), int(chance[3] * (2 * rows + 1))
        around = np.pad(whole, ((rows, rows), (columns, columns), (0, 0)), "symmetric")
        return around[top : top + height, left : left + width]
    area = crops.smallest + chance[0] * (1 - crops.smallest)
    stretch = np.exp((2 * chance[1] - 1) * crops.stretch)
    across, down = min(1.0, np.sqrt(area) * stretch), min(1.0, np.sqrt(area) / stretch)
    if frame.fit == "crop":
        across *= min(1.0, height * frame.width / (frame.height * width))
        down *= min(1.0, width * frame.height / (frame.width * height))
    columns, rows = max(1, round(across * width)), max(1, round(down * height))
    left, top = int(chance[2] * (width - columns + 1)), int(chance[3] * (height - rows + 1))
    return whole[top : top + rows, left : left + columns]


def _decoded(photos: Photos, frame: Frame) -> Callable[[int], Pixels]:
    def whole(position: int) -> Pixels:
        data = photos[position]
        try:
            plain = plain_rgb(data, frame)
            return decode(data, frame) if plain is None else plain
        except BadPhoto as error:
            where = f"byte {photos.offsets[position]} of {photos.shards[position]}"
            raise BadPhoto(
                error.reason, f"Photo {photos.ids[position]} at {where}: {error.what}",
                "Scan and prepare the photos again.",
            ) from error  # fmt: skip

    return whole
