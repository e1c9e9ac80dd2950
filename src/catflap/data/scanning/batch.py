"""The one batch function: references to photos in, rows of a Manifest out, here or on a cluster."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import Any, TypeAlias

import pyarrow as pa

from catflap.artifacts.tables import PHOTO_ROW
from catflap.data import jpeg
from catflap.data.duplicates.phash import SIDE, Signature, signature
from catflap.data.sources.listing import SUFFIXES
from catflap.data.sources.reading import read_photo
from catflap.errors import BadPhoto
from catflap.image import Frame, PhotoInfo, inspect, small_grey

Batch: TypeAlias = tuple[int, pa.Table]  # its number, and references or their rows

FRAME = Frame(2 * SIDE, 2 * SIDE)
PART_ROW = PHOTO_ROW.append(pa.field("thumb", pa.binary(256)))  # 16 × 16 grey, see phash.py
SMALLEST = 8  # px a side; below that no frame exists
TINY = 32
UNIFORM = 4.0  # standard deviation, grey levels
EXTREME = 4.0  # long side over short side

UNKNOWN: dict[str, Any] = {
    "id": "", "bytes": 0, "width": 0, "height": 0, "format": "", "mode": "", "orientation": 1,
    "phash": None, "thumb": None, "group": -1, "status": "quarantined",
}  # fmt: skip


def examine(references: pa.Table) -> pa.Table:
    """Read, decode, hash and judge photos: one row each, in the same order; never raises for a photo."""
    rows = [examine_one(reference) for reference in references.to_pylist()]
    return pa.Table.from_pylist(rows, schema=PART_ROW)


def examine_one(reference: dict[str, Any]) -> dict[str, Any]:
    """The row of one photo."""
    known = {name: reference[name] for name in ("uri", "label", "role", "user_group", "offset")}
    row = {**UNKNOWN, **known, "bytes": reference["bytes"]}
    try:
        if reference["fault"]:
            raise BadPhoto(reference["fault"], "", "")
        place = reference["uri"], reference["offset"], reference["bytes"]
        crc = reference["modified"] if reference["uri"].startswith("zip://") else None
        data = read_photo(*place, FRAME.max_bytes, crc)
        row |= {"id": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        info = inspect(data, FRAME)
        row |= {"width": info.width, "height": info.height, "format": info.format}
        row |= {"mode": info.mode, "orientation": info.orientation}
        found = _signature(data, info)
    except BadPhoto as error:
        return {**row, "reason": error.reason}
    remarks = "; ".join(_remarks(reference["uri"], info, found))
    return {**row, "phash": found.phash, "thumb": found.thumb, "status": "ok", "reason": remarks}


def crashed(reference: dict[str, Any]) -> dict[str, Any]:
    """The row of a photo that killed the process which decoded it."""
    known = {name: reference[name] for name in ("uri", "label", "role", "user_group", "offset", "bytes")}
    return {**UNKNOWN, **known, "reason": "decoder_crashed"}


def _signature(data: bytes, info: PhotoInfo) -> Signature:
    if min(info.width, info.height) < SMALLEST:
        raise BadPhoto("tiny", f"The photo has a side under {SMALLEST} px.", "Use a larger photo.")
    if info.format == "JPEG" and info.mode in jpeg.GREYABLE:
        grey, extent = jpeg.scaled_grey(data, info, SIDE)
        return signature(grey, extent, info.orientation)
    return signature(small_grey(data, FRAME, SIDE, SIDE), (SIDE, SIDE))


def _remarks(uri: str, info: PhotoInfo, found: Signature) -> list[str]:
    """What is odd about a photo that can still be learnt from."""
    short, long = sorted((info.width, info.height))
    suffix = PurePath(uri.partition("::")[0]).suffix.lower()
    remarks = {
        "wrong_extension": suffix not in SUFFIXES[info.format],
        "tiny": short < TINY,
        "near_uniform": found.spread < UNIFORM,
        "extreme_aspect": long >= EXTREME * short,
        "animated": info.animated,
        "colour_space": info.mode not in ("RGB", "L"),
        "orientation": info.orientation != 1,
    }
    return [remark for remark, applies in remarks.items() if applies]
