"""A Report as one HTML page: nothing is loaded from elsewhere, nothing runs, every string is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from catflap.errors import BadPhoto
from catflap.evaluation.mistakes import Mistake
from catflap.evaluation.pages.charts import card, histogram, nothing, percent, reliability, roc, whisker
from catflap.evaluation.pages.learning_page import TRIAL_HEADS, learning_cards, trial_rows
from catflap.html_text import text
from catflap.image import thumbnail

THUMBNAIL = 260
MOST_ROWS = 100
DENSE = 8
NOTE = """Every number stands with the 95 % interval that these photos allow. Near-duplicates count once:
the intervals count independent groups, not photos."""
Metrics = dict[str, Any]


def page(
    title: str,
    labels: Sequence[str],
    variants: Mapping[str, Metrics],
    curves: Mapping[str, dict[str, Any]],
    mistakes: Sequence[Mistake],
    ancestors: Mapping[str, str],
    learnt: Mapping[str, Any],
    judged: str,
) -> str:
    """The whole page; the first variant is the one of the headline, `judged` says on which photos."""
    name, first = next(iter(variants.items()))
    blocks = [_variants(variants, labels)] if len(variants) > 1 else []
    for place, (variant, metrics) in enumerate(variants.items()):
        block = _details(metrics, labels, curves.get(variant))
        heading = f"<bdi>{text(variant)}</bdi> in detail"
        if place:
            blocks.append(f"<details><summary>{heading}</summary>{block}</details>")
        else:
            blocks.append(f"<section><h2>{heading}</h2>{block}</section>")
    if learnt:
        blocks.append(_learning(learnt))
    blocks.append(_mistakes(mistakes, first))
    lead = (
        f"<bdi>{text(name)}</bdi> on {text(judged)}, "
        f"in {_count(first['groups'], 'independent group')}, with {_count(len(labels), 'label')}."
    )
    here = Path(__file__)
    return Template(here.with_name("report.html").read_text("utf-8")).substitute(
        kicker="Catflap report",
        title=text(title),
        style=here.with_name("report.css").read_text("utf-8"),
        lead=lead,
        tiles=_tiles(first, labels),
        sections="\n".join(blocks),
        note=NOTE,
        ancestors=_ancestors(ancestors),
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _share(number: Metrics) -> str:
    """A share and its interval, or why there is none."""
    return _number(number, percent)


def _plain(number: Metrics) -> str:
    """A number that is not read as a share: the area under a ROC curve, the log loss."""
    return _number(number, lambda value: f"{value:.4f}")


def _number(number: Metrics, shown: Callable[[float], str]) -> str:
    value = "–" if number["value"] is None else shown(number["value"])
    under = f'<span class="interval why">{text(number.get("reason", ""))}</span>'
    if number["low"] is not None:
        under = f'<span class="interval">{shown(number["low"])} – {shown(number["high"])}</span>'
        if "note" in number:
            under += f'<span class="interval why">{text(number["note"])}</span>'
    return f'<span class="number">{value}</span>{under}'


def _tiles(metrics: Metrics, labels: Sequence[str]) -> str:
    tiles = [("Accuracy", _share(metrics["accuracy"])), ("ROC-AUC", _plain(metrics["roc_auc"]))]
    if len(labels) == 2:
        point = metrics["per_class"][labels[0]]["recall_at_fpr"]["0.01"]
        tiles.append((f"<bdi>{text(labels[0])}</bdi> found at 1 % false positives", _share(point)))
    else:
        tiles.append(("Mean F1 of the labels", _share(metrics["macro_f1"])))
    tiles.append(("Calibration error", _share(metrics["calibration_error"])))
    return "".join(
        f'<div class="tile"><span class="name">{name}</span>{number}</div>' for name, number in tiles
    )


def _cell(number: str, mark: str = "") -> str:
    return f"<td>{number}{mark}</td>"


def _table(
    caption: str, heads: Sequence[str], rows: Sequence[str], style: str = "", outer: str = "box"
) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="scroll {outer}"><table class="{style}"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _variants(variants: Mapping[str, Metrics], labels: Sequence[str]) -> str:
    heads = ["variant", "accuracy", "mean F1", "ROC-AUC", "log loss", "calibration error"]
    binary = len(labels) == 2
    if binary:
        heads.append(f"<bdi>{text(labels[0])}</bdi> found at 0.1 % false positives")
    rows = []
    for name, metrics in variants.items():
        cells = [
            _cell(_share(metrics["accuracy"])),
            _cell(_share(metrics["macro_f1"])),
            _cell(_plain(metrics["roc_auc"])),
            _cell(_plain(metrics["log_loss"])),
            _cell(_share(metrics["calibration_error"])),
        ]
        if binary:
            cells.append(_cell(_share(metrics["per_class"][labels[0]]["recall_at_fpr"]["0.001"])))
        rows.append(f'<tr><th scope="row"><bdi>{text(name)}</bdi></th>{"".join(cells)}</tr>')
    table = _table("Each variant was measured by itself, from the photos' bytes.", heads, rows)
    return f"<section><h2>Variants</h2>{table}</section>"


def _details(metrics: Metrics, labels: Sequence[str], curves: dict[str, Any] | None) -> str:
    wide = " wide" if len(labels) > 2 and metrics["confusion_matrix"] is not None else ""
    cards = [f'<div class="card{wide}"><h3>Confusion</h3>{_matrix(metrics, labels)}</div>']
    if curves is not None:
        cards += [
            card("Is 90 % right nine times in ten?", reliability(curves["reliability"])),
            card("What a stricter threshold costs", roc(curves["roc"])),
            card("How the answers are spread", histogram(curves["histogram"])),
        ]
    return f'{_per_class(metrics, labels)}<p></p><div class="cards">{"".join(cards)}</div>'


def _per_class(metrics: Metrics, labels: Sequence[str]) -> str:
    table = metrics["per_class"]
    worst = sorted(
        labels, key=lambda label: (table[label]["f1"]["value"] is None, table[label]["f1"]["value"])
    )
    shown = list(labels) if len(labels) <= MOST_ROWS else worst[:MOST_ROWS]
    lows = [table[label][key]["low"] for label in shown for key in ("precision", "recall", "f1")]
    start = math.floor(10 * min([low for low in lows if low is not None], default=0.0)) / 10
    heads = ["label", "photos", "precision", "recall", "F1", "ROC-AUC"]
    limits = ("0.01", "0.001") if len(labels) == 2 else ()
    heads += [f"recall at {100 * float(limit):g} % false positives" for limit in limits]
    rows = []
    for label in shown:
        row = table[label]
        cells = [f"<td>{row['support']:,}</td>"]
        cells += [_cell(_share(row[key]), whisker(row[key], start)) for key in ("precision", "recall", "f1")]
        cells.append(_cell(_plain(row["roc_auc"])))
        cells += [_cell(_share(row["recall_at_fpr"][limit])) for limit in limits]
        rows.append(f'<tr><th scope="row"><bdi>{text(label)}</bdi></th>{"".join(cells)}</tr>')
    caption = f"Each label; the small lines run from {percent(start, 0)} to 100 %."
    if len(shown) < len(labels):
        caption = f"The {MOST_ROWS} labels with the lowest F1; report.json has all {len(labels):,}."
    return _table(caption, heads, rows)


def _matrix(metrics: Metrics, labels: Sequence[str]) -> str:
    matrix = metrics["confusion_matrix"]
    if matrix is None:
        return _confusions(metrics)
    dense = len(labels) > DENSE
    rows = []
    for true, label in enumerate(labels):
        cells = []
        for taken, other in enumerate(labels):
            count = matrix["photos"][true][taken]
            if matrix["value"][true] is None:
                cells.append("<td>–</td>")
                continue
            value, low, high = (matrix[key][true][taken] for key in ("value", "low", "high"))
            strength = 0.06 + 0.5 * (value if true == taken else math.sqrt(value)) if count else 0.0
            tone = "right" if true == taken else "wrong"
            said = f"{percent(value)} of {label} taken for {other}: {percent(low)} – {percent(high)}"
            more = (
                ""
                if dense
                else f'{percent(value)}<span class="interval">{percent(low)} – {percent(high)}</span>'
            )
            cells.append(
                f'<td style="background:rgb(var(--{tone}) / {strength:.3f})" title="{text(said)}">'
                f"<b>{count:,}</b>{more}</td>"
            )
        rows.append(
            f'<tr><th scope="row" title="{text(label)}"><bdi>{text(label)}</bdi></th>{"".join(cells)}</tr>'
        )
    heads = ["true ↓ taken for →", *(f"<bdi>{text(label)}</bdi>" for label in labels)]
    caption = "Photos, and the share of the true label with its interval."
    return _table(caption, heads, rows, "matrix dense" if dense else "matrix", outer="")


def _confusions(metrics: Metrics) -> str:
    rows = [
        f'<tr><th scope="row"><bdi>{text(row["true"])}</bdi></th><td><bdi>{text(row["predicted"])}</bdi></td>'
        f"<td>{row['photos']:,}</td>{_cell(_share(row))}</tr>"
        for row in metrics["confusions"][:12]
    ]
    if not rows:
        return nothing("There was no mistake.")
    caption = "The most frequent mistakes, as a share of the true label."
    return _table(caption, ["true", "taken for", "photos", "share"], rows, outer="")


def _learning(learnt: Mapping[str, Any]) -> str:
    note = "Of the training itself: the train photos, and the validation photos that it was chosen by."
    if learnt.get("epochs"):
        note += (
            " Train photos are varied (mirrored, and cropped or moved), so their loss is not comparable"
            " with that of validation."
        )
    rows = trial_rows(learnt)
    table = _table("What the search tried.", TRIAL_HEADS, rows) + "<p></p>" if rows else ""
    return (
        f'<section><h2>How it learnt</h2><p class="note">{note}</p>{table}'
        f'<div class="cards">{learning_cards(learnt)}</div></section>'
    )


def _mistakes(mistakes: Sequence[Mistake], metrics: Metrics) -> str:
    if not mistakes:
        return f"<section><h2>The worst mistakes</h2>{nothing('There was no mistake to show.')}</section>"
    figures = "".join(_figure(mistake) for mistake in mistakes)
    note = (
        "The photos that were most surely taken for another label. Look at their labels first: "
        "a wrong label looks just like a wrong answer."
    )
    return (
        f'<section><h2>The worst mistakes</h2><p class="note">{note}</p>'
        f'<div class="mistakes">{figures}</div></section>'
    )


def _figure(mistake: Mistake) -> str:
    said = f"{percent(mistake.probability)} {mistake.predicted}"
    try:
        picture = base64.b64encode(thumbnail(mistake.photo, THUMBNAIL)).decode("ascii")
        alt = f"A photo labelled {mistake.true} that was taken for {mistake.predicted}."
        shown = f'<img src="data:image/jpeg;base64,{picture}" alt="{text(alt)}" loading="lazy">'
    except BadPhoto as error:
        shown = f'<div class="noimage">{text(error.what)}</div>'
    return (
        f'<figure>{shown}<figcaption><span class="said"><bdi>{text(said)}</bdi></span><br>'
        f"labelled <bdi>{text(mistake.true)}</bdi><br>"
        f'<span class="file"><bdi>{text(mistake.name)}</bdi></span></figcaption></figure>'
    )


def _ancestors(ancestors: Mapping[str, str]) -> str:
    if not ancestors:
        return ""
    rows = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in sorted(ancestors.items())
    )
    return f"<dl>{rows}</dl>"
