"""The Report: report.json and one self-contained HTML page, from what was measured."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.folder import atomic_folder
from catflap.artifacts.report import MARKER, Report, judged_on, load_report, save_report
from catflap.errors import BadPhoto, CatflapError
from catflap.evaluation.charts import Line, histogram, lines, reliability, render, roc, whisker
from catflap.evaluation.decision_rates import MANY_UNSURE, in_words
from catflap.evaluation.examples import Examples
from catflap.evaluation.outlook import promised
from catflap.image import thumbnail
from catflap.version import VERSION

THUMBNAIL = 260  # px
SMALL = 160
MAX_ROWS = 100  # labels in a table
VALIDATION_LOSS = "log loss on validation photos"
TRIAL = ("size", "share", "validation_log_loss", "validation_accuracy", "fp32_ms", "int8_mb", "epochs")
MAX_NUMBER = 1e15
Entries = list[dict[str, Any]]
Metrics = dict[str, Any]


def write_report(
    out: Path,
    sections: Mapping[str, dict[str, Any]],
    *,
    title: str,
    labels: Sequence[str],
    examples: Examples,
    curves: Mapping[str, dict[str, Any]],
    ancestors: Mapping[str, str],
    learnt: Mapping[str, Any] | None = None,
    role: str = "",
    seen: str = "unknown",
    verdict: Mapping[str, Any] | None = None,
    outcome: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Any] | None = None,
    corrected: Mapping[str, Any] | None = None,
    more: Callable[[Path], object] = lambda folder: None,
) -> Report:
    """Write a Report folder and open it.

    `sections` maps each variant to what `measure` gave, and `decisions` to what `shipped_decisions` gave
    where it decides; the headline's variant first. `curves` maps variants to what `curves` gave;
    `examples` are shown as thumbnails; `learnt` is what `learning` gave for a Checkpoint; `outcome` is that
    of a build. `role` and `seen` say which photos these are, and `verdict` is that of a Bundle, as in Report,
    like `conditions` and `corrected`. `more` writes further files into the folder.
    """
    if not sections:
        raise CatflapError("There is nothing to report.", "Measure at least one variant.")
    fields = {
        "title": title,
        "labels": list(labels),
        "role": role,
        "seen": seen,
        "variants": dict(sections),
        "curves": dict(curves),
        "mistakes": [one.to_json() for one in examples.mistakes],
        "least_sure": [one.to_json() for one in examples.least_sure],
        "outcome": dict(outcome or {}),
        "learning": dict(learnt or {}),
        "ancestors": dict(ancestors),
        "versions": {"catflap": VERSION, "numpy": np.__version__},
        "verdict": dict(verdict or {}),
        "conditions": dict(conditions or {}),
        "corrected": dict(corrected or {}),
    }
    judged = judged_on(next(iter(sections.values()))["photos"], role, seen)
    html = report_page(
        title,
        labels,
        sections,
        curves,
        examples,
        ancestors,
        learnt or {},
        judged,
        verdict or {},
        outcome or {},
        conditions or {},
        corrected or {},
    )
    with atomic_folder(out, MARKER) as folder:
        more(folder)
        save_report(folder, fields, html)
    return load_report(out)


def report_page(
    title: str,
    labels: Sequence[str],
    variants: Mapping[str, Metrics],
    curves: Mapping[str, dict[str, Any]],
    examples: Examples,
    ancestors: Mapping[str, str],
    learnt: Mapping[str, Any],
    judged: str,
    verdict: Mapping[str, Any],
    outcome: Mapping[str, Any],
    conditions: Mapping[str, Any],
    corrected: Mapping[str, Any],
) -> str:
    """The HTML page; the first variant has the headline, `judged` says which photos these are."""
    name, first = next(iter(variants.items()))

    def worst_labels(metrics: Metrics) -> list[str]:
        scores = {label: metrics["per_class"][label]["f1"]["value"] for label in labels}
        worst = sorted(labels, key=lambda label: (scores[label] is None, scores[label]))
        return list(labels) if len(labels) <= MAX_ROWS else worst[:MAX_ROWS]

    def whisker_start(metrics: Metrics, shown: Sequence[str]) -> float:
        lows = (
            metrics["per_class"][one][key]["low"] for one in shown for key in ("precision", "recall", "f1")
        )
        return math.floor(10 * min((low for low in lows if low is not None), default=0.0)) / 10

    def opacity(matrix: Metrics, true: int, predicted: int) -> str:
        value = matrix["value"][true][predicted]
        strength = 0.06 + 0.36 * (value if true == predicted else math.sqrt(value))
        return f"{strength if matrix['photos'][true][predicted] else 0.0:.3f}"

    return render(
        "report.html",
        kicker="Catflap report",
        title=title,
        conditions=conditions,
        corruption_rows=_corruption_rows(conditions.get("corruptions", {})),
        slice_rows=_slice_rows(conditions.get("slices", {})),
        corrected=corrected,
        variant=name,
        first=first,
        judged=judged,
        labels=list(labels),
        variants=variants,
        sentence=in_words(first["decisions"]) if "decisions" in first else "",
        many_unsure=MANY_UNSURE,
        verdict=verdict,
        max_rows=MAX_ROWS,
        drawn={name: _charts(curves.get(name)) for name in variants},
        learnt=learnt,
        learning_charts=learning_charts(learnt),
        mistakes=[
            {**vars(one), **picture(one.photo), "where": base64.b64encode(one.where).decode("ascii")}
            for one in examples.mistakes
        ],
        least_sure=[{**vars(one), **picture(one.photo)} for one in examples.least_sure],
        cells={
            cell: [{**vars(one), **picture(one.photo, SMALL)} for one in some]
            for cell, some in (examples.cells or {}).items()
        },
        outcome=outcome,
        outlook_chart=outlook_chart(outcome),
        promised=promised(first["accuracy"]),
        address=address,
        ancestors=ancestors,
        worst_labels=worst_labels,
        whisker_start=whisker_start,
        whisker=whisker,
        opacity=opacity,
        point_name=lambda point: "{}:{}={:.12g}".format(point["label"], *next(iter(point["wish"].items()))),
        shown=lambda number, form: "–" if number is None else format(number, form),
        plain=lambda value: f"{value:.4f}",
        two_digits=lambda value: f"{value:.2f}",
        plural=lambda number, what: f"{number:,} {what}{'' if number == 1 else 's'}",
    )


def _slice_rows(slices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The slices over all labels, and those of a label that are significantly worse, in their order."""
    return [row for row in slices.get("rows", []) if row["label"] is None or row["worse"]]


def _corruption_rows(corruptions: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each corruption, mildest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in corruptions.get("rows", []):
        found.setdefault(row["corruption"], []).append(row)
    return found


def _charts(curves: dict[str, Any] | None) -> list[tuple[str, str]]:
    if curves is None:
        return []
    return [
        ("Reliability", reliability(curves["reliability"])),
        ("ROC curve", roc(curves["roc"])),
        ("Distribution of probabilities", histogram(curves["histogram"])),
    ]


def picture(photo: bytes, side: int = THUMBNAIL) -> dict[str, str]:
    """A photo's thumbnail as base64 in `picture`, or in `error` why it cannot be read; the other is empty."""
    try:
        return {"picture": base64.b64encode(thumbnail(photo, side)).decode("ascii"), "error": ""}
    except BadPhoto as error:
        return {"picture": "", "error": error.what}


def address(name: str) -> str:
    """The file: address of a photo on this machine; "" for one inside an archive or elsewhere."""
    try:
        return Path(name).as_uri() if "::" not in name and Path(name).is_absolute() else ""
    except ValueError:
        return ""


def outlook_chart(outcome: Mapping[str, Any]) -> str:
    """The measured learning curve, and what more photos of each label would promise; "" without a curve."""
    points, more = outcome.get("curve") or [], outcome.get("more") or []
    if len(points) < 2:
        return ""
    used, labels = outcome["photos"]["used"], outcome["labels"]
    most = points[-1]["photos"]
    growth = [1.0, *(1 + row["each_label"] * labels / used for row in more)]
    promises = [outcome["promised"], *(row["promised"] for row in more)]
    drawn = [
        Line(
            "measured, of the head alone",
            [p["photos"] for p in points],
            [100 * p["accuracy"] for p in points],
        ),
        Line(
            "promised at least, with more photos", [most * g for g in growth], [100 * low for low in promises]
        ),
    ]
    description = "Accuracy against the photos that were learnt from, and what more photos would promise."
    return lines(description, ("photos learnt from", "right answers, %"), drawn, powers=True)


def learning(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A Checkpoint's history as columns for charts; only the parts that it has.

    `trials` of the search. `heads`: log loss against C (inverse L2), one path for each feature scaling,
    `chosen` the index of the chosen head. `steps`: loss and learning rate. `epochs`: train loss, and
    validation log loss and accuracy after each. `blends`: log loss of each share of the fine-tuned
    weights, `kept` the index of the chosen one.
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
    names = ("c", "validation_log_loss", "validation_accuracy")
    return [
        {"standardise": standardise, **_columns(path, names), **_place(path, "chosen")}
        for standardise, path in paths.items()
    ]


def _place(entries: Entries, mark: str) -> dict[str, int]:
    """The index of the marked entry, under the mark's name; empty where none is marked."""
    places = [place for place, entry in enumerate(entries) if entry.get(mark) is True]
    return {mark: places[0]} if places else {}


def _columns(entries: Entries, names: Sequence[str]) -> dict[str, list[Any]]:
    """Entries as columns by name; empty where there are none."""
    return {name: [_number(entry.get(name)) for entry in entries] for name in names if entries}


def _number(value: Any) -> int | float | None:
    """A finite number of a size that JSON and charts can hold, else None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    return value if good else None


def learning_charts(learnt: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The heading and the chart of each part that `learning` has columns for."""
    steps, epochs, blends = (learnt.get(name) for name in ("steps", "epochs", "blends"))
    charts = []
    if "heads" in learnt:
        charts.append(("Regularisation of the head", _heads_chart(learnt["heads"])))
    if epochs:
        charts.append(("Loss during training", _losses_chart(steps, epochs)))
        accuracy = [None if share is None else 100 * share for share in epochs["validation_accuracy"]]
        line = Line("validation, of the averaged weights", epochs["epoch"], accuracy)
        description = "Accuracy on the validation photos after each epoch."
        charts.append(("Accuracy after each epoch", lines(description, ("epoch", "accuracy, %"), [line])))
    if epochs and steps:
        line = Line("learning rate of the head", _in_epochs(steps, epochs), steps["rate"])
        charts.append(("Learning rate", lines("The learning rate.", ("epoch", "learning rate"), [line])))
    if blends:
        line = Line(
            "start and average, blended", blends["share"], blends["validation_log_loss"], blends.get("kept")
        )
        description = "Log loss of each share of the fine-tuned weights; the large dot was kept."
        words = ("share of the fine-tuned weights", VALIDATION_LOSS)
        charts.append(("Blend of weights", lines(description, words, [line])))
    return charts


def _heads_chart(paths: list[Mapping[str, Any]]) -> str:
    drawn = [
        Line(
            "standardised per feature" if path["standardise"] else "one scale for all features",
            path["c"],
            path["validation_log_loss"],
            path.get("chosen"),
        )
        for path in paths
    ]
    description = (
        "Log loss against C (inverse L2), each head at its best temperature; the large dot was chosen: "
        "the middle of the heads that are not significantly worse than the best."
    )
    return lines(description, ("C: larger is weaker", VALIDATION_LOSS), drawn, powers=True)


def _losses_chart(steps: Mapping[str, Any] | None, epochs: Mapping[str, Any]) -> str:
    if steps:
        train = Line("train, mean over steps", _in_epochs(steps, epochs), steps["loss"])
    else:
        train = Line("train", epochs["epoch"], epochs["train_loss"])
    validation = Line("validation, of the averaged weights", epochs["epoch"], epochs["validation_log_loss"])
    return lines("Loss of train and validation photos.", ("epoch", "loss"), [train, validation])


def _in_epochs(steps: Mapping[str, Any], epochs: Mapping[str, Any]) -> list[float | None]:
    """Step numbers in epochs; all steps as one epoch where none was finished."""
    count, total = (
        max((number for number in numbers if number is not None and number > 0), default=1)
        for numbers in (epochs["epoch"], steps["last"])
    )
    return [None if step is None else step * count / total for step in steps["last"]]
