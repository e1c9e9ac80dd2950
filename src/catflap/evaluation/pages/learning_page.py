"""The part of a Report's page that shows how a Checkpoint learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catflap.evaluation.pages.charts import Line, card, lines, percent
from catflap.html_text import text

Columns = Mapping[str, Any]
LOSS = "log loss of the validation photos"


def learning_cards(learnt: Mapping[str, Any]) -> str:
    """A card for each picture that `learning` has the numbers of, as HTML."""
    steps, epochs, blends = (learnt.get(name) for name in ("steps", "epochs", "blends"))
    cards = []
    if "heads" in learnt:
        cards.append(card("How strongly the head is held back", _heads(learnt["heads"])))
    if epochs:
        cards.append(card("Loss while it learnt", _losses(steps, epochs)))
        line = Line("validation, of the averaged weights", epochs["epoch"], _hundred(epochs))
        said = "Accuracy on the validation photos after each epoch."
        cards.append(card("Right after each epoch", lines(said, ("epoch", "right, %"), [line])))
    if epochs and steps:
        line = Line("rate of the head", _in_epochs(steps, epochs), steps["rate"])
        cards.append(card("Learning rate", lines("The learning rate.", ("epoch", "rate"), [line])))
    if blends:
        shares, losses = blends["share"], blends["validation_log_loss"]
        line = Line("start and average, blended", shares, losses, blends.get("kept"))
        said = "Log loss of each share of what was learnt; the large dot was kept."
        picture = lines(said, ("share of what was learnt", LOSS), [line])
        cards.append(card("How much of it was kept", picture))
    return "".join(cards)


def trial_rows(learnt: Mapping[str, Any]) -> list[str]:
    """A table row for each trial of a search, as HTML."""
    rows = []
    for trial in learnt.get("trials", []):
        cells = [
            _shown(trial["size"], "g"),
            text(trial["fit"]),
            text(trial["recipe"]),
            percent(trial["share"], 0),
            _shown(trial["validation_log_loss"], ".4f"),
            percent(trial["validation_accuracy"]),
            _shown(trial["fp32_ms"], ".1f"),
            _shown(trial["int8_mb"], ".1f"),
            _shown(trial["epochs"], "g"),
        ]
        name = f"<bdi>{text(trial['backbone'])}</bdi>{' (picked)' if trial['picked'] else ''}"
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return rows


TRIAL_HEADS = (
    "backbone",
    "size, px",
    "fit",
    "recipe",
    "of the photos compared",
    "log loss",
    "accuracy",
    "ms in fp32",
    "MB in int8",
    "epochs that would fit",
)


def _heads(paths: list[Columns]) -> str:
    drawn = []
    for path in paths:
        named = "scaled one by one" if path["standardise"] else "scaled together"
        drawn.append(Line(named, path["strength"], path["validation_log_loss"], path.get("chosen")))
    said = (
        "Log loss by the strength of the penalty, each head as sure as it may be; the large dot was chosen: "
        "the middle of those that are not worse than the best by more than chance."
    )
    return lines(said, ("C: larger is freer", LOSS), drawn, powers=True)


def _losses(steps: Columns | None, epochs: Columns) -> str:
    if steps:
        train = Line("train, mean of some steps", _in_epochs(steps, epochs), steps["loss"])
    else:
        train = Line("train", epochs["epoch"], epochs["train_loss"])
    judged = Line("validation, of the averaged weights", epochs["epoch"], epochs["validation_log_loss"])
    return lines("Loss of train and validation photos.", ("epoch", "loss"), [train, judged])


def _in_epochs(steps: Columns, epochs: Columns) -> list[float | None]:
    """Steps counted in epochs; all of them as one epoch where none was finished."""
    count, total = _most(epochs["epoch"]), _most(steps["last"])
    return [None if step is None else step * count / total for step in steps["last"]]


def _most(numbers: list[float | None]) -> float:
    """The largest number above 0, else 1."""
    return max((number for number in numbers if number is not None and number > 0), default=1)


def _hundred(epochs: Columns) -> list[float | None]:
    """Accuracies in percent."""
    return [None if share is None else 100 * share for share in epochs["validation_accuracy"]]


def _shown(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)
