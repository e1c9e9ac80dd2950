"""Slices of photos by what is known of them (size, light, sharpness, folder, a table), and the worst one.

Many slices are tested at once, so a slice counts as worse only after Holm's correction over all of them.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError, system_reason
from catflap.evaluation.intervals import Flags, Floats, Ints, Metric, effective_photos, holm, share
from catflap.image import Frame, ImageStatistics, image_statistics, inspect, read_pixels
from catflap.progress import Progress, prefetch, silent, track
from catflap.runtime.scoring import PhotoBytes

Slices: TypeAlias = dict[str, Flags]
MIN_PHOTOS = 10  # of a slice; of fewer the interval is of no use
EDGES = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles of a number, between which its slices lie
MAX_VALUES = 20  # slices of words, the most common ones
MAX_LABELS = 10  # with more labels slices are judged over all labels only
MAX_LIMITS = 5  # sentences; report.json has every slice
LEVEL = 0.05
PHOTO_COLUMNS = ("photo", "path", "file", "file_name", "filename", "uri", "id", "sha256")


@dataclass(frozen=True)
class Facts:
    """What is known of each photo: numbers (n,) by their name and unit, and words by their name."""

    numbers: Mapping[str, Floats] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)


def photo_facts(
    photos: PhotoBytes,
    statistics: npt.NDArray[np.floating],
    frame: Frame,
    step: str = "facts of photos",
    progress: Progress = silent,
) -> Facts:
    """Shorter side and shape of each photo, from its bytes; brightness and sharpness of its frame.

    These are in image statistics (n, 3), as image.py gives them; rows that are not finite
    are measured here. Brightness is a percentage; sharpness is on a log scale.
    """

    def measure(position: int) -> tuple[float, ...]:
        data, known = photos[position], statistics[position]
        if not np.isfinite(known).all():
            return _facts_of(data, image_statistics(read_pixels(data, frame)), frame)
        return _facts_of(data, tuple(known.tolist()), frame)

    return _as_facts(list(track(prefetch(measure, range(len(photos)), 2), step, len(photos), progress)))


def _facts_of(photo: bytes, statistics: ImageStatistics, frame: Frame) -> tuple[float, ...]:
    """The numbers of `photo_facts` for one photo, given the image statistics of its frame."""
    info = inspect(photo, frame)
    sides = sorted((info.width, info.height))
    brightness, _, sharpness = statistics
    return sides[0], sides[1] / max(1, sides[0]), 100 * brightness, sharpness


def _as_facts(rows: Sequence[tuple[float, ...]]) -> Facts:
    """The Facts of photos from what `_facts_of` gave for each."""
    names = ("shorter side, px", "long side / short side", "brightness, %", "sharpness")
    return Facts(dict(zip(names, np.array(rows, np.float64).reshape(-1, len(names)).T, strict=True)))


def folder_facts(uris: Sequence[str], labels: Sequence[str]) -> Facts:
    """The folder of each photo; nothing where no folders are known or they only repeat the labels (n,)."""
    folders = [str(PurePosixPath(uri).parent) for uri in uris]
    if len(set(folders)) < 2 or len(set(folders)) == len(set(zip(folders, labels, strict=True))) == len(
        set(labels)
    ):
        return Facts()
    common = _common(folders)
    return Facts(words={"folder": [folder[len(common) :] or "." for folder in folders]})


def _common(folders: Sequence[str]) -> str:
    """The beginning that all paths share, up to a slash."""
    first, last = min(folders), max(folders)
    length = next((n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), 0)
    return first[: first.rfind("/", 0, length) + 1]


def read_facts(path: Path, photos: Sequence[str], ids: Sequence[str]) -> Facts:
    """The columns of a user's CSV for photos with these paths and sha256 `ids`, each (n,).

    One column names the photo: by its path, the end of its path, or its sha256. A column of numbers with more
    than ten values becomes ranges. Raises CatflapError for a table that cannot be read or names no photo.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = system_reason(error) if isinstance(error, OSError) else "it is not CSV in UTF-8"
        raise CatflapError(f"{path} cannot be read: {why}.", "Name a CSV file with a header.") from error
    columns = [name for name in (rows[0] if rows else {}) if name]
    key = next((name for name in columns if name.lower() in PHOTO_COLUMNS), "")
    if not key:
        raise CatflapError(
            f"{path} has no column that names the photos.", f"Call it one of: {', '.join(PHOTO_COLUMNS)}."
        )
    known = {str(row[key]).strip(): row for row in rows}
    found = [_row_of(known, name, photo) for name, photo in zip(photos, ids, strict=True)]
    if not any(found):
        raise CatflapError(
            f"{path} names none of these photos in its column {key!r}.",
            "Give paths as they end in the folder, or sha256.",
        )
    numbers, words = dict[str, Floats](), dict[str, Sequence[str]]()
    for column in columns:
        values = [str(row.get(column) or "").strip() for row in found]
        if column == key or not any(values):
            continue
        as_numbers = _numbers(values)
        if as_numbers is not None and len(set(values)) > 10:
            numbers[column] = as_numbers
        else:
            words[column] = values
    return Facts(numbers, words)


def _row_of(known: Mapping[str, Mapping[str, Any]], name: str, photo: str) -> Mapping[str, Any]:
    parts = PurePosixPath(name).parts
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((known[end] for end in (photo, name, *ends) if end in known), {})


def _numbers(values: Sequence[str]) -> Floats | None:
    """Values as numbers, NaN where one is empty; None where one is no number."""
    try:
        return np.array([float(value) if value else math.nan for value in values])
    except ValueError:
        return None


def make_slices(*facts: Facts) -> Slices:
    """Slices with their flags (n,), each of at least 10 photos: ranges of numbers, and words.

    A number is cut at its 5, 25, 50, 75 and 95 % quantiles, so that rare extremes stand alone.
    """
    found: Slices = {}
    for each in facts:
        for name, values in each.numbers.items():
            found |= _ranges(name, values)
        for name, words in each.words.items():
            common = [word for word, _ in Counter(word for word in words if word).most_common(MAX_VALUES)]
            array = np.array(words, object)
            found |= {f"{name} {word}": np.asarray(array == word, np.bool_) for word in common}
    return {name: flags for name, flags in found.items() if flags.sum() >= MIN_PHOTOS and not flags.all()}


def _ranges(name: str, values: Floats) -> Slices:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    what, _, unit = name.partition(", ")
    unit = f" {unit}" if unit else ""
    edges = sorted({float(f"{edge:.3g}") for edge in np.quantile(finite, EDGES)})
    edges = [edge for edge in edges if edge > finite.min()]
    bounds = [-math.inf, *edges, math.inf]
    found: Slices = {}
    for low, high in pairwise(bounds):
        inside = (values >= low) & (values < high)
        words = (
            f"below {high:g}{unit}" if low == -math.inf
            else f"{low:g}{unit} or more" if high == math.inf
            else f"{low:g} to {high:g}{unit}"
        )  # fmt: skip
        found[f"{what} {words}"] = inside
    return found


def judge_slices(
    right: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    class_names: Sequence[str],
    slices: Mapping[str, Flags],
) -> dict[str, Any]:
    """The share of photos that were decided right in each slice, and elsewhere, ready for JSON.

    `right` (n,) is true where the user got the right label; `labels` are class numbers (n,), `groups` (n,)
    name photos that are not independent. Each slice is tested against the other photos, over all labels and
    for each label alone, by Fisher's exact test (one-sided) on effective sample sizes; p-values are
    adjusted (Holm 1979). A slice with p < 0.05 is `worse`; `limits` states it in sentences, `worst` names the
    one with the lowest share.
    """
    hits, truth = np.asarray(right, np.bool_), np.asarray(labels, np.int64)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    everyone = np.ones(len(hits), np.bool_)
    kinds: dict[str, Flags] = {"": everyone}
    if len(class_names) <= MAX_LABELS:
        kinds |= {name: truth == number for number, name in enumerate(class_names)}
    rows: list[dict[str, Any]] = []
    for name, inside in slices.items():
        for label, of in kinds.items():
            here, rest = inside & of, ~inside & of
            if here.sum() < MIN_PHOTOS or rest.sum() < MIN_PHOTOS:
                continue
            rows.append(
                {
                    "slice": name,
                    "label": label or None,
                    "photos": int(here.sum()),
                    "groups": len(np.unique(owners[here])),
                    "right": _share(hits, here, owners),
                    "elsewhere": _share(hits, rest, owners),
                    "p": _fisher(hits, here, rest, owners),
                }
            )
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p"] = float(f"{adjusted:.3g}")
        row["worse"] = bool(adjusted < LEVEL)
    worse = sorted((row for row in rows if row["worse"]), key=lambda row: row["right"]["value"])
    return {
        "photos": len(hits),
        "tests": len(rows),
        "worst": {name: worse[0][name] for name in ("slice", "label")} if worse else None,
        "limits": [limit_sentence(row) for row in worse[:MAX_LIMITS]],
        "rows": rows,
    }


def limit_sentence(row: Mapping[str, Any]) -> str:
    """A slice in a sentence: cat, shorter side below 110 px: 50 % decided right (38 to 62 %, 60 photos), …"""
    right = row["right"]
    who = f"{row['label']}, " if row["label"] else ""
    value, low, high, rest = (
        f"{100 * share:.1f}"
        for share in (right["value"], right["low"], right["high"], row["elsewhere"]["value"])
    )
    return (
        f"{who}{row['slice']}: {value} % decided right ({low} to {high} %, {row['photos']:,} photos); "
        f"elsewhere {rest} %."
    )


def _share(hits: Flags, of: Flags, owners: Ints) -> Metric:
    return share(int((hits & of).sum()), int(of.sum()), _effective(of, owners), "there are no such photos")


def _effective(of: Flags, owners: Ints) -> float:
    return float(effective_photos(np.zeros(int(of.sum()), np.int64), owners[of], 1)[0])


def _fisher(hits: Flags, here: Flags, rest: Flags, owners: Ints) -> float:
    """The chance of so many errors here, if errors were as frequent as in the rest: Fisher's exact test."""
    sizes = [max(1, int(_effective(of, owners))) for of in (here, rest)]
    errors = [
        round(size * float((~hits & of).sum()) / float(of.sum()))
        for size, of in zip(sizes, (here, rest), strict=True)
    ]
    total, count = sum(errors), sum(sizes)

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = log_choose(count, total)
    most = min(total, sizes[0])
    tail = (
        math.exp(log_choose(sizes[0], k) + log_choose(sizes[1], total - k) - whole)
        for k in range(max(errors[0], total - sizes[1]), most + 1)
    )
    return min(1.0, math.fsum(tail))
