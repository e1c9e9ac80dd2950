"""A person's decisions, as the review page gives them: one JSON file, which may come from anybody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catflap.artifacts.schema import faults
from catflap.errors import BadArtifact, system_reason

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
class Decision:
    """What a person said of the photo `id`, whose label `was` so at that time.

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
    """Read and check a decisions file; BadArtifact tells what is wrong with it and where.

    `labels` are those that a photo may be given.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadArtifact(f"{path} is larger than decisions can be.", FIX)
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
            f"{place} gives the label {label[:80]!r}, which the manifest does not have.",
            f"Use one of: {', '.join(sorted(labels)[:20])}.",
        )
    return Decision(fields["id"], fields["was"], label, "")


def _reason(text: str, place: str) -> str:
    """A reason as a Manifest row can hold it: one line, without the mark that parts remarks."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if not words or len(words) > MAX_REASON:
        raise BadArtifact(f"{place} has a reason of {len(words)} letters.", f"Give 1 to {MAX_REASON}.")
    return words.replace(";", ",")
