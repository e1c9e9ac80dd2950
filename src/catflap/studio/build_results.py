"""What the screen of a finished build shows: metrics, decision rule, answers about test photos, slices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.report import load_report
from catflap.studio.jobs import PAGES, Jobs
from catflap.studio.project import Project

ANSWERED = ("label", "probability", "probabilities", "decision")
COMPARED = ("before", "verdict", "why", "wrong", "right", "margin")
SHOWN_SLICES = 12
SHOWN_CHANGES = 200


def results_of(project: Project, jobs: Jobs, number: int, bundle: Bundle, path: Path) -> dict[str, Any]:
    """The verdict on a build, what its Bundle answered about each test photo, and what differs from before.

    `bundle` was opened from `path`. Without answers, because they are not there yet, `is_judged` is false.
    """
    report = load_report(path.with_suffix(".build") / "report")
    default = bundle.default_variant
    measured = report.variants[default]
    answers = jobs.answers_of(number)
    truth = project.labels_by_number()
    judged = []
    for answer in answers or ():
        photo = int(Path(answer["path"]).stem)
        about = {"photo": photo, "truth": truth.get(photo)}
        judged.append({**{key: answer.get(key) for key in ANSWERED}, **about})
    compared = jobs.comparison_of(number)
    if compared:
        numbers = project.numbers_by_id()
        changes = compared["photos_changed"][:SHOWN_CHANGES]
        changed = [{**one, "photo": numbers.get(one["id"])} for one in changes]
        compared = {**{name: compared.get(name) for name in COMPARED}, "changed": changed}
    return {
        "compared": compared,
        "name": bundle.name,
        "labels": list(bundle.labels),
        "variant": default,
        "prior": bundle.head["prior"],
        "decision": bundle.head["variants"][default]["decision"],
        "metrics": {key: measured.get(key) for key in ("accuracy", "decisions")},
        "bytes": path.stat().st_size,
        "variants": {name: bundle.size_of(one) for name, one in bundle.variants.items()},
        "photos": judged,
        "slices": _lowest_slices(report.conditions.get("slices") or {}),
        "pages": {kind: jobs.page_of(number, kind) is not None for kind in PAGES},
        "is_judged": answers is not None,
        "labels_then": json.loads((jobs.folder(number) / "labels.json").read_text("utf-8")),
    }


def _lowest_slices(found: dict[str, Any]) -> dict[str, Any]:
    """The slices of a report with the fewest right decisions, and how many were tested."""
    rows = sorted(found.get("rows", []), key=lambda row: (not row["worse"], row["right"]["value"]))
    return {"tests": found.get("tests", 0), "rows": rows[:SHOWN_SLICES]}
