"""review queue and review take: photos of the field to a page, and what a person decided to class folders."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catflap.artifacts.folder import atomic_folder, check_place, refuse_foreign
from catflap.artifacts.schema import digest, read_json, write_json
from catflap.curation.decisions import Decision, read_decisions
from catflap.curation.field_photos import FieldPhoto, useful_photos
from catflap.curation.page import PAGE, Card, write_page
from catflap.curation.suspects import Suspect
from catflap.errors import BadArtifact, CatflapError
from catflap.progress import Progress, silent

QUEUE = "queue.json"
TAKEN = "field-photos.json"
PHOTOS = "photos"
SHOWN = 200
TAKE = "catflap review take QUEUE decisions.json -o field-photos"


@dataclass(frozen=True)
class Queue:
    """A folder with a page on which a person decides about photos of the field.

    `kinds` counts its photos by why they are in it; `gone` are useful ones of which no picture was kept.
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
    """Class folders of photos that a person decided about.

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

    Only photos of which a picture was kept (`--log-photos`), or whose file is still there, can be shown.
    """
    if shown < 1:
        raise CatflapError(f"{shown} photos are no queue.", "Use 1 or more.")
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

    What was not decided is left out. The folder can be scanned as it is, or copied into other class folders.
    """
    about = read_json(Path(queue) / QUEUE, "queue")
    try:
        labels = [str(label) for label in about["labels"]]
        answered = {str(row["id"]): str(row["label"]) for row in about["photos"]}
    except (KeyError, TypeError) as error:
        raise BadArtifact(f"{queue} is damaged: {QUEUE} lacks {error}.", "Make the queue again.") from error
    said = read_decisions(Path(decisions), labels)
    fitting = [one for id, one in said.by_id.items() if answered.get(id) == one.was]
    unknown = sum(id not in answered for id in said.by_id)
    kept = [one for one in fitting if one.label is not None]
    if not fitting:
        raise CatflapError(
            f"None of the {len(said.by_id)} decisions in {decisions} fits {queue}.",
            "Name the queue that was reviewed.",
        )
    counts = dict(sorted(Counter(str(one.label) for one in kept).items()))
    with atomic_folder(Path(out), TAKEN) as folder:
        for one in kept:
            _copy(Path(queue), one, folder)
        write_json(folder / TAKEN, {"catflap": "field-photos", "version": 1, "labels": counts})
    stale = len(said.by_id) - unknown - len(fitting)
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
    """A photo's usual suffix, by how it begins; scan remarks on wrong ones."""
    starts = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}
    return next((suffix for start, suffix in starts.items() if data.startswith(start)), "jpg")
