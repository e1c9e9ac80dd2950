"""From what the features tell to suspects: wrong labels, look-alikes, two labels, outliers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Photos, Positions
from catflap.artifacts.manifest import Manifest
from catflap.curation.label_errors import wrong_labels
from catflap.curation.lookup import KnownPhoto, TwoLabels, look_up
from catflap.curation.out_of_fold import Opinion, Probabilities
from catflap.curation.same_picture import mixed, same_picture, two_labels
from catflap.curation.suspects import Suspect, ranked

ODD = 0.5  # the score of an outlier


@dataclass(frozen=True)
class Findings:
    """The suspects in their order, and what stands beside them on the page.

    `twins` maps the position of a photo to those of photos that show the same under another label;
    `copies` maps the id of a suspect to those of later ones that show the same under the same label,
    `twice` are photos whose exact bytes stand under several labels;
    `settled` counts suspects on which a person has decided before.
    """

    suspects: tuple[Suspect, ...]
    twins: dict[int, list[int]]
    copies: dict[str, list[str]]
    twice: tuple[TwoLabels, ...]
    settled: int


def find(labels: Sequence[str], photos: Photos, opinion: Opinion, manifest: Manifest) -> Findings:
    """Judge what the heads think of photos; nothing is decided here."""
    said = opinion.probabilities
    wrong = wrong_labels(photos.labels, said)
    unsure = (said.argmax(axis=1) != photos.labels) & ~wrong
    odd = opinion.outlying >= ODD
    under_two_labels = mixed(photos.labels, photos.groups)
    asked = np.union1d(np.flatnonzero(wrong | unsure | odd), under_two_labels)
    known, twice = look_up(manifest, set(photos.ids[asked].tolist()))
    twins = _twins(photos, under_two_labels, known)
    best = _best_other(said, photos.labels)
    doubt = 1 - said[np.arange(len(said)), photos.labels]

    def suspect(position: int, kind: str, score: float, suggested: int | None) -> Suspect:
        id = str(photos.ids[position])
        name = None if suggested is None else labels[suggested]
        return Suspect(id, known[id].uri, labels[photos.labels[position]], name, round(score, 6), kind)

    def everything() -> Iterator[Suspect]:
        for kind, chosen in (("label_error", wrong), ("look_alike", unsure)):
            for position in np.flatnonzero(chosen).tolist():
                yield suspect(position, kind, float(doubt[position]), int(best[position]))
        for position, others in twins.items():
            label, score = _verdict(said, photos.labels, position, others)
            yield suspect(position, "two_labels", max(score, float(doubt[position])), label)
        for one in twice:
            yield Suspect(one.id, one.uri, one.labels[0], one.labels[1], 1.0, "two_labels")
        for position in np.flatnonzero(odd).tolist():
            yield suspect(position, "outlier", float(opinion.outlying[position]), None)

    found = ranked(everything())
    open_ones = tuple(one for one in found if one.id not in known or not known[one.id].settled)
    copies = _copies(photos, open_ones, known)
    return Findings(open_ones, twins, copies, tuple(twice), len(found) - len(open_ones))


def _twins(photos: Photos, under_two_labels: Positions, known: dict[str, KnownPhoto]) -> dict[int, list[int]]:
    """The photos of mixed groups with those that show the same under another label."""
    hashes = [known[id].phash for id in photos.ids[under_two_labels].tolist()]
    members = under_two_labels[[phash is not None for phash in hashes]]
    values = np.array([phash for phash in hashes if phash is not None], dtype=np.uint64)
    first, second = two_labels(photos.labels[members], photos.groups[members], values)
    twins: dict[int, list[int]] = {}
    for one, other in zip(members[first].tolist(), members[second].tolist(), strict=True):
        twins.setdefault(one, []).append(other)
        twins.setdefault(other, []).append(one)
    return twins


def _copies(
    photos: Photos, suspects: Sequence[Suspect], known: dict[str, KnownPhoto]
) -> dict[str, list[str]]:
    """The suspects that one decision can settle: each first one with the copies of it that follow."""
    able = [one for one in suspects if one.id in known and known[one.id].phash is not None]
    ids = np.array([one.id for one in able], dtype=photos.ids.dtype)
    hashes = np.array([known[one.id].phash for one in able], dtype=np.uint64)
    first, second = same_picture(photos.groups[np.searchsorted(photos.ids, ids)], hashes)
    copies: dict[str, list[str]] = {}
    led: set[str] = set()
    for place in np.lexsort((second, first)).tolist():
        one, other = able[first[place]], able[second[place]]
        alike = (one.label, one.suggested) == (other.label, other.suggested)
        if alike and one.id not in led and other.id not in led:
            copies.setdefault(one.id, []).append(other.id)
            led.add(other.id)
    return copies


def _best_other(said: Probabilities, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The most probable label of each photo but its own, (n,)."""
    others = said.copy()
    others[np.arange(len(said)), labels] = -1
    best: Positions = others.argmax(axis=1)
    return best


def _verdict(
    said: Probabilities, labels: npt.NDArray[np.int64], position: int, twins: list[int]
) -> tuple[int, float]:
    """The twins' label that the heads prefer, and how much of the two labels' probability it has."""
    together = said[[position, *twins]].mean(axis=0)
    label = max({int(labels[twin]) for twin in twins}, key=lambda one: (together[one], -one))
    own = together[labels[position]]
    return label, float(together[label] / max(together[label] + own, 1e-12))
