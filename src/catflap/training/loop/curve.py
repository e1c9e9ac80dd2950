"""What a run remembers of its steps: few numbers, however many steps there are."""

from __future__ import annotations

from typing import Any

POINTS = 100  # of the curve of a whole run


def remember(
    history: list[dict[str, Any]], done: int, length: tuple[int, int], figures: dict[str, float]
) -> None:
    """Add the figures of step `done`, from 1, to a history; `length` is the steps of an epoch and of all.

    An entry "steps" has the mean loss and the last rate of a hundredth of the run, and ends with its
    epoch at the latest; then follows "finetune", the epoch's own, with the mean of its losses; a run that
    ends within an epoch has one of that part. Entries grow in place, so that a history which was kept in
    the middle of one goes on exactly.
    """
    epoch, total = length
    width, place = -(-total // POINTS), (done - 1) % epoch
    if place % width == 0 or not history or history[-1]["step"] != "steps":
        history.append({"step": "steps", "first": done, "last": 0, "loss": 0.0, "rate": 0.0})
    here = history[-1]
    here["loss"] += (figures["loss"] - here["loss"]) / (done - here["first"] + 1)
    here["last"], here["rate"] = done, figures["rate"]
    if done % epoch == 0 or done == total:
        before = (done - 1) // epoch * epoch
        parts = [entry for entry in history if entry["step"] == "steps" and entry["first"] > before]
        counts = [entry["last"] - entry["first"] + 1 for entry in parts]
        lost = sum(entry["loss"] * count for entry, count in zip(parts, counts, strict=True))
        number = round(done / epoch, 2) if done % epoch else done // epoch
        history.append({"step": "finetune", "epoch": number, "train_loss": lost / sum(counts)})
