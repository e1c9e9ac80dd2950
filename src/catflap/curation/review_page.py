"""The page on which a person decides about photos, and the decisions file that it downloads.

The page is one HTML file that loads nothing and works from a disk. Names are data: they travel as JSON inside
the page and are shown as text, so none of them can run. A decisions file may come from anybody.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from catflap.artifacts.schema import faults
from catflap.curation.suspects import Suspect
from catflap.errors import BadArtifact, BadPhoto, system_reason
from catflap.html_text import shared_style
from catflap.image import thumbnail
from catflap.progress import Progress, track

PAGE = "review.html"
APPLY = "catflap review apply MANIFEST decisions.json -o reviewed.manifest"
LARGE, SMALL = 448, 128  # px, the longer side of a suspect and of photos beside it
MAX_BYTES = 64 << 20  # some 300,000 decisions
MAX_REASON = 200
HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
DECISION = {
    "type": "object",
    "required": ["id", "was", "decision"],
    "additionalProperties": False,
    "properties": {
        "id": HASH,
        "was": {"type": "string"},
        "decision": {"type": "string", "enum": ["keep", "relabel", "drop"]},
        "label": {"type": "string"},
        "reason": {"type": "string"},
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["catflap", "version", "manifest", "decisions"],
    "additionalProperties": False,
    "properties": {
        "catflap": {"type": "string", "enum": ["decisions"]},
        "version": {"type": "integer", "enum": [1]},
        "manifest": HASH,
        "decisions": {"type": "array", "items": DECISION},
    },
}
FIX = "Download the decisions from the review page again."


@dataclass(frozen=True)
class Beside:
    """A photo to compare with; `copy`: it shows the same as the suspect; `read` returns its bytes."""

    id: str
    label: str
    copy: bool
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Card:
    """A suspect as shown on the page, with its role and the out-of-fold probabilities of the labels.

    `copies` are ids of further suspects that get the same decision.
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

    `suspects` is their number, of which the cards are the first; `command` applies the decisions.
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
        style=shared_style() + here.with_name("review.css").read_text("utf-8"),
        script=script,
        policy=html.escape(f"'sha256-{_base64(hashlib.sha256(script.encode()).digest())}'"),
        data=script_json(data),
    )
    (folder / PAGE).write_text(page, "utf-8")


def script_json(value: Any) -> str:
    """JSON for a script element, without characters that HTML interprets."""
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
    """A photo as a data URI; empty when it can no longer be read."""
    try:
        return f"data:image/jpeg;base64,{_base64(thumbnail(read(), side))}"
    except BadPhoto:
        return ""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class Decision:
    """A person's decision about the photo `id`, whose label `was` this at that time.

    `label` is the one that it shall have, or None when it shall be dropped, for a `reason`.
    """

    id: str
    was: str
    label: str | None
    reason: str


@dataclass(frozen=True)
class Decisions:
    """Decisions by id; `manifest` is the hash of the Manifest that was reviewed, `sha256` the file's own."""

    by_id: dict[str, Decision]
    manifest: str
    sha256: str


def read_decisions(path: Path, labels: Collection[str]) -> Decisions:
    """Read and check a decisions file; BadArtifact says what is wrong and where.

    `labels` are those that a photo may be given.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadArtifact(f"{path} has more than {MAX_BYTES} bytes.", FIX)
        data = path.read_bytes()
        value = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        why = system_reason(error)
        raise BadArtifact(f"{path} cannot be read as decisions: {why[:200]}.", FIX) from error
    found = faults(value, SCHEMA)
    if found:
        more = f" ({len(found)} faults)" if len(found) > 1 else ""
        raise BadArtifact(f"{path} does not hold decisions: {found[0][:300]}{more}.", FIX)
    by_id: dict[str, Decision] = {}
    for number, fields in enumerate(value["decisions"]):
        decision = _decision(fields, labels, f"Decision {number + 1} in {path}")
        if by_id.setdefault(decision.id, decision) != decision:
            raise BadArtifact(f"{path} decides twice, differently, about {decision.id}.", FIX)
    return Decisions(by_id, value["manifest"], hashlib.sha256(data).hexdigest())


def _decision(fields: dict[str, str], labels: Collection[str], place: str) -> Decision:
    kind, label, reason = fields["decision"], fields.get("label"), fields.get("reason")
    needs = {"keep": (False, False), "relabel": (True, False), "drop": (False, True)}[kind]
    if (label is not None, reason is not None) != needs:
        wanted = {
            "keep": "neither a label nor a reason",
            "relabel": "a label alone",
            "drop": "a reason alone",
        }
        raise BadArtifact(f"{place} is {kind!r}, which takes {wanted[kind]}.", FIX)
    if kind == "drop":
        return Decision(fields["id"], fields["was"], None, _reason(reason or "", place))
    label = fields["was"] if label is None else label
    if label not in labels:
        raise BadArtifact(
            f"{place} gives the label {label[:80]!r}, which the manifest does not contain.",
            f"Use one of: {', '.join(sorted(labels)[:20])}.",
        )
    return Decision(fields["id"], fields["was"], label, "")


def _reason(text: str, place: str) -> str:
    """A reason as a Manifest row can hold it: one line, without the semicolon that separates remarks."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if not words or len(words) > MAX_REASON:
        raise BadArtifact(f"{place} has a reason of {len(words)} letters.", f"Give 1 to {MAX_REASON}.")
    return words.replace(";", ",")
