"""Training batches: shuffled photos, randomly cropped, resized and mirrored, resumable to the bit.

The content of a batch depends on the seed, the epoch and the ids of its photos only: not on threads, nor on
where a run was stopped. Threads suffice because decoding and resizing release the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, pairwise
from statistics import median_low
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from catflap.artifacts.dataset import Photos, Positions
from catflap.data.jpeg import plain_rgb
from catflap.data.roles import shares
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, Pixels, decode, inspect
from catflap.machine import describe_machine
from catflap.progress import prefetch

THREADS = 16  # at most: each holds a batch
SIZE_SAMPLE = 100  # photos whose headers are read for `photo_side`
_Step: TypeAlias = tuple[Positions, "Place", "Place"]  # the photos of a batch, its place, the place after it


@dataclass(frozen=True)
class Place:
    """A position in the training data: `position` photos of this epoch's order, over all ranks, are done."""

    seed: int = 0
    epoch: int = 0
    position: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields, for a resume file."""
        return asdict(self)


@dataclass(frozen=True)
class Crops:
    """Random crops, mirrored half of the time unless `mirror` is False.

    The area of a crop is drawn from `smallest` to 1, then its aspect: the frame's, stretched by a factor of
    up to e ** `stretch` either way. A side that would exceed the photo's is cut, so an area of 0.8 may become
    0.7. For a frame that crops, the area is relative to the largest part with the frame's aspect. With
    `shift` the whole photo is translated instead, by up to this share of its sides, with reflected edges: a
    small photo then keeps its sharpness (He et al. 2016).
    """

    smallest: float = 0.5
    stretch: float = 0.25
    shift: float = 0.0
    mirror: bool = True


START, DEFAULT_CROPS = Place(), Crops()


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
    start: Place = START,
    epochs: int | None = None,
    crops: Crops = DEFAULT_CROPS,
    pixels: Pixels | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    merge: bool = False,
) -> Iterator[Batch]:
    """Batches of `batch` photos, shuffled anew each epoch, from `start` to the end of `epochs` (or forever).

    `rank` of `world` processes takes its share: no photo goes to two of them, all get equally many, and fewer
    than `world` photos an epoch are skipped. `pixels` is the Dataset's memory map and replaces the photos'
    bytes. `workers` threads (default: one a core, at most 16) work ahead. A loader that starts at the place
    `after` a batch continues exactly behind it, also if `world` has changed. `merge` adds a photo that would
    be alone in an epoch's last batch to the one before. Raises BadPhoto, which names the photo that cannot be
    decoded, and BadArtifact.
    """
    lowest = min(start.seed, start.epoch, start.position)
    if batch < 1 or not 0 <= rank < world or lowest < 0 or start.position > len(photos):
        raise CatflapError(
            f"Batches of {batch} for rank {rank} of {world} from {start} in {len(photos)} photos "
            "are not possible.",
            "Use batches of 1 or more, ranks from 0, and a place in these photos.",
        )
    if len(photos) < world:
        raise CatflapError(f"{len(photos)} photos are too few for {world} processes.", "Use fewer processes.")
    steps = _steps(len(photos), batch, start, epochs, rank, world, merge)
    load = partial(_load, photos=photos, frame=frame, crops=crops, pixels=pixels)
    return prefetch(load, steps, workers or reading_threads())


def _load(step: _Step, photos: Photos, frame: Frame, crops: Crops, pixels: Pixels | None) -> Batch:
    positions, place, after = step
    ids = photos.ids[positions]
    draws = shares(ids, f"catflap crops {place.seed} {place.epoch}", 5)  # numbers in 0..1
    frames = np.empty((len(positions), frame.height, frame.width, 3), np.uint8)
    for row, position in enumerate(positions.tolist()):
        whole = _decoded(photos, frame, position) if pixels is None else pixels[position]
        mirror = crops.mirror and bool(draws[row, 4] < 0.5)
        frames[row] = resize(crop(whole, frame, crops, draws[row]), frame, mirror=mirror)
    return Batch(frames, photos.labels[positions], ids, after)


def reading_threads() -> int:
    """How many threads read photos if nothing else needs the cores: one a core, 16 at most."""
    return min(THREADS, describe_machine().cores)


def batches_an_epoch(photos: int, batch: int, *, world: int = 1, merge: bool = False) -> int:
    """How many batches of an epoch `load_batches` gives each of `world` processes."""
    return len(_starts(0, photos - photos % world, batch, world, merge))


def _steps(
    total: int, batch: int, start: Place, epochs: int | None, rank: int, world: int, merge: bool
) -> Iterator[_Step]:
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


def crop(whole: Pixels, frame: Frame, crops: Crops, draws: npt.NDArray[np.float64]) -> Pixels:
    """The random crop of a decoded photo that four numbers in 0..1 describe."""
    height, width = whole.shape[:2]
    if crops.shift:
        columns, rows = round(crops.shift * width), round(crops.shift * height)
        left, top = int(draws[2] * (2 * columns + 1)), int(draws[3] * (2 * rows + 1))
        padded = np.pad(whole, ((rows, rows), (columns, columns), (0, 0)), "symmetric")
        return padded[top : top + height, left : left + width]
    area = crops.smallest + draws[0] * (1 - crops.smallest)
    stretch = np.exp((2 * draws[1] - 1) * crops.stretch)
    across, down = min(1.0, np.sqrt(area) * stretch), min(1.0, np.sqrt(area) / stretch)
    if frame.fit == "crop":
        across *= min(1.0, height * frame.width / (frame.height * width))
        down *= min(1.0, width * frame.height / (frame.width * height))
    columns, rows = max(1, round(across * width)), max(1, round(down * height))
    left, top = int(draws[2] * (width - columns + 1)), int(draws[3] * (height - rows + 1))
    return whole[top : top + rows, left : left + columns]


def resize(part: Pixels, frame: Frame, *, mirror: bool = False) -> Pixels:
    """Resize like image.resize, within two grey levels and in a third of the time: torch uses SIMD."""
    planes = torch.from_numpy(np.array(part)).unsqueeze(0).permute(0, 3, 1, 2)
    planes = interpolate(planes, (frame.height, frame.width), mode=frame.filter, antialias=True)
    pixels: Pixels = planes.permute(0, 2, 3, 1)[0].numpy()
    return pixels[:, ::-1] if mirror else pixels


def photo_side(photos: Photos) -> int:
    """The median longer side in px, from the headers of 100 photos; 65,536 if none can be read."""
    sides = []
    for position in np.argsort(photos.ids)[:SIZE_SAMPLE]:
        with suppress(BadPhoto):
            header = inspect(photos[int(position)])
            sides.append(max(header.width, header.height))
    return median_low(sides) if sides else 1 << 16


def _decoded(photos: Photos, frame: Frame, position: int) -> Pixels:
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
