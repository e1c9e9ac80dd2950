"""How a Checkpoint learnt: its history as the lines of pictures, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TRIAL = ("size", "share", "validation_log_loss", "validation_accuracy", "fp32_ms", "int8_mb", "epochs")
MOST = 1e15
Entries = list[dict[str, Any]]


def learning(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The parts of a Checkpoint's history that it has, each as columns of equal length.

    `trials` are those of a search; `heads` the paths of log loss over the strength of the penalty, one
    for each way to scale, with the place of the head that was chosen on its path; `steps` loss and rate;
    `epochs` the mean loss of each epoch, and log loss and accuracy on validation after it; `blends` the log
    loss of each share of what was learnt, and the place of the one that was kept.
    """
    kinds: dict[str, Entries] = {}
    for entry in history:
        kinds.setdefault(str(entry.get("step")), []).append(entry)
    found: dict[str, Any] = {
        "trials": [_trial(entry) for entry in kinds.get("trial", [])],
        "heads": _heads(kinds.get("head", [])),
        "steps": _columns(kinds.get("steps", []), ("last", "loss", "rate")),
        "epochs": _columns(
            kinds.get("finetune", []), ("epoch", "train_loss", "validation_log_loss", "validation_accuracy")
        ),
        "blends": _columns(kinds.get("blend", []), ("share", "validation_log_loss"))
        | _place(kinds.get("blend", []), "kept"),
    }
    return {name: part for name, part in found.items() if part}


def _trial(entry: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: _number(entry.get(name)) for name in TRIAL}
    words = {name: str(entry.get(name, "–")) for name in ("backbone", "fit", "recipe")}
    return {**words, **numbers, "picked": entry.get("picked") is True}


def _heads(entries: Entries) -> Entries:
    paths: dict[bool, Entries] = {}
    for entry in entries:
        paths.setdefault(entry.get("standardise") is True, []).append(entry)
    names = ("strength", "validation_log_loss", "validation_accuracy")
    return [
        {"standardise": standardise, **_columns(path, names), **_place(path, "chosen")}
        for standardise, path in paths.items()
    ]


def _place(entries: Entries, mark: str) -> dict[str, int]:
    """Where the entry with a mark stands, under the mark's name; nothing where none has it."""
    places = [place for place, entry in enumerate(entries) if entry.get(mark) is True]
    return {mark: places[0]} if places else {}


def _columns(entries: Entries, names: Sequence[str]) -> dict[str, list[Any]]:
    """Lists by name, of entries; nothing where there are none."""
    return {name: [_number(entry.get(name)) for entry in entries] for name in names if entries}


def _number(value: Any) -> int | float | None:
    """A number that JSON can hold and a picture can show, or None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
    return value if good else None
