"""The verb `diff`: may model B replace model A? Their decisions on the same photos, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catflap.errors import CatflapError
from catflap.evaluation.charts import render, write_page
from catflap.evaluation.paired import MARGIN, change_kinds, compare_decisions
from catflap.evaluation.report_page import picture
from catflap.pipeline.conditions import slices_of
from catflap.pipeline.evaluate import (
    Answers,
    JudgedPhotos,
    Subject,
    answers_of,
    open_photos,
    open_subject,
    shipped_model,
)
from catflap.progress import Progress, silent
from catflap.runtime.scoring import score

KICKER = "Catflap diff"
SHOWN = 60  # photos on the page; --json has all that changed
ORDER = ("worse", "other", "better")


@dataclass(frozen=True)
class Difference:
    """The result of `diff`: `fields` as `--json` prints them, and the photos to draw the page from."""

    fields: dict[str, Any]
    photos: JudgedPhotos

    @property
    def may_replace(self) -> bool:
        """True when B may replace A."""
        return bool(self.fields["verdict"] == "yes")


def diff(
    a: Path | str,
    b: Path | str,
    photos: Path | str,
    *,
    margin: float = MARGIN,
    facts: Path | None = None,
    role: str | None = None,
    progress: Progress = silent,
) -> Difference:
    """Compare the decisions of two models, Bundles or Checkpoints, on labelled photos.

    A Bundle decides by its default variant, with its own Frame, temperature and threshold; a Checkpoint
    always decides for the likeliest label. `photos` and `role` are as in `evaluate`; `facts` is a CSV with
    what else is known of the photos. B may replace A if its error rate is at most `margin` higher (see
    `compare_decisions`). Raises CatflapError for models whose labels differ.
    """
    before, after = open_subject(Path(a)), open_subject(Path(b))
    if set(before.labels) != set(after.labels):
        other = sorted(set(before.labels) ^ set(after.labels))[:5]
        raise CatflapError(
            f"The labels of {before.name} and {after.name} differ: {', '.join(other)}.",
            "Give the folders of photos the same names, and build one of them again.",
        )
    judged = open_photos(photos, role, before, progress)
    after_judged = open_photos(photos, role, after, progress)
    truth = [before.labels[number] for number in judged.labels.tolist()]
    by_a = _answers(before, judged, f"{before.name} (A)", progress)
    by_b = _answers(after, judged, f"{after.name} (B)", progress)
    decided_a, decided_b = by_a.decided, by_b.decided
    top_a, top_b = (by.probabilities.max(axis=1).tolist() for by in (by_a, by_b))
    slices = slices_of(
        truth, judged.bytes, judged.uris, judged.ids, before.frame, by_a.statistics, facts, progress
    )
    found = compare_decisions(decided_a, decided_b, truth, judged.groups, before.labels, slices, margin)
    kinds = change_kinds(decided_a, decided_b, truth, before.labels)
    changed = [
        {
            "photo": judged.names[place], "id": judged.ids[place], "label": truth[place],
            "kind": kinds[place],
            "a": decided_a[place], "b": decided_b[place],
            "probability_a": round(top_a[place], 6), "probability_b": round(top_b[place], 6),
        }
        for place in sorted(range(len(kinds)), key=lambda place: -max(top_a[place], top_b[place]))
        if kinds[place] != "same"
    ]  # fmt: skip
    changed.sort(key=lambda entry: ORDER.index(entry["kind"]))
    sides = {
        side: {"name": one.name, "model": next(iter(one.models)), "seen": seen, **_sha(one)}
        for side, one, seen in (("a", before, judged.seen), ("b", after, after_judged.seen))
    }
    return Difference({**sides, "role": judged.role, **found, "photos_changed": changed}, judged)


def _sha(subject: Subject) -> dict[str, str]:
    kind = "checkpoint" if subject.bundle is None else "bundle"
    return {"sha256": subject.ancestors[kind]}


def _answers(subject: Subject, judged: JudgedPhotos, step: str, progress: Progress) -> Answers:
    """What a user gets for each photo by the first of a subject's models."""
    name, model = next(iter(subject.models.items()))
    rows = score(
        shipped_model(subject, name), judged.bytes, subject.frame, step, progress, whole=model.takes_photos
    )
    return answers_of(subject, name, rows)


def write_diff_page(result: Difference, out: Path) -> None:
    """Write the result as one HTML page with the photos that changed; CatflapError as in `write_page`."""
    fields, judged = result.fields, result.photos
    places = {photo: place for place, photo in enumerate(judged.ids)}
    shown = [
        {**entry, **picture(judged.bytes[places[entry["id"]]])} for entry in fields["photos_changed"][:SHOWN]
    ]
    page = render(
        "diff.html",
        kicker=KICKER,
        title=f"{fields['a']['name']} → {fields['b']['name']}",
        diff=fields,
        shown=shown,
        signed=_signed,
        **_counts(fields["photos_changed"]),
    )
    write_page(out, page, KICKER)


def _counts(changed: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {kind: sum(entry["kind"] == kind for entry in changed) for kind in ORDER}


def _signed(value: float | None) -> str:
    """A difference in percentage points, with its sign."""
    return "–" if value is None else f"{100 * value:+.2f}"
