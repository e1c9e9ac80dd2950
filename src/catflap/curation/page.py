"""The page on which a person decides: one HTML file that loads nothing and works from a disk.

Names are data: they travel as JSON inside the page and are shown as text, so none of them can run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from catflap.curation.suspects import Suspect
from catflap.errors import BadPhoto
from catflap.image import thumbnail
from catflap.progress import Progress, track

PAGE = "review.html"
APPLY = "catflap review apply MANIFEST decisions.json -o reviewed.manifest"
LARGE, SMALL = 448, 128  # px, the longer side of a suspect and of what stands beside it


@dataclass(frozen=True)
class Beside:
    """A photo to compare with: `copy` tells that it shows the same as the suspect; `read` gives its bytes."""

    id: str
    label: str
    copy: bool
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Card:
    """A suspect as it stands on the page, with its role and the out-of-fold probabilities of the labels.

    `copies` are ids of further suspects on which the same decision falls.
    """

    suspect: Suspect
    copies: tuple[str, ...]
    role: str
    probabilities: tuple[float, ...]
    beside: tuple[Beside, ...]
    read: Callable[[], bytes]


def write_page(
    folder: Path,
    cards: Sequence[Card],
    labels: Sequence[str],
    manifest: str,
    suspects: int,
    progress: Progress,
    command: str = APPLY,
) -> None:
    """Write review.html; `manifest` is the hash of the Manifest, or queue, that decisions are about.

    `suspects` is how many there are in all, of which the cards are the first; `command` what carries
    the decisions out.
    """
    here = Path(__file__)
    numbers = {label: number for number, label in enumerate(labels)}
    small: dict[str, str] = {}
    shown = [_card(card, numbers, small) for card in track(cards, "page", len(cards), progress)]
    key = hashlib.sha256("".join(card.suspect.id for card in cards).encode()).hexdigest()[:16]
    data = {
        "manifest": manifest, "key": key, "labels": list(labels), "cards": shown, "small": small,
        "suspects": suspects, "command": command,
    }  # fmt: skip
    script = here.with_name("review.js").read_text("utf-8")
    page = Template(here.with_name("review.html").read_text("utf-8")).substitute(
        style=here.with_name("review.css").read_text("utf-8"),
        script=script,
        policy=html.escape(f"'sha256-{_base64(hashlib.sha256(script.encode()).digest())}'"),
        data=script_json(data),
    )
    (folder / PAGE).write_text(page, "utf-8")


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no character of it means anything to HTML."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _card(card: Card, numbers: dict[str, int], small: dict[str, str]) -> dict[str, Any]:
    beside = []
    for other in card.beside:
        if other.id not in small:
            small[other.id] = _picture(other.read, SMALL)
        beside.append({"id": other.id, "label": numbers[other.label], "copy": other.copy})
    suspect = card.suspect
    return {
        "id": suspect.id,
        "copies": list(card.copies),
        "uri": suspect.uri,
        "label": numbers[suspect.label],
        "suggested": None if suspect.suggested is None else numbers[suspect.suggested],
        "score": round(suspect.score, 4),
        "kind": suspect.kind,
        "role": card.role,
        "probabilities": [round(value, 4) for value in card.probabilities],
        "beside": beside,
        "photo": _picture(card.read, LARGE),
    }


def _picture(read: Callable[[], bytes], side: int) -> str:
    """A photo as a data URI; empty when its bytes are gone."""
    try:
        return f"data:image/jpeg;base64,{_base64(thumbnail(read(), side))}"
    except BadPhoto:
        return ""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
