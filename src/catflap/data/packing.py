"""The files of a Dataset: photos as tar shards, with the place of each, and decoded ones as a memory map.

Any WebDataset reader can stream the shards: ID.cls, the number of the label as text, then ID.jpg (or its real
suffix).
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catflap.artifacts.dataset import SHARDS, Dataset, Positions
from catflap.artifacts.folder import sync, unwritable
from catflap.artifacts.manifest import Manifest
from catflap.artifacts.schema import read_json, write_json
from catflap.data.examine import FRAME
from catflap.data.listing import SUFFIXES
from catflap.data.reading import read_photo
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.image import Frame, decode, encode, inspect, read_pixels
from catflap.machine import describe_machine
from catflap.progress import Progress, prefetch

SHARD_BYTES = 256 << 20
BLOCK = tarfile.BLOCKSIZE
LABEL_BYTES = 2 * BLOCK  # header and content of ID.cls
PLAN, NOTES = "prepare.json", "notes"
WRITERS = 4
READ = ("id", "uri", "bytes", "offset", "format")
QUALITY = 90  # of JPEGs that are made smaller
SMALLEST, LARGEST = 32, 512  # px that --shrink may ask for
CERTAIN = 0.9  # of the bytes that are counted; file systems may compress
MARGIN = 8 / 7  # side of a square in the memory map over the frame's: 256 px for 224 px


@dataclass(frozen=True)
class Chosen:
    """The photos of a Dataset in the order of its index: rows of the Manifest and columns, (n,) each."""

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    roles: npt.NDArray[np.str_]
    names: list[str]
    left_out: int


def check_shrink(side: int) -> None:
    """Refuse a short side that is out of range; 0 leaves photos as they are."""
    if side and not SMALLEST <= side <= LARGEST:
        raise CatflapError(
            f"Photos cannot be shrunk to a short side of {side} px.", f"Use {SMALLEST} to {LARGEST}."
        )


def write_shards(
    work: Path,
    manifest: Manifest,
    chosen: Chosen,
    plan: ShardPlan,
    shrink: int,
    progress: Progress,
) -> npt.NDArray[np.int64]:
    """Write the shards that are missing, several at a time; returns what write_shard returns, for all."""
    table = one_piece(manifest.rows(READ))
    total, done, lock, stopped = len(chosen.rows), 0, threading.Lock(), threading.Event()
    progress("prepare", 0, total)

    def members(number: int) -> Iterator[Member]:
        nonlocal done
        part = plan.part(number)
        rows = table.take(chosen.rows[part]).to_pylist()
        side = shrink if chosen.roles[part.start] == "train" else 0
        labelled = zip(rows, chosen.labels[part].tolist(), strict=True)
        pack = partial(_packed, side)
        for member in prefetch(pack, labelled, readers) if side else map(pack, labelled):
            if stopped.is_set():
                raise CatflapError("prepare was stopped.", "Start it again; it goes on where it stopped.")
            yield member
            with lock:
                done += 1
                progress("prepare", done, total)

    def write(number: int) -> npt.NDArray[np.int64]:
        nonlocal done
        path = work / SHARDS / plan.names[number]
        note = work / NOTES / f"{plan.names[number]}.npy"
        kept = read_note(note) if path.exists() else None
        if kept is None:
            return write_shard(path, members(number), note)
        with lock:
            done += len(kept)
            progress("prepare", done, total)
        return kept

    readers, pool = describe_machine().cores, ThreadPoolExecutor(WRITERS)
    try:
        futures = [pool.submit(write, number) for number in range(len(plan))]
        for ready in as_completed(futures):
            ready.result()  # the first failure ends the others
        return np.concatenate([future.result() for future in futures])
    except OSError as error:
        raise unwritable(work, error) from error
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def one_piece(table: pa.Table) -> pa.Table:
    """A table in one chunk, from which single rows are taken fast."""
    wide = [
        field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(wide)).combine_chunks()


def shrunk(data: bytes, side: int) -> bytes:
    """A JPEG of the upright photo in sRGB with this short side; the same bytes when that is not smaller.

    Photos whose sides differ by more than a factor of four keep their bytes too.
    """
    info = inspect(data)
    short, long = sorted((info.width, info.height))
    if short <= side or long > 4 * short:
        return data
    whole = decode(data, Frame(side, side))
    height, width = whole.shape[:2]
    scale = side / min(height, width)
    frame = Frame(round(width * scale), round(height * scale), "squash")
    return encode(read_pixels(whole, frame), "JPEG", quality=QUALITY)


def write_pixels(path: Path, dataset: Dataset, progress: Progress) -> None:
    """Write the train photos at the frame size with sides a seventh longer, uint8 (n, height, width, 3).

    A file that NumPy maps; it is written from front to back, so that a full disk is an error.
    """
    photos, large = dataset.photos("train"), _larger(dataset.frame)
    shape = (len(photos), large.height, large.width, 3)
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, described)
        frames = prefetch(lambda row: read_pixels(photos[row], large), range(len(photos)), 2)
        for done, pixels in enumerate(frames, 1):
            file.write(pixels.tobytes())
            progress("pixels", done, len(photos))


def check_room(
    out: Path, work: Path, roles: npt.NDArray[np.str_], lengths: Positions, shrink: int, pixels: Frame | None
) -> None:
    """Refuse to start when the photos that keep their bytes, and `pixels`, cannot fit on the disk.

    Headers and shrunk photos are not counted; files that an earlier run left are subtracted.
    """
    train = roles == "train"
    needed = int(lengths[~train].sum() if shrink else lengths.sum())
    if pixels:
        needed += int(train.sum()) * _larger(pixels).width * _larger(pixels).height * 3
    left = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    disk = shutil.disk_usage(work)
    if disk.total and disk.free < CERTAIN * needed - left:  # some file systems have no numbers
        more, free = (needed - left) / 1e6, disk.free / 1e6
        raise CatflapError(
            f"{out} takes {more:,.0f} MB more, and its disk has {free:,.0f} MB free.",
            "Free space there, or name an output on another disk.",
        )


def _larger(frame: Frame) -> Frame:
    """The frame of the memory map."""
    return replace(frame, width=round(frame.width * MARGIN), height=round(frame.height * MARGIN))


def _packed(shrink: int, labelled: tuple[dict[str, Any], int]) -> Member:
    """A photo with the bytes that were scanned, or shrunk."""
    row, label = labelled
    try:
        data = read_photo(row["uri"], row["offset"], row["bytes"], FRAME.max_bytes)
    except BadPhoto as error:
        raise BadArtifact(f"A photo was there when it was scanned: {error.what}", "Scan again.") from error
    if hashlib.sha256(data).hexdigest() != row["id"]:
        raise BadArtifact(f"{row['uri']} has changed since it was scanned.", "Scan again.")
    if shrink and (small := shrunk(data, shrink)) is not data:
        return Member(row["id"], ".jpg", label, small)
    return Member(row["id"], SUFFIXES[row["format"]][0], label, data)


def keep_or_clear(work: Path, made_from: str) -> None:
    """Keep the shards of an earlier, stopped run if they were made from the same input."""
    try:
        kept = read_json(work / PLAN, "prepare").get("made_from") == made_from
    except BadArtifact:
        kept = False
    if not kept:
        for name in (SHARDS, NOTES):
            shutil.rmtree(work / name, ignore_errors=True)
        write_json(work / PLAN, {"catflap": "prepare", "version": 1, "made_from": made_from})
    for name in (SHARDS, NOTES):
        (work / name).mkdir(exist_ok=True)


@dataclass(frozen=True)
class ShardPlan:
    """Which photos go into which shard, before any is written.

    `names` are the shards' file names, `starts` their first photos, with the number of photos at the end.
    """

    names: tuple[str, ...]
    starts: Positions

    def __len__(self) -> int:
        return len(self.names)

    def part(self, number: int) -> slice:
        """Which photos a shard holds, by their positions."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))


@dataclass(frozen=True)
class Member:
    """One photo of a shard: its id, file suffix, number of its label, and bytes."""

    id: str
    suffix: str
    label: int
    data: bytes


def plan_shards(lengths: Positions, roles: npt.NDArray[np.str_]) -> ShardPlan:
    """Divide photos, sorted by role, into shards of about 256 MiB; a shard holds one role only."""
    if not len(lengths):
        return ShardPlan((), np.zeros(1, np.int64))
    entries = _entries(lengths)
    before = np.cumsum(entries) - entries
    new_role = np.concatenate([[True], roles[1:] != roles[:-1]])
    role_starts = np.flatnonzero(new_role)
    in_role = before - np.repeat(before[role_starts], np.diff(np.append(role_starts, len(lengths))))
    number = in_role // SHARD_BYTES
    starts = np.flatnonzero(new_role | (np.diff(number, prepend=0) > 0))
    numbered = zip(roles[starts].tolist(), number[starts].tolist(), strict=True)
    return ShardPlan(tuple(f"{role}-{n:06d}.tar" for role, n in numbered), np.append(starts, len(lengths)))


def offsets(lengths: Positions) -> Positions:
    """The first byte of each photo of one shard, from their lengths."""
    entries = _entries(lengths)
    return np.cumsum(entries) - entries + LABEL_BYTES + BLOCK


def _entries(lengths: Positions) -> Positions:
    """The bytes that photos take in a shard, with their labels and headers."""
    return LABEL_BYTES + BLOCK + -(-lengths // BLOCK) * BLOCK


def write_shard(path: Path, members: Iterable[Member], note: Path) -> Positions:
    """Write one shard and return length and CRC-32 of each photo, (n, 2), also saved as `note`.

    The shard gets its name when both files are complete and synced to disk.
    """
    partial, photos = path.with_suffix(".partial"), []
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member in members:
            _add(archive, f"{member.id}.cls", str(member.label).encode())
            _add(archive, f"{member.id}{member.suffix}", member.data)
            photos.append((len(member.data), zlib.crc32(member.data)))
    written = np.array(photos, np.int64)
    np.save(note, written)
    for file in (partial, note):
        sync(file)
    partial.replace(path)
    return written


def read_note(note: Path) -> Positions | None:
    """The note of a shard, as write_shard returned it; None when it is missing or damaged."""
    try:
        noted: Positions = np.load(note, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return noted


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
