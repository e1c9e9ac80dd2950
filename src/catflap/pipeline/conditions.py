"""When a model errs, for the Report of `evaluate`: slices, corruptions, and where it looked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, judge_corruptions
from catflap.evaluation.examples import Examples
from catflap.evaluation.slices import (
    Slices,
    folder_facts,
    make_slices,
    photo_facts,
    read_facts,
)
from catflap.image import Frame, Pixels, encode, highlight, read_pixels
from catflap.progress import Progress, prefetch, track
from catflap.runtime.activation_maps import activation_map
from catflap.runtime.engine import Logits, Model
from catflap.runtime.scoring import BATCH, PhotoBytes

CORRUPTED_PHOTOS = 300  # a fixed sample; each is judged 76 times
PICTURE = 260  # px

Decide = Callable[[Logits], list[str]]


def slices_of(
    truth: Sequence[str],
    photos: PhotoBytes,
    uris: Sequence[str],
    ids: Sequence[str],
    frame: Frame,
    statistics: npt.NDArray[np.float32],
    facts: Path | None,
    progress: Progress,
) -> Slices:
    """Slices of photos by folder, by what heads and image statistics (n, 3) show, and by the CSV `facts`."""
    known = [folder_facts(uris, truth), photo_facts(photos, statistics, frame, progress=progress)]
    if facts is not None:
        known.append(read_facts(facts, uris, ids))
    return make_slices(*known)


def are_right(decided: Sequence[str], truth: Sequence[str]) -> list[bool]:
    """Which decisions name the true label."""
    return [decision == label for decision, label in zip(decided, truth, strict=True)]


def measure_corruptions(
    model: Model,
    decide: Decide,
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    photos: PhotoBytes,
    frame: Frame,
    progress: Progress,
) -> dict[str, Any]:
    """The right decisions about at most 300 photos, one a group, and about their corrupted copies."""
    places = _sample(groups)
    truth = [class_names[number] for number in labels[places].tolist()]
    frames = [read_pixels(photos[int(place)], frame) for place in places]
    kinds = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]

    def right(pixels: Sequence[Pixels]) -> list[bool]:
        logits = [model(np.stack(pixels[at : at + BATCH])) for at in range(0, len(pixels), BATCH)]
        return are_right(decide(np.concatenate(logits)), truth)

    def make(kind: tuple[str, int]) -> list[Pixels]:
        return [corrupt(pixels, *kind, seed) for seed, pixels in enumerate(frames)]

    made = track(prefetch(make, kinds, 2), "corruptions", len(kinds), progress)
    found = {kind: right(pixels) for kind, pixels in zip(kinds, made, strict=True)}
    return judge_corruptions(right(frames), found, groups[places])


def _sample(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions of at most 300 photos, the first of as many groups, always the same ones."""
    first = np.unique(groups, return_index=True)[1]
    drawn = np.random.default_rng(0).permutation(len(first))[:CORRUPTED_PHOTOS]
    return np.sort(first[drawn])


def with_evidence(examples: Examples, model: Model, frame: Frame, class_names: Sequence[str]) -> Examples:
    """The examples; mistakes with a picture of where the network found its label, if it has maps."""
    shown = []
    for mistake in examples.mistakes:
        heat = activation_map(model, mistake.photo, frame, class_names.index(mistake.predicted))
        picture = b"" if heat is None else encode(highlight(mistake.photo, heat, frame, PICTURE), "JPEG")
        shown.append(replace(mistake, where=picture))
    return replace(examples, mistakes=tuple(shown))
