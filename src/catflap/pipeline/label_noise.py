"""Wrong labels among the photos of a Report: a page to review its surest mistakes, and labels corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from catflap.curation.review_page import Card, read_decisions, write_page
from catflap.curation.suspects import Suspect
from catflap.errors import CatflapError
from catflap.evaluation.intervals import Floats
from catflap.evaluation.promises import UNLABELLED
from catflap.progress import Progress

if TYPE_CHECKING:
    from catflap.pipeline.evaluate import JudgedPhotos

OFFERED = 200  # the surest mistakes on the page
SURE = 0.5  # of the probability of the wrong label; a weaker one is no evidence of a wrong label


def sure_mistakes(probabilities: Floats, judged: JudgedPhotos) -> npt.NDArray[np.int64]:
    """Positions of the wrong predictions with the highest probabilities, at most 200, one a group."""
    if not len(probabilities):
        return np.zeros(0, np.int64)
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero((judged.labels != UNLABELLED) & (predicted != judged.labels) & (sure >= SURE))
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    _, first = np.unique(judged.groups[wrong], return_index=True)
    return wrong[np.sort(first)[:OFFERED]]


def offer_mistakes(
    folder: Path,
    probabilities: Floats,
    judged: JudgedPhotos,
    class_names: Sequence[str],
    command: str,
    progress: Progress,
) -> None:
    """Write review.html, on which a person decides about the surest mistakes, if there are any.

    `probabilities` (n, classes) are those of all judged photos; `command` takes the decisions. Decisions also
    go to `catflap review apply`, for photos of a Manifest.
    """
    chosen = sure_mistakes(probabilities, judged)
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    cards = [
        Card(
            Suspect(
                judged.ids[place], judged.uris[place] or judged.names[place],
                class_names[int(judged.labels[place])], class_names[int(predicted[place])],
                float(sure[place]), "label_error",
            ),
            (), judged.role, tuple(probabilities[place].tolist()), (),
            partial(judged.bytes.__getitem__, place),
        )
        for place in chosen.tolist()
    ]  # fmt: skip
    if cards:
        manifest = judged.ancestors.get("manifest") or judged.ancestors["dataset"]
        write_page(folder, cards, list(class_names), manifest, len(chosen), progress, command)


def correct_labels(
    judged: JudgedPhotos, decisions: Path, class_names: Sequence[str]
) -> tuple[JudgedPhotos, dict[str, Any]]:
    """The photos with a person's decisions applied, and how many were kept, relabelled and dropped.

    A dropped photo has no label any more. CatflapError when no decision is about these photos.
    """
    decided = read_decisions(decisions, class_names)
    labels, stated = judged.labels.copy(), list(judged.stated)
    counts = {"kept": 0, "relabelled": 0, "dropped": 0, "stale": 0}
    for place, photo in enumerate(judged.ids):
        decision = decided.by_id.get(photo)
        if decision is None:
            continue
        if stated[place] != decision.was:
            counts["stale"] += 1
        elif decision.label is None:
            labels[place], stated[place] = UNLABELLED, ""
            counts["dropped"] += 1
        else:
            counts["kept" if decision.label == decision.was else "relabelled"] += 1
            labels[place], stated[place] = class_names.index(decision.label), decision.label
    if not any(counts.values()):
        raise CatflapError(
            f"None of the {len(decided.by_id)} decisions in {decisions} is about these photos.",
            "Name what the review page of a report on the same photos downloaded.",
        )
    return replace(judged, labels=labels, stated=stated), {**counts, "decisions": decided.sha256}


def as_labelled(
    decided: Sequence[str], labels: npt.NDArray[np.int64], class_names: Sequence[str]
) -> dict[str, int]:
    """How many decisions are right, wrong and unsure, beside the class numbers (n,) of the labels."""
    known = [place for place, number in enumerate(labels.tolist()) if number != UNLABELLED]
    right = sum(decided[place] == class_names[int(labels[place])] for place in known)
    none = sum(decided[place] not in class_names for place in known)
    return {"photos": len(known), "right": right, "wrong": len(known) - right - none, "unsure": none}
