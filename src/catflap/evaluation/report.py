"""What was measured, written as a Report: JSON for machines and one page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.folder import atomic_folder
from catflap.artifacts.report import MARKER, Report, judged_on, load_report, save_report
from catflap.errors import CatflapError
from catflap.evaluation.mistakes import Mistake
from catflap.evaluation.pages.report_page import page
from catflap.version import VERSION


def write_report(
    out: Path,
    sections: Mapping[str, dict[str, Any]],
    *,
    title: str,
    labels: Sequence[str],
    mistakes: Sequence[Mistake],
    curves: Mapping[str, dict[str, Any]],
    ancestors: Mapping[str, str],
    learnt: Mapping[str, Any] | None = None,
    role: str = "",
    seen: str = "unknown",
) -> Report:
    """Write a Report folder and open it.

    `sections` maps each variant's name to what `measure` gave, the headline's variant first;
    `curves` maps the same names to what `curves` gave; `mistakes` come from `worst_mistakes`
    and stand in the page as small pictures; `learnt` is what `learning` gave of a Checkpoint.
    `role` and `seen`, as in Report, say what photos these are.
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
        "mistakes": [mistake.to_json() for mistake in mistakes],
        "learning": dict(learnt or {}),
        "ancestors": dict(ancestors),
        "versions": {"catflap": VERSION, "numpy": np.__version__},
    }
    judged = judged_on(next(iter(sections.values()))["photos"], role, seen)
    html = page(title, labels, sections, curves, mistakes, ancestors, learnt or {}, judged)
    with atomic_folder(out, MARKER) as folder:
        save_report(folder, fields, html)
    return load_report(out)
