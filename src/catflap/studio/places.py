"""Cards of the places where a Bundle can run: a JSON file each in `place_cards/`, with the lines to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import Bundle

FOLDER = Path(__file__).parent / "place_cards"


def cards(bundle: Bundle, path: Path) -> list[dict[str, Any]]:
    """The card of each place: title, what to know, steps with lines, and a target that is to be added first.

    In a card, {bundle} is the path of the Bundle, {name} its name, {file} its file name, {checkpoint} and
    {dataset} what it was made from.
    """
    work = path.with_suffix(".build")
    words = {
        "bundle": _quoted(str(path)), "name": bundle.name, "file": _quoted(path.name),
        "checkpoint": _quoted(str(work / "checkpoint")), "dataset": _quoted(str(work / "dataset")),
    }  # fmt: skip
    found = []
    for file in sorted(FOLDER.glob("*.json")):
        card = json.loads(file.read_text("utf-8"))
        target = card.get("target", "")
        card["place"] = file.stem.partition("-")[2]
        card["missing"] = target if target and not _has(bundle, target) else ""
        steps = card["add"] + card["steps"] if card["missing"] else card["steps"]
        card["steps"] = [{"say": step["say"], "run": step.get("run", "").format(**words)} for step in steps]
        del card["add"]
        found.append(card)
    return found


def _has(bundle: Bundle, target: str) -> bool:
    return any(variant["runtime"] == target for variant in bundle.head["variants"].values())


def _quoted(path: str) -> str:
    """A path for a shell."""
    import shlex

    return shlex.quote(path)
