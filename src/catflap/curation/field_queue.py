"""review queue and review take: the most useful photos of a field log to a page, and decisions to folders."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.field_log import LogRow, read_field_log, read_picture
from catflap.artifacts.folder import atomic_folder, check_place, refuse_foreign
from catflap.artifacts.schema import digest, read_json, write_json
from catflap.curation.review_page import PAGE, Card, Decision, read_decisions, write_page
from catflap.curation.suspects import Suspect
from catflap.data.phash import SIDE, signature
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.image import AVIF_BRANDS, Frame, Pixels, read_file, small_grey
from catflap.progress import Progress, silent, track

QUEUE = "queue.json"
TAKEN = "field-photos.json"
PHOTOS = "photos"
SHOWN = 200
TAKE = "catflap review take QUEUE decisions.json -o field-photos"
NEWEST = 2000  # photos that are looked at for unusual ones
CLOSE = 0.8  # margin of the two best probabilities; below it one answer in ten or more is wrong
UNUSUAL = 4.0  # robust standard deviations of image statistics
UNUSUAL_SCORE = 1.0  # OOD score: about 1 in 100 calibration photos is above
SAME_PICTURE_BITS = 6  # bits of 64 in which the hashes of the same picture may differ
SHADE = 16  # grey levels; flat pictures that differ less are the same

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Queue:
    """A folder with a page on which a person decides about photos of the field.

    `kinds` counts its photos by the reason; `gone` are useful ones of which no picture was kept.
    """

    path: Path
    photos: int
    kinds: dict[str, int]
    gone: int

    @property
    def page(self) -> Path:
        """The page."""
        return self.path / PAGE

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap review queue`."""
        return {"queue": str(self.path), "photos": self.photos, "kinds": self.kinds, "gone": self.gone}


@dataclass(frozen=True)
class Taken:
    """Class folders of reviewed photos.

    `labels` counts them; `dropped` were dropped, `unknown` are not in the queue, `stale` had another label.
    """

    path: Path
    labels: dict[str, int]
    dropped: int
    unknown: int
    stale: int

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap review take`."""
        counts = {"dropped": self.dropped, "unknown": self.unknown, "stale": self.stale}
        return {
            "folder": str(self.path),
            "photos": sum(self.labels.values()),
            "labels": self.labels,
            **counts,
        }


def review_queue(log: Path, out: Path, *, shown: int = SHOWN, progress: Progress = silent) -> Queue:
    """Write the folder `out` with the most useful photos of a FieldLog and review.html, to decide on them.

    Only photos of which a picture was kept (`--log-photos`), or whose file still exists, can be shown.
    """
    if shown < 1:
        raise CatflapError(f"A queue of {shown} photos is not possible.", "Use 1 or more.")
    refuse_foreign(Path(out), QUEUE)
    check_place(Path(out))
    photos, gone = useful_photos(Path(log), shown, progress)
    answered = {label for photo in photos for label in photo.probabilities}
    labels = sorted(answered | {photo.suggested for photo in photos if photo.suggested})
    rows = [
        {"id": photo.id, "label": photo.label, "kind": photo.kind, "score": photo.score, "time": photo.time}
        for photo in photos
    ]
    fields = {"catflap": "queue", "version": 1, "labels": labels, "photos": rows}
    with atomic_folder(Path(out), QUEUE) as folder:
        (folder / PHOTOS).mkdir()
        for photo in photos:
            (folder / PHOTOS / photo.id).write_bytes(photo.data)
        write_json(folder / QUEUE, fields)
        cards = [_card(photo, labels) for photo in photos]
        write_page(folder, cards, labels, digest(fields), len(cards), progress, command=TAKE)
    return Queue(Path(out), len(photos), dict(Counter(photo.kind for photo in photos)), gone)


def take_photos(queue: Path, decisions: Path, out: Path) -> Taken:
    """Write the folder `out` with a folder a label: the photos of a queue, as a person decided.

    Photos without a decision are left out. The folder can be scanned as it is, or copied into class folders.
    """
    about = read_json(Path(queue) / QUEUE, "queue")
    try:
        labels = [str(label) for label in about["labels"]]
        answered = {str(row["id"]): str(row["label"]) for row in about["photos"]}
    except (KeyError, TypeError) as error:
        raise BadArtifact(f"{queue} is damaged: {QUEUE} lacks {error}.", "Make the queue again.") from error
    decided = read_decisions(Path(decisions), labels)
    fitting = [one for id, one in decided.by_id.items() if answered.get(id) == one.was]
    unknown = sum(id not in answered for id in decided.by_id)
    kept = [one for one in fitting if one.label is not None]
    if not fitting:
        raise CatflapError(
            f"None of the {len(decided.by_id)} decisions in {decisions} fits {queue}.",
            "Name the queue that was reviewed.",
        )
    counts = dict(sorted(Counter(str(one.label) for one in kept).items()))
    with atomic_folder(Path(out), TAKEN) as folder:
        for one in kept:
            _copy(Path(queue), one, folder)
        write_json(folder / TAKEN, {"catflap": "field-photos", "version": 1, "labels": counts})
    stale = len(decided.by_id) - unknown - len(fitting)
    return Taken(Path(out), counts, len(fitting) - len(kept), unknown, stale)


def _card(photo: FieldPhoto, labels: list[str]) -> Card:
    suspect = Suspect(photo.id, photo.uri, photo.label, photo.suggested, photo.score, photo.kind)
    probabilities = tuple(photo.probabilities.get(label, 0.0) for label in labels)
    return Card(suspect, (), "", probabilities, (), lambda: photo.data)


def _copy(queue: Path, decision: Decision, folder: Path) -> None:
    label = str(decision.label)
    if "/" in label or label.startswith(".") or len(os.fsencode(label)) > 255:
        raise CatflapError(f"The label {label[:80]!r} cannot be the name of a folder.", "Rename the label.")
    data = (queue / PHOTOS / decision.id).read_bytes()
    (folder / label).mkdir(exist_ok=True)
    (folder / label / f"field-{decision.id}.{_suffix(data)}").write_bytes(data)


def _suffix(data: bytes) -> str:
    """The usual file extension of a photo, by its first bytes."""
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in AVIF_BRANDS else "heic"
    starts = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}
    return next((suffix for start, suffix in starts.items() if data.startswith(start)), "jpg")


@dataclass(frozen=True)
class FieldPhoto:
    """A photo to review: `label` is what was answered, `suggested` what it may be instead.

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
class _Answer:
    """The last answer about a photo, and the label that another bundle gave it, where one did."""

    row: LogRow
    other: str | None = None

    @property
    def label(self) -> str:
        return self.row.model.labels[int(self.row.probabilities.argmax())]


def useful_photos(log: Path, count: int, progress: Progress) -> tuple[list[FieldPhoto], int]:
    """The `count` most useful photos, alternating between kinds, and how many more have no picture.

    Useful are photos about which two bundles disagree, photos with close probabilities, and unusual ones:
    those with a higher out-of-distribution (OOD) score than 99 in 100 calibration photos of their label, and
    those much darker, brighter, flatter or more blurred than the others of the log.

    Photos that show the same as an earlier one are left out.
    """
    answered = _answers(log)
    ranked = {
        "disagreement": [(_confidence(one), one) for one in answered.values() if one.other is not None],
        "uncertain": [
            (1 - margin, one)
            for one in answered.values()
            if one.other is None and (margin := _margin(one.row)) < CLOSE
        ],
        "unusual": _unusual(list(answered.values()), log, progress),
    }
    found: list[FieldPhoto] = []
    chosen: set[str] = set()
    earlier = _Duplicates()
    gone = 0
    for kind, score, one in _alternate(ranked):
        if len(found) == count:
            break
        if one.row.photo in chosen:
            continue
        chosen.add(one.row.photo)
        data = bytes_of(log, one.row)
        if data is None:
            gone += 1
        elif not earlier.contains(data):
            found.append(_field_photo(one, kind, score, data))
    return found, gone


def _answers(log: Path) -> dict[str, _Answer]:
    """The last answer about each photo, in the order of the first ones."""
    found: dict[str, _Answer] = {}
    for row in read_field_log(log):
        earlier = found.get(row.photo)
        now = _Answer(row)
        if earlier is None:
            found[row.photo] = now
            continue
        served, other = (earlier, now) if row.verb == "shadow" else (now, earlier)
        differs = other.row.model.version != served.row.model.version and other.label != served.label
        found[row.photo] = _Answer(served.row, other.label if differs else earlier.other)
    return found


def _confidence(one: _Answer) -> float:
    return float(one.row.probabilities.max())


def _margin(row: LogRow) -> float:
    """The difference of the two highest probabilities."""
    second, first = np.sort(row.probabilities)[-2:]
    return float(first - second)


def _unusual(answered: Sequence[_Answer], log: Path, progress: Progress) -> list[tuple[float, _Answer]]:
    """Photos with a high OOD score, and of the newest those with unusual image statistics, with a score."""
    found = {
        one.row.photo: (score, one) for score, one in _unusual_statistics(answered[-NEWEST:], log, progress)
    }
    for one in answered:
        ood_score = one.row.ood_score
        if ood_score is not None and ood_score > UNUSUAL_SCORE:
            score = min(1.0, ood_score / (2 * UNUSUAL_SCORE))
            found[one.row.photo] = max(found.get(one.row.photo, (0.0, one)), (score, one), key=_first)
    return list(found.values())


def _first(pair: tuple[float, _Answer]) -> float:
    return pair[0]


def _unusual_statistics(
    answered: Sequence[_Answer], log: Path, progress: Progress
) -> list[tuple[float, _Answer]]:
    """Photos whose image statistics differ from the others of the log, with a score."""
    able: list[_Answer] = []
    features: list[Floats] = []
    for one in track(answered, "image statistics", len(answered), progress):
        data = bytes_of(log, one.row)
        grey = None if data is None else _grey(data)
        if grey is not None:
            able.append(one)
            features.append(_statistics(grey))
    if len(able) < 10:
        return []
    table = np.stack(features)
    middle = np.median(table, axis=0)
    spread = 1.4826 * np.median(np.abs(table - middle), axis=0) + 1.0
    deviation = (np.abs(table - middle) / spread).max(axis=1)
    return [
        (min(1.0, away / (4 * UNUSUAL)), one)
        for away, one in zip(deviation.tolist(), able, strict=True)
        if away > UNUSUAL
    ]


def _statistics(grey: Pixels) -> Floats:
    """Brightness, contrast and sharpness of a photo, in grey levels."""
    levels = grey.astype(np.float64)
    edges = np.abs(np.diff(levels, axis=0)).mean() + np.abs(np.diff(levels, axis=1)).mean()
    return np.array([levels.mean(), levels.std(), edges])


def _grey(data: bytes) -> Pixels | None:
    try:
        return small_grey(data, Frame(2 * SIDE, 2 * SIDE), SIDE, SIDE)
    except BadPhoto:
        return None


class _Duplicates:
    """The photos of a queue so far, to skip those that show the same."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._shades: list[float] = []  # brightness of flat photos, which have no hash

    def contains(self, data: bytes) -> bool:
        """Whether an earlier photo shows the same, or this one cannot be decoded; otherwise it is added."""
        grey = _grey(data)
        if grey is None:
            return True  # it could not be shown
        phash, shade = signature(grey, (SIDE, SIDE)).phash, float(grey.mean())
        if phash is None:
            alike = any(abs(shade - other) <= SHADE for other in self._shades)
            self._shades += [] if alike else [shade]
        else:
            alike = any((phash ^ other).bit_count() <= SAME_PICTURE_BITS for other in self._hashes)
            self._hashes += [] if alike else [phash]
        return alike


def _alternate(ranked: dict[str, list[tuple[float, _Answer]]]) -> Iterator[tuple[str, float, _Answer]]:
    """One of each kind in turn, the most useful ones first."""
    queues = {
        kind: sorted(ones, key=lambda pair: (-pair[0], pair[1].row.photo)) for kind, ones in ranked.items()
    }
    for place in range(max(map(len, queues.values()))):
        for kind, ones in queues.items():
            if place < len(ones):
                yield (kind, *ones[place])


def _field_photo(one: _Answer, kind: str, score: float, data: bytes) -> FieldPhoto:
    row, labels = one.row, one.row.model.labels
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


def bytes_of(log: Path, row: LogRow) -> bytes | None:
    """The bytes of a logged photo: its file if unchanged, or the picture that was kept."""
    if row.path:
        with suppress(BadPhoto):
            data = read_file(row.path)
            if hashlib.sha256(data).hexdigest() == row.photo:
                return data
    return read_picture(log, row.photo)
