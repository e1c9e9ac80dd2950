"""Cards for the page: a suspect with the photos that a person compares it with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from catflap.artifacts.dataset import Photos
from catflap.curation.finding import Findings
from catflap.curation.lookup import TwoLabels
from catflap.curation.neighbours import Pool, make_pool, most_like
from catflap.curation.out_of_fold import Everyone, Opinion
from catflap.curation.page import Beside, Card
from catflap.curation.suspects import Suspect
from catflap.data.sources.reading import read_photo
from catflap.image import Frame
from catflap.training.heads.features import Extractor, Features, features

LIKE = 3  # photos of a label to compare with
TWINS = 4  # photos that show the same
FOR_OUTLIERS = 4  # of so many places one is kept for outliers


def make_cards(
    extractor: Extractor,
    everyone: Everyone,
    opinion: Opinion,
    labels: Sequence[str],
    findings: Findings,
    shown: int,
) -> list[Card]:
    """The cards of the first `shown` suspects, in their order; some places are kept for outliers.

    Suspects that show the same under the same label share a card.
    """
    photos = everyone.photos
    twice = {one.id: one for one in findings.twice}
    led = {id for ids in findings.copies.values() for id in ids}
    chosen = choose_photos([one for one in findings.suspects if one.id not in led], shown)
    inside = [one for one in chosen if one.id not in twice]
    positions = np.searchsorted(photos.ids, np.array([one.id for one in inside], dtype=photos.ids.dtype))
    known = (
        features(extractor, photos.take(positions)) if inside else np.zeros((0, extractor.width), np.float32)
    )
    pool = _pool(photos, opinion, findings.suspects)
    numbers = {label: number for number, label in enumerate(labels)}
    cards: dict[str, Card] = {one.id: _from_bytes(one, twice[one.id]) for one in chosen if one.id in twice}
    for one, position, feature in zip(inside, positions.tolist(), known, strict=True):
        twins = findings.twins.get(position, [])[:TWINS]
        like = _like(pool, photos, one, position, feature, numbers)
        beside = [_beside(photos, other, labels, True) for other in twins]
        beside += [_beside(photos, other, labels, False) for other in like]
        said = tuple(opinion.probabilities[position].tolist())
        read = partial(photos.__getitem__, position)
        copies = tuple(findings.copies.get(one.id, ()))
        cards[one.id] = Card(one, copies, str(everyone.roles[position]), said, tuple(beside), read)
    return [cards[one.id] for one in chosen]


def choose_photos(suspects: Sequence[Suspect], shown: int) -> list[Suspect]:
    """The suspects that get a place on the page, in their order."""
    rest = [one for one in suspects if one.kind != "outlier"]
    odd = [one for one in suspects if one.kind == "outlier"][: max(shown // FOR_OUTLIERS, shown - len(rest))]
    return [*rest[: shown - len(odd)], *odd]


def _pool(photos: Photos, opinion: Opinion, suspects: Sequence[Suspect]) -> Pool:
    """What was learnt from, without the suspects, which are no good examples."""
    sample = opinion.learnt.sample
    doubted = np.array([one.id for one in suspects], dtype=photos.ids.dtype)
    good = ~np.isin(photos.ids[sample], doubted)
    taken = sample[good]
    return make_pool(taken, opinion.learnt.features[good], photos.labels[taken], photos.groups[taken])


def _like(
    pool: Pool, photos: Photos, one: Suspect, position: int, feature: Features, numbers: dict[str, int]
) -> list[int]:
    """Positions of the photos most like a suspect, under the suggested label and under its own."""
    compared = [one.label] if one.suggested is None else [one.suggested, one.label]
    group = int(photos.groups[position])
    return [other for label in compared for other in most_like(pool, feature, numbers[label], group, LIKE)]


def _beside(photos: Photos, position: int, labels: Sequence[str], copy: bool) -> Beside:
    label = labels[photos.labels[position]]
    return Beside(str(photos.ids[position]), label, copy, partial(photos.__getitem__, position))


def _from_bytes(one: Suspect, twice: TwoLabels) -> Card:
    read = partial(read_photo, twice.uri, twice.offset, twice.bytes, Frame.max_bytes)
    return Card(one, (), "", (), (), read)
