"""Suspects: photos that a person should look at, in the order in which looking pays most."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUSPECTS = "suspects.jsonl"


@dataclass(frozen=True)
class Suspect:
    """A photo and what may be wrong with it; `score` is 0 to 1, comparable but for outliers.

    `kind` is "label_error" (its label is probably wrong), "two_labels" (the same picture stands under
    `suggested` too), "look_alike" (it looks more like `suggested`, but that is not sure) or "outlier" (it
    is unlike all others, and nothing is suggested: perhaps it shows none of the labels).
    """

    id: str
    uri: str
    label: str
    suggested: str | None
    score: float
    kind: str

    def to_json(self) -> dict[str, Any]:
        """One line of the machine answer of `catflap audit`."""
        names = ("id", "uri", "label", "suggested", "score", "kind")
        return {name: getattr(self, name) for name in names}


def ranked(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Suspects by falling score, outliers after all others, each photo once, for its strongest reason."""
    first: dict[str, Suspect] = {}
    for one in sorted(suspects, key=_rank):
        first.setdefault(one.id, one)
    return tuple(first.values())


def write_suspects(folder: Path, suspects: Iterable[Suspect]) -> None:
    """Write suspects.jsonl into a Manifest folder, a suspect a line."""
    with open(folder / SUSPECTS, "w", encoding="ascii", newline="\n") as file:
        file.writelines(json.dumps(suspect.to_json()) + "\n" for suspect in suspects)


def _rank(one: Suspect) -> tuple[bool, float, bool, str]:
    return one.kind == "outlier", -one.score, one.kind != "two_labels", one.id
