"""The Dataset: photos in tar shards, each with a role; random access to the photos of a role."""

from __future__ import annotations

import mmap
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.schema import read_json, write_json
from catflap.errors import BadArtifact, CatflapError
from catflap.image import Frame, Pixels

MARKER = "dataset.json"
INDEX = "index.parquet"
SHARDS = "shards"
PIXELS = "pixels.npy"
ROLES = ("train", "validation", "calibration", "test")

Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Photos:
    """The photos of one role, by position: `photos[i]` is the bytes of the i-th.

    `ids` are sha256 hexadecimal, `labels` int64 class numbers, `groups` int64 near-duplicate
    groups, `crcs` uint32 CRC-32 of the bytes; all have the shape (n,). `sha256` and `made_from`
    are the Dataset's. Raises BadArtifact where the bytes are not what was packed.
    """

    folder: Path
    sha256: str
    made_from: str
    ids: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    shards: npt.NDArray[np.str_]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    crcs: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> bytes:
        start = int(self.offsets[position])
        path = self.folder / SHARDS / str(self.shards[position])
        try:
            photo = self._shard(path)[start : start + int(self.lengths[position])]
            if zlib.crc32(photo) == self.crcs[position]:
                return photo
            why = "it is cut short" if len(photo) < self.lengths[position] else "its bytes have changed"
        except (OSError, ValueError) as error:
            why = str(error)
        _refuse_another(self.folder, self.sha256, self.made_from)
        what = f"{path} does not contain the photo {self.ids[position]}: {why}."
        raise BadArtifact(what, "Run catflap prepare again.")

    def take(self, positions: Positions) -> Photos:
        """The photos at some positions, in that order."""
        columns = ("ids", "labels", "groups", "shards", "offsets", "lengths", "crcs")
        return replace(self, **{name: getattr(self, name)[positions] for name in columns})

    def _shard(self, path: Path) -> mmap.mmap:
        status = path.stat()
        return _open_shard(path, status.st_ino, status.st_mtime_ns, self.sha256, self.made_from)


@dataclass(frozen=True)
class Dataset:
    """A folder with tar shards, `index.parquet` (one row a photo) and `dataset.json`.

    `frame` is how every later step turns these photos into pixels; `roles` counts photos;
    `ancestors` maps "manifest" to its hash; `left_out` counts photos that are near-duplicates of
    photos which the source itself put into another role; `manifest` is the path of its Manifest,
    relative to the Dataset, for audit. `shrink` is the short side in px of train photos that were made
    smaller (0: none), `pixels` whether there is a memory map of them.
    """

    path: Path
    labels: tuple[str, ...]
    frame: Frame
    roles: dict[str, int]
    shards: int
    bytes: int
    seed: int
    sha256: str
    made_from: str
    ancestors: dict[str, str]
    versions: dict[str, str]
    left_out: int = 0
    manifest: str = ""
    shrink: int = 0
    pixels: bool = False

    def photos(self, role: str) -> Photos:
        """The photos of a role (train, validation, calibration or test), in index order."""
        if role not in ROLES:
            raise CatflapError(f"There is no role {role!r}.", f"Use one of: {', '.join(ROLES)}.")
        columns = _index(self.path, self.sha256, self.made_from, role)
        names = ("id", "label", "group", "shard", "offset", "length", "crc32")
        if "crc32" not in columns:
            raise BadArtifact(f"{self.path} was written by an older Catflap.", "Run catflap prepare again.")
        return Photos(self.path, self.sha256, self.made_from, *(columns[name] for name in names))

    def needed(self, role: str) -> Photos:
        """The photos of a role that a step requires; CatflapError when there are none."""
        photos = self.photos(role)
        if not len(photos):
            raise no_photos(role)
        return photos

    def train_pixels(self) -> Pixels | None:
        """The memory map of the train photos, uint8 RGB (n, height, width, 3), rows as in photos("train").

        None when prepare wrote none, or when they do not suit the frame: it is larger now, or shows another
        part or shape of the photo.
        """
        path = self.path / PIXELS
        if not self.pixels:
            return None
        try:
            pixels: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            why = f"{path} cannot be read: {error}."
            raise BadArtifact(why, "Run catflap prepare --pixels again.") from error
        _refuse_another(self.path, self.sha256, self.made_from)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or (len(pixels), pixels.shape[3]) != (
            self.roles["train"], 3,
        ):  # fmt: skip
            raise BadArtifact(f"{path} holds other photos.", "Run catflap prepare --pixels again.")
        large = pixels.shape[1] >= self.frame.height and pixels.shape[2] >= self.frame.width
        return pixels if large and self._shows_the_same() else None

    def _shows_the_same(self) -> bool:
        """Whether the frame differs from the prepared one in nothing but size."""
        frame, prepared = self.frame, load_dataset(self.path).frame
        shape_is_kept = frame.width * prepared.height == frame.height * prepared.width
        resized = replace(prepared, width=frame.width, height=frame.height)
        return frame == resized and (frame.fit == "squash" or shape_is_kept)

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap prepare`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "path"}
        return {**fields, "labels": list(self.labels), "frame": self.frame.to_json()}


def no_photos(role: str) -> CatflapError:
    """The error for a role without photos."""
    return CatflapError(f"The dataset has no {role} photos.", "Prepare it from more photos.")


def save_dataset(folder: Path, fields: dict[str, Any]) -> None:
    """Write dataset.json into a folder that already holds shards and index; fields as in Dataset."""
    write_json(folder / MARKER, {"catflap": "dataset", "version": 1, **fields})


def load_dataset(path: Path | str) -> Dataset:
    """Open a Dataset folder; BadArtifact when it is not one."""
    path = Path(path)
    fields = read_json(path / MARKER, "dataset")
    names = set(Dataset.__dataclass_fields__) - {"path", "labels", "frame"}
    return Dataset(
        path=path,
        labels=tuple(fields["labels"]),
        frame=Frame.from_json(fields["frame"]),
        **{name: fields[name] for name in names if name in fields},
    )


def _refuse_another(path: Path, sha256: str, made_from: str) -> None:
    """Raise BadArtifact when the folder contains another Dataset by now."""
    there = load_dataset(path)
    if (there.sha256, there.made_from) != (sha256, made_from):
        raise BadArtifact(f"{path} was prepared again while it was in use.", "Start again.")


@lru_cache(maxsize=len(ROLES))
def _index(path: Path, sha256: str, made_from: str, role: str) -> dict[str, npt.NDArray[Any]]:
    """One role's rows as NumPy columns; the hashes in the cache key detect a new Dataset."""
    from catflap.artifacts.tables import read_table

    table = read_table(path / INDEX, role=role)
    _refuse_another(path, sha256, made_from)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    for name in ("id", "shard"):
        columns[name] = columns[name].astype(np.str_)
    for name in ("label", "group", "offset", "length"):
        columns[name] = columns[name].astype(np.int64)
    return columns


@lru_cache(maxsize=256)
def _open_shard(path: Path, inode: int, modified_ns: int, sha256: str, made_from: str) -> mmap.mmap:
    """Map a shard once per process; inode and time in the cache key detect a replaced file."""
    with open(path, "rb") as file:
        shard = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _refuse_another(path.parent.parent, sha256, made_from)  # after it was opened, for all is replaced at once
    return shard
