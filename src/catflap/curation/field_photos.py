"""Which photos of a FieldLog a person should look at, the most useful ones first; nothing is decided here.

Useful are photos about which two bundles disagree, photos about which one is not sure, and unusual ones:
those that are stranger to the network than 99 in 100 calibration photos of the label that it gave them, and
those that look unlike the others of the log: much darker, brighter, flatter or more blurred.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catflap.artifacts.field_log import Seen, read_field_log, read_picture
from catflap.data.duplicates.phash import SIDE, signature
from catflap.errors import BadPhoto
from catflap.image import Frame, Pixels, read_file, small_grey
from catflap.progress import Progress, track

NEWEST = 2000  # photos that are looked at for unusual ones
CLOSE = 0.8  # between the two best probabilities: of those with less, one in ten or more are wrong
ODD = 4.0  # robust standard deviations
STRANGE = 1.0  # of the strangeness: 1 in 100 calibration photos is above
SAME_PICTURE_BITS = 6  # bits of 64 in which the hashes of the same picture may differ
SHADE = 16  # grey levels between flat pictures that are the same

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FieldPhoto:
    """A photo that is worth a look: `label` is what was answered, `suggested` what it may be instead.

    `score` is 0 to 1 within its `kind`; `data` are the bytes of a photo file and `id` their sha256.
    """

    id: str
    data: bytes
    uri: str
    label: str
    suggested: str | None
    kind: str
    score: float
    probabilities: dict[str, float]
    time: float


@dataclass(frozen=True)
class _Answered:
    """The last answer about a photo, and the label that another bundle gave it, where one did."""

    row: Seen
    other: str | None = None

    @property
    def label(self) -> str:
        return self.row.by.labels[int(self.row.probabilities.argmax())]


def useful_photos(log: Path, count: int, progress: Progress) -> tuple[list[FieldPhoto], int]:
    """The `count` most useful photos, the kinds in turn, and how many more are useful but not kept anywhere.

    Photos that show the same as an earlier one are left out.
    """
    answered = _answers(log)
    ranked = {
        "disagreement": [(_sureness(one), one) for one in answered.values() if one.other is not None],
        "uncertain": [
            (1 - margin, one)
            for one in answered.values()
            if one.other is None and (margin := _margin(one.row)) < CLOSE
        ],
        "unusual": _unusual(list(answered.values()), log, progress),
    }
    found: list[FieldPhoto] = []
    chosen: set[str] = set()
    shown = _Shown()
    gone = 0
    for kind, score, one in _in_turn(ranked):
        if len(found) == count:
            break
        if one.row.photo in chosen:
            continue
        chosen.add(one.row.photo)
        data = _bytes_of(log, one.row)
        if data is None:
            gone += 1
        elif not shown.before(data):
            found.append(_field_photo(one, kind, score, data))
    return found, gone


def _answers(log: Path) -> dict[str, _Answered]:
    """The last answer about each photo, in the order of their first one."""
    found: dict[str, _Answered] = {}
    for row in read_field_log(log):
        earlier = found.get(row.photo)
        now = _Answered(row)
        if earlier is None:
            found[row.photo] = now
            continue
        heard, other = (earlier, now) if row.verb == "shadow" else (now, earlier)
        differs = other.row.by.version != heard.row.by.version and other.label != heard.label
        found[row.photo] = _Answered(heard.row, other.label if differs else earlier.other)
    return found


def _sureness(one: _Answered) -> float:
    return float(one.row.probabilities.max())


def _margin(row: Seen) -> float:
    """The distance of the two best probabilities."""
    second, first = np.sort(row.probabilities)[-2:]
    return float(first - second)


def _unusual(answered: Sequence[_Answered], log: Path, progress: Progress) -> list[tuple[float, _Answered]]:
    """Photos that are strange to the network, and of the newest those that look odd, with a score."""
    found = {one.row.photo: (score, one) for score, one in _odd(answered[-NEWEST:], log, progress)}
    for one in answered:
        strangeness = one.row.strangeness
        if strangeness is not None and strangeness > STRANGE:
            score = min(1.0, strangeness / (2 * STRANGE))
            found[one.row.photo] = max(found.get(one.row.photo, (0.0, one)), (score, one), key=_first)
    return list(found.values())


def _first(pair: tuple[float, _Answered]) -> float:
    return pair[0]


def _odd(answered: Sequence[_Answered], log: Path, progress: Progress) -> list[tuple[float, _Answered]]:
    """Photos that look unlike the others of the log, with a score."""
    able: list[_Answered] = []
    features: list[Floats] = []
    for one in track(answered, "look at photos", len(answered), progress):
        data = _bytes_of(log, one.row)
        grey = None if data is None else _grey(data)
        if grey is not None:
            able.append(one)
            features.append(_features(grey))
    if len(able) < 10:
        return []
    table = np.stack(features)
    middle = np.median(table, axis=0)
    spread = 1.4826 * np.median(np.abs(table - middle), axis=0) + 1.0
    odd = (np.abs(table - middle) / spread).max(axis=1)
    return [
        (min(1.0, away / (4 * ODD)), one) for away, one in zip(odd.tolist(), able, strict=True) if away > ODD
    ]


def _features(grey: Pixels) -> Floats:
    """How bright, how contrasty and how sharp a photo is, in grey levels."""
    levels = grey.astype(np.float64)
    edges = np.abs(np.diff(levels, axis=0)).mean() + np.abs(np.diff(levels, axis=1)).mean()
    return np.array([levels.mean(), levels.std(), edges])


def _grey(data: bytes) -> Pixels | None:
    try:
        return small_grey(data, Frame(2 * SIDE, 2 * SIDE), SIDE, SIDE)
    except BadPhoto:
        return None


class _Shown:
    """What the photos of a queue show, so that none of them shows what an earlier one does."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._shades: list[float] = []  # how bright photos are that have nothing on them, and so no hash

    def before(self, data: bytes) -> bool:
        """Whether an earlier photo shows the same, or nobody could see this one; else it is remembered."""
        grey = _grey(data)
        if grey is None:
            return True  # what cannot be shown cannot be decided about
        phash, shade = signature(grey, (SIDE, SIDE)).phash, float(grey.mean())
        if phash is None:
            alike = any(abs(shade - other) <= SHADE for other in self._shades)
            self._shades += [] if alike else [shade]
        else:
            alike = any((phash ^ other).bit_count() <= SAME_PICTURE_BITS for other in self._hashes)
            self._hashes += [] if alike else [phash]
        return alike


def _in_turn(ranked: dict[str, list[tuple[float, _Answered]]]) -> Iterator[tuple[str, float, _Answered]]:
    """One of each kind, the most useful ones first, until all are through."""
    queues = {
        kind: sorted(ones, key=lambda pair: (-pair[0], pair[1].row.photo)) for kind, ones in ranked.items()
    }
    for place in range(max(map(len, queues.values()))):
        for kind, ones in queues.items():
            if place < len(ones):
                yield (kind, *ones[place])


def _field_photo(one: _Answered, kind: str, score: float, data: bytes) -> FieldPhoto:
    row, labels = one.row, one.row.by.labels
    second = labels[int(np.argsort(row.probabilities)[-2])]
    suggested = {"disagreement": one.other, "uncertain": second}.get(kind)
    return FieldPhoto(
        id=hashlib.sha256(data).hexdigest(),
        data=data,
        uri=row.path or f"{row.verb}: {row.photo}",
        label=one.label,
        suggested=suggested,
        kind=kind,
        score=round(score, 6),
        probabilities=dict(zip(labels, row.probabilities.tolist(), strict=True)),
        time=row.time,
    )


def _bytes_of(log: Path, row: Seen) -> bytes | None:
    """The bytes of a logged photo: its file, if that still is the same, or the picture that was kept."""
    if row.path:
        with suppress(BadPhoto):
            data = read_file(row.path)
            if hashlib.sha256(data).hexdigest() == row.photo:
                return data
    return read_picture(log, row.photo)
