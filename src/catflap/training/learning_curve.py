"""The learning curve: how the accuracy of a head grows with the photos that it learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from catflap.training.features import LabelledFeatures
from catflap.training.head import Labels, fit_head, split_photos

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of the photos to fit on


def learning_curve(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    groups: tuple[Labels, Labels],
    classes: int,
    chosen: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The accuracy of the chosen head refitted on growing shares of the photos, as entries of a history.

    The photos are those by which the head was chosen (`choose_head`, whose arguments these are): few are
    cross-validated, so that each point is judged by all of them. `chosen` is the entry of the head. A share
    takes the same part of each label, one photo at least, and the larger shares hold the smaller ones. An
    entry has the `photos` learnt from, on average over the folds, and how many of `judged_by` were `right`.
    """
    splits = split_photos(train, validation, groups, classes)
    entries: list[dict[str, Any]] = []
    for share in SHARES:
        fitted = right = judged = 0
        for split in splits:
            features, labels = split.fit
            part = _part(labels, share)
            if len(np.unique(labels[part])) < 2:
                continue
            head = fit_head(
                [(features[part], labels[part])], classes, chosen["c"], chosen["standardise"],
                balanced=True,
            )  # fmt: skip
            held_out, truth = split.held_out
            fitted += len(part) * len(truth)
            right += int((head.logits(held_out).argmax(1) == truth).sum())
            judged += len(truth)
        if judged:
            entry = {"step": "curve", "photos": round(fitted / judged), "right": right, "judged_by": judged}
            if not entries or entry["photos"] > entries[-1]["photos"]:
                entries.append(entry)
    return entries


def _part(labels: Labels, share: float) -> Labels:
    """Positions of a share of each label's photos, in a random order that is the same every time."""
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return np.sort(np.concatenate([part[: max(1, round(share * len(part)))] for part in parts]))
