"""audit: a Dataset to its Manifest with suspects; a person decides about the first 400 of them on a page."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.build_folder import AUDIT, build_folder
from catflap.artifacts.dataset import Dataset, Photos, Positions
from catflap.artifacts.folder import atomic_folder, refuse_foreign
from catflap.artifacts.manifest import MARKER, TABLE, Manifest, load_manifest, save_manifest
from catflap.artifacts.schema import digest
from catflap.curation.out_of_fold import (
    AllPhotos,
    Predictions,
    Probabilities,
    all_photos,
    confusions,
    predict_out_of_fold,
    wrong_labels,
)
from catflap.curation.review_page import APPLY, PAGE, Beside, Card, write_page
from catflap.curation.suspects import (
    KnownPhoto,
    Suspect,
    TwoLabels,
    look_up,
    mixed,
    ranked,
    same_picture,
    source_manifest,
    two_labels,
    write_suspects,
)
from catflap.data.reading import read_photo
from catflap.errors import CatflapError
from catflap.image import Frame
from catflap.progress import Progress, silent
from catflap.training.backbones import PACKAGED, load_backbone
from catflap.training.distributed import pick_device
from catflap.training.features import Extractor, Features, features, open_extractor
from catflap.training.slim import slimmed
from catflap.version import VERSION

SHOWN = 400  # suspects on the page
REVISION = 1  # raised when the same Dataset gives other suspects than before
OUTLIER = 0.5  # lowest score of an outlier
LIKE = 3  # photos of a label to compare with
TWINS = 4  # photos that show the same
FOR_OUTLIERS = 4  # one place in four is reserved for outliers
POOL = 20_000  # photos that are searched


@dataclass(frozen=True)
class Audit:
    """The result of an audit: the `manifest` that it wrote, and `suspects` in the order to review them.

    `confusions` estimates how many photos of a label show another, {"label", "shows", "photos"} each,
    the commonest first; `settled` counts suspects that a person has reviewed before.
    """

    manifest: Manifest
    suspects: tuple[Suspect, ...]
    confusions: tuple[dict[str, Any], ...]
    settled: int

    @property
    def page(self) -> Path:
        """The page on which a person decides."""
        return self.manifest.path / PAGE


def audit(
    dataset: Dataset,
    out: Path,
    *,
    manifest: Manifest | None = None,
    backbone: str = PACKAGED,
    shown: int = SHOWN,
    seed: int = 0,
    device: str = "auto",
    command: str = APPLY,
    progress: Progress = silent,
) -> Audit:
    """Find suspects among the photos of all roles and write the Manifest folder `out`.

    It has the rows of the Dataset's Manifest, unchanged, beside suspects.jsonl and review.html, which
    shows `shown` suspects. Features are cached, so a stopped audit goes on where it was. `manifest` is
    the one that the Dataset was prepared from, when it has been moved; `command` is what the page shows to
    run with the decisions.
    """
    out = Path(out)
    refuse_foreign(out, MARKER)
    manifest = source_manifest(dataset, manifest)
    if out.resolve() == manifest.path.resolve():
        raise CatflapError(f"{out} is the manifest to audit.", "Choose another output name.")
    if shown < 0 or seed < 0:
        raise CatflapError(f"{shown} suspects with the seed {seed} are not possible.", "Use 0 or more.")
    found, device = all_photos(dataset), pick_device(device)
    network = slimmed(load_backbone(backbone), found.photos, dataset.frame, device=device, progress=progress)
    extractor = open_extractor(network, dataset.frame, device=device)
    predictions = predict_out_of_fold(extractor, found.photos, len(dataset.labels), seed, progress)
    findings = find(dataset.labels, found.photos, predictions, manifest)
    suspects = findings.suspects
    with atomic_folder(out, MARKER) as folder:
        shutil.copyfile(manifest.path / TABLE, folder / TABLE)
        write_suspects(folder, suspects)
        cards = make_cards(extractor, found, predictions, dataset.labels, findings, shown)
        labels = _every_label(dataset.labels, findings.twice)
        write_page(folder, cards, labels, manifest.sha256, len(suspects), progress, command)
        settings = [REVISION, dataset.sha256, backbone, shown, seed, VERSION]
        ancestors = {"manifest": manifest.sha256, "dataset": dataset.sha256}
        fields = {**manifest.to_json(), "made_from": digest(settings), "ancestors": ancestors}
        save_manifest(folder, fields)
    joint = confusions(found.photos.labels, predictions.probabilities)
    return Audit(load_manifest(out), suspects, _listed(dataset.labels, joint), findings.settled)


def audit_place(place: Path, out: Path | None) -> tuple[Path, str]:
    """Where the audit of a build or a Dataset is written, and the command that applies its decisions.

    CatflapError for a Dataset without `out`.
    """
    folder = build_folder(place)
    if folder is None:
        if not place.exists():
            raise CatflapError(f"{place} does not exist.", "Name a dataset, or what `catflap build` wrote.")
        if out is None:
            raise CatflapError("An audit of a dataset needs a folder to write.", "Add -o audited.manifest.")
        return out, APPLY
    return out or folder / AUDIT, f"catflap review apply {shlex.quote(str(place))} decisions.json"


def _every_label(labels: Sequence[str], twice: Sequence[TwoLabels]) -> list[str]:
    """The Dataset's labels, then those that only quarantined photos have."""
    return list(dict.fromkeys([*labels, *(label for one in twice for label in one.labels)]))


def _listed(labels: Sequence[str], joint: Any) -> tuple[dict[str, Any], ...]:
    pairs = [(int(joint[one, other]), one, other) for one, other in np.argwhere(joint > 0) if one != other]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    return tuple(
        {"label": labels[one], "shows": labels[other], "photos": count} for count, one, other in pairs
    )


@dataclass(frozen=True)
class Findings:
    """The suspects in their order, and what is shown beside them on the page.

    `twins` maps the position of a photo to those of photos that show the same under another label;
    `copies` maps the id of a suspect to those of later ones that show the same under the same label,
    `twice` are photos whose exact bytes are under several labels;
    `settled` counts suspects that a person has reviewed before.
    """

    suspects: tuple[Suspect, ...]
    twins: dict[int, list[int]]
    copies: dict[str, list[str]]
    twice: tuple[TwoLabels, ...]
    settled: int


def find(labels: Sequence[str], photos: Photos, predictions: Predictions, manifest: Manifest) -> Findings:
    """Find suspects: wrong labels, look-alikes, two labels, outliers; nothing is decided here."""
    probabilities = predictions.probabilities
    wrong = wrong_labels(photos.labels, probabilities)
    unsure = (probabilities.argmax(axis=1) != photos.labels) & ~wrong
    outliers = predictions.outlying >= OUTLIER
    under_two_labels = mixed(photos.labels, photos.groups)
    wanted = np.union1d(np.flatnonzero(wrong | unsure | outliers), under_two_labels)
    known, twice = look_up(manifest, set(photos.ids[wanted].tolist()))
    twins = _twins(photos, under_two_labels, known)
    best = _best_other(probabilities, photos.labels)
    doubt = 1 - probabilities[np.arange(len(probabilities)), photos.labels]

    def suspect(position: int, kind: str, score: float, suggested: int | None) -> Suspect:
        id = str(photos.ids[position])
        name = None if suggested is None else labels[suggested]
        return Suspect(id, known[id].uri, labels[photos.labels[position]], name, round(score, 6), kind)

    def candidates() -> Iterator[Suspect]:
        for kind, chosen in (("label_error", wrong), ("look_alike", unsure)):
            for position in np.flatnonzero(chosen).tolist():
                yield suspect(position, kind, float(doubt[position]), int(best[position]))
        for position, others in twins.items():
            label, score = _label_of_twins(probabilities, photos.labels, position, others)
            yield suspect(position, "two_labels", max(score, float(doubt[position])), label)
        for one in twice:
            yield Suspect(one.id, one.uri, one.labels[0], one.labels[1], 1.0, "two_labels")
        for position in np.flatnonzero(outliers).tolist():
            yield suspect(position, "outlier", float(predictions.outlying[position]), None)

    found = ranked(candidates())
    unreviewed = tuple(one for one in found if one.id not in known or not known[one.id].reviewed)
    copies = _copies(photos, unreviewed, known)
    return Findings(unreviewed, twins, copies, tuple(twice), len(found) - len(unreviewed))


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


def _best_other(probabilities: Probabilities, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The most probable label of each photo but its own, (n,)."""
    others = probabilities.copy()
    others[np.arange(len(probabilities)), labels] = -1
    best: Positions = others.argmax(axis=1)
    return best


def _label_of_twins(
    probabilities: Probabilities, labels: npt.NDArray[np.int64], position: int, twins: list[int]
) -> tuple[int, float]:
    """The twins' label with the highest probability, and its share of the probability of both labels."""
    together = probabilities[[position, *twins]].mean(axis=0)
    label = max({int(labels[twin]) for twin in twins}, key=lambda one: (together[one], -one))
    own = together[labels[position]]
    return label, float(together[label] / max(together[label] + own, 1e-12))


def make_cards(
    extractor: Extractor,
    photos_and_roles: AllPhotos,
    predictions: Predictions,
    labels: Sequence[str],
    findings: Findings,
    shown: int,
) -> list[Card]:
    """The cards of the first `shown` suspects, in their order; some places are reserved for outliers.

    Suspects that show the same under the same label share a card.
    """
    photos = photos_and_roles.photos
    twice = {one.id: one for one in findings.twice}
    led = {id for ids in findings.copies.values() for id in ids}
    chosen = choose_photos([one for one in findings.suspects if one.id not in led], shown)
    inside = [one for one in chosen if one.id not in twice]
    positions = np.searchsorted(photos.ids, np.array([one.id for one in inside], dtype=photos.ids.dtype))
    known = (
        features(extractor, photos.take(positions)) if inside else np.zeros((0, extractor.width), np.float32)
    )
    pool = _pool(photos, predictions, findings.suspects)
    numbers = {label: number for number, label in enumerate(labels)}
    cards: dict[str, Card] = {one.id: _from_bytes(one, twice[one.id]) for one in chosen if one.id in twice}
    for one, position, feature in zip(inside, positions.tolist(), known, strict=True):
        twins = findings.twins.get(position, [])[:TWINS]
        like = _like(pool, photos, one, position, feature, numbers)
        beside = [_beside(photos, other, labels, True) for other in twins]
        beside += [_beside(photos, other, labels, False) for other in like]
        probabilities = tuple(predictions.probabilities[position].tolist())
        read = partial(photos.__getitem__, position)
        copies = tuple(findings.copies.get(one.id, ()))
        cards[one.id] = Card(
            one, copies, str(photos_and_roles.roles[position]), probabilities, tuple(beside), read
        )
    return [cards[one.id] for one in chosen]


def choose_photos(suspects: Sequence[Suspect], shown: int) -> list[Suspect]:
    """The suspects that are shown on the page, in their order."""
    rest = [one for one in suspects if one.kind != "outlier"]
    outliers = [one for one in suspects if one.kind == "outlier"][
        : max(shown // FOR_OUTLIERS, shown - len(rest))
    ]
    return [*rest[: shown - len(outliers)], *outliers]


def _pool(photos: Photos, predictions: Predictions, suspects: Sequence[Suspect]) -> Pool:
    """The photos that heads were fitted to, without the suspects."""
    sample = predictions.heads.sample
    doubted = np.array([one.id for one in suspects], dtype=photos.ids.dtype)
    good = ~np.isin(photos.ids[sample], doubted)
    taken = sample[good]
    return make_pool(taken, predictions.heads.features[good], photos.labels[taken], photos.groups[taken])


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


@dataclass(frozen=True)
class Pool:
    """Photos to search: their positions, labels and groups, (m,), and unit features, (m, width)."""

    positions: Positions
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    directions: Features


def make_pool(
    positions: Positions,
    features: Features,
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
) -> Pool:
    """A pool of photos at some positions; takes their features, labels and groups, (m, ...) each."""
    chosen = np.linspace(0, len(positions) - 1, min(POOL, len(positions))).astype(np.int64)
    return Pool(positions[chosen], labels[chosen], groups[chosen], _directions(features[chosen]))


def most_like(pool: Pool, feature: Features, label: int, group: int, count: int) -> list[int]:
    """The positions of the photos of a label that are most like one with this feature, (width,).

    Near-duplicates, which share its group, are not counted, and of each group one photo at most is.
    """
    able = np.flatnonzero((pool.labels == label) & (pool.groups != group))
    cosine = pool.directions[able] @ _directions(feature[None])[0]
    found: dict[int, int] = {}
    for place in able[np.argsort(-cosine, kind="stable")].tolist():
        found.setdefault(int(pool.groups[place]), int(pool.positions[place]))
        if len(found) == count:
            break
    return list(found.values())


def _directions(features: Features) -> Features:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions: Features = features / np.maximum(lengths, 1e-12)
    return directions
