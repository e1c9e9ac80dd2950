"""Decisions carried out, one photo at a time, on the rows of a Manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from catflap.artifacts.tables import DROPPED, OK, QUARANTINED
from catflap.curation.decisions import Decision, Decisions
from catflap.curation.lookup import SETTLED, TWO_LABELS
from catflap.curation.rows import Rows
from catflap.data.scanning.copies import FIRST


@dataclass
class Outcome:
    """What became of decisions: how many were carried out, and which were not.

    `unknown` ids are not in the Manifest; `unusable` ones are quarantined or dropped for another
    reason; `stale` ones have another label than the person saw, {"id", "was", "label"} each.
    """

    kept: int = 0
    relabelled: int = 0
    dropped: int = 0
    restored: int = 0
    unknown: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    stale: list[dict[str, str]] = field(default_factory=list)

    @property
    def carried_out(self) -> int:
        """How many decisions were carried out."""
        return self.kept + self.relabelled + self.dropped + self.restored

    @property
    def left(self) -> int:
        """How many were not."""
        return len(self.unknown) + len(self.unusable) + len(self.stale)

    def to_json(self) -> dict[str, Any]:
        """The counts, then the ids."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def carry_out(rows: Rows, decisions: Decisions) -> Outcome:
    """Change the rows as a person decided, and tell what could not be done."""
    outcome = Outcome()
    for id, decision in decisions.by_id.items():
        mine = rows.of.get(id, [])
        ok = [row for row in mine if rows.status[row] == OK]
        under_two_labels = [row for row in mine if _is_under_two_labels(rows, row)]
        if not mine:
            outcome.unknown.append(id)
        elif ok:
            _settle(rows, ok[0], mine, decision, outcome)
        elif under_two_labels:
            _restore(rows, under_two_labels, decision, outcome)
        elif decision.label is None and any(rows.reasons[row].startswith(SETTLED) for row in mine):
            outcome.dropped += 1  # by the same decision, before
        else:
            outcome.unusable.append(id)
    return outcome


def _is_under_two_labels(rows: Rows, row: int) -> bool:
    return bool(rows.status[row] == QUARANTINED) and rows.reasons[row].startswith(TWO_LABELS)


def _settle(rows: Rows, row: int, copies: list[int], decision: Decision, outcome: Outcome) -> None:
    """A photo that is ok: keep it, give it and its dropped copies a label, or drop it."""
    label = rows.label(row)
    if label not in (decision.was, decision.label):
        outcome.stale.append({"id": decision.id, "was": decision.was, "label": label})
    elif decision.label is None:
        _drop(rows, row, decision.reason)
        outcome.dropped += 1
    elif decision.label == label:
        _remark(rows, row, "kept")
        outcome.kept += 1
    else:
        rows.labels[copies] = rows.names[decision.label]
        _remark(rows, row, f"relabelled, was {label!r}")
        outcome.relabelled += 1


def _restore(rows: Rows, under_two_labels: list[int], decision: Decision, outcome: Outcome) -> None:
    """A photo whose bytes stand under several labels: one row becomes ok, the others its copies.

    It is the first of the first stated role, as of copies in a scan, or of those under the label decided on.
    """
    labels = [rows.label(row) for row in under_two_labels]
    if decision.was not in labels:
        outcome.stale.append({"id": decision.id, "was": decision.was, "label": labels[0]})
        return
    if decision.label is None:
        for row in under_two_labels:
            _drop(rows, row, decision.reason)
        outcome.dropped += 1
        return
    ranks = {role: rank for rank, role in enumerate(FIRST)}
    roles = [ranks.get(rows.roles[row], len(ranks)) for row in under_two_labels]
    chosen = min(zip(roles, (label != decision.label for label in labels), under_two_labels, strict=True))[2]
    others = [row for row in under_two_labels if row != chosen]
    rows.status[chosen] = OK
    rows.status[others] = DROPPED
    rows.labels[under_two_labels] = rows.names[decision.label]
    rows.reasons[chosen] = f"{SETTLED} one of two labels"
    for row in others:
        rows.reasons[row] = f"exact_duplicate: the same bytes as {rows.uris[chosen]}"
    rows.restored.append(chosen)
    outcome.restored += 1


def _drop(rows: Rows, row: int, reason: str) -> None:
    rows.status[row] = DROPPED
    rows.groups[row] = -1
    rows.reasons[row] = f"{SETTLED} {reason}"


def _remark(rows: Rows, row: int, what: str) -> None:
    """Add what a person decided to the remarks of a photo, in place of what was decided before."""
    kept = [one for one in rows.reasons[row].split("; ") if one and not one.startswith(SETTLED)]
    rows.reasons[row] = "; ".join([*kept, f"{SETTLED} {what.replace(';', ',')}"])
