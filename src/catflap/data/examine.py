"""One photo to one row of a Manifest: read, decode, hash; one that fails is quarantined with the reason."""

from __future__ import annotations

import hashlib
import os
from typing import Any, TypeAlias

import pyarrow as pa

from catflap.artifacts.tables import PHOTO_ROW
from catflap.data import jpeg
from catflap.data.listing import SUFFIXES
from catflap.data.phash import SIDE, Signature, signature
from catflap.data.reading import read_photo
from catflap.errors import BadPhoto
from catflap.image import Frame, PhotoInfo, inspect, may_lack_data, small_grey

Batch: TypeAlias = tuple[int, pa.Table]  # its number, and references or their rows

FRAME = Frame(2 * SIDE, 2 * SIDE)
PART_ROW = PHOTO_ROW.append(pa.field("thumb", pa.binary(256)))  # 16 × 16 grey, see phash.py
TINY = 32  # px, the short side
UNIFORM = 4.0  # standard deviation, grey levels
EXTREME = 4.0  # long side over short side
LONGEST_REASON = 300  # characters
KEPT = ("uri", "label", "role", "user_group", "offset", "bytes")  # of a reference, in its row
UNKNOWN: dict[str, Any] = {
    "id": "", "width": 0, "height": 0, "format": "", "mode": "", "orientation": 1,
    "phash": None, "thumb": None, "group": -1, "status": "quarantined",
}  # fmt: skip


def examine(references: pa.Table) -> pa.Table:
    """The rows of references to photos, in the same order; never raises for a photo."""
    return as_rows([examine_photo(reference) for reference in references.to_pylist()])


def as_rows(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table with the columns of a part."""
    return pa.Table.from_pylist(rows, schema=PART_ROW)


def examine_photo(reference: dict[str, Any]) -> dict[str, Any]:
    """The row of one photo: ok with remarks, or quarantined with the reason."""
    row = {**UNKNOWN, **{name: reference[name] for name in KEPT}}
    uri = reference["uri"]
    try:
        if reference["fault"]:
            return {**row, "reason": reference["fault"]}
        crc = reference["modified"] if uri.startswith("zip://") else None
        data = read_photo(uri, reference["offset"], reference["bytes"], FRAME.max_bytes, crc)
        row["id"], row["bytes"] = hashlib.sha256(data).hexdigest(), len(data)
        info = inspect(data, FRAME)
        row["width"], row["height"], row["format"] = info.width, info.height, info.format
        row["mode"], row["orientation"] = info.mode, info.orientation
        found, warning = _signature(data, info)
    except BadPhoto as error:
        return {**row, "reason": reason(error.reason, error.what)}
    remarks = "; ".join([*_remarks(uri, info, found), *filter(None, [warning])])
    return {**row, "phash": found.phash, "thumb": found.thumb, "status": "ok", "reason": remarks}


def quarantined(reference: dict[str, Any], reason: str) -> dict[str, Any]:
    """The row of a photo that could not be examined."""
    return {**UNKNOWN, **{name: reference[name] for name in KEPT}, "reason": reason}


def reason(word: str, sentence: str) -> str:
    """A reason as a row holds it: a word that is counted, then a sentence in one line."""
    line = " ".join(sentence.split()).replace(";", ",").rstrip(".")
    return f"{word}: {line}"[:LONGEST_REASON] if line else word


def _signature(data: bytes, info: PhotoInfo) -> tuple[Signature, str]:
    """The signature of a photo, and a remark where simplejpeg warns about a JPEG that image.py accepts.

    What image.py decodes is kept, because that is what `predict` judges.
    """
    warning = ""
    if info.format == "JPEG" and info.mode in jpeg.GREYABLE:
        try:
            grey, extent = jpeg.scaled_grey(data, info, SIDE)
            if not may_lack_data(data):
                return signature(grey, extent, info.orientation), ""
        except ValueError as error:
            warning = jpeg.warning_remark(error)
    return signature(small_grey(data, FRAME, SIDE, SIDE), (SIDE, SIDE)), warning


def _remarks(uri: str, info: PhotoInfo, found: Signature) -> list[str]:
    """What is unusual about a photo that can still be used."""
    short, long = sorted((info.width, info.height))
    suffix = os.path.splitext(uri.partition("::")[0])[1].lower()  # noqa: PTH122  a tenth of the time of PurePath
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
