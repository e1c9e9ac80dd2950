"""What a head makes of few photos: some of each label are drawn, and all others judge it.

The head is chosen as `catflap train` does it, and as the least log loss on the drawn validation photos would;
its temperature is that of `catflap export`. The others weigh so that labels have the drawn shares.

python benchmarks/few.py --photos ../shared/data/photos
python benchmarks/few.py --photos ../shared/data/photos --each 10:1000,30:300 --draws 5
python benchmarks/few.py --photos ../shared/data/cifar10.zip --size 128 --draws 3
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from folds import together
from machine import header, need_photos

from catflap.artifacts.dataset import ROLES, Photos
from catflap.cli.prepare import sides
from catflap.data.prepare import prepare
from catflap.data.roles import SHARES
from catflap.data.scan import scan
from catflap.evaluation.calibration import fit_temperature
from catflap.image import Frame
from catflap.training.backbones import load_backbone
from catflap.training.features import LabelledFeatures, features, open_extractor
from catflap.training.head import L2_CS, Head, choose_head, fit_head, log_loss, losses_of
from catflap.training.slim import slimmed

MOST = 12_000  # photos, and at most 4,000 of them judge
JUDGES = 4_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--photos", type=Path, default=Path(os.environ.get("CATFLAP_PHOTOS", "../shared/data/photos"))
    )
    parser.add_argument(
        "--backbone", default="efficientnet_lite0", help="a slim one is narrowed by all photos"
    )
    parser.add_argument("--size", type=sides, default="288", metavar="PX or WIDTHxHEIGHT")
    parser.add_argument(
        "--each",
        default="10,20,50,100",
        metavar="N,… or N:M,…",
        help="photos of each label, or of the first and of the second, in the usual shares of the roles",
    )
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    need_photos(args.photos)
    with tempfile.TemporaryDirectory() as folder:
        frame = Frame(*args.size)
        dataset = prepare(scan(args.photos, Path(folder) / "m"), Path(folder) / "d", frame=frame)
        photos = together([dataset.photos(role) for role in ROLES])
        photos = photos.take(np.argsort(photos.ids)[:MOST])
        body = slimmed(load_backbone(args.backbone), photos, frame)
        known = np.asarray(features(open_extractor(body, frame), photos))
    header(n=len(photos), backbone=args.backbone, size=args.size, draws=args.draws)
    for each in args.each.split(","):
        counts = [int(number) for number in each.split(":")]
        counts = counts * len(dataset.labels) if len(counts) == 1 else counts
        found: dict[str, list[tuple[float, ...]]] = {"by validation": [], "as trained": []}
        for seed in range(args.draws):
            print(f"{each} of each label, draw {seed + 1} of {args.draws}", file=sys.stderr)
            for name, judged in judge(known, draw(photos, counts, seed)):
                found[name].append(judged)
        for name, judgements in found.items():
            numbers = zip(("wrong", "log_loss", "recall_of_first"), np.mean(judgements, 0), strict=True)
            row = {"each": each, "head": name, **{key: round(value, 4) for key, value in numbers}}
            print(json.dumps(row))


@dataclass(frozen=True)
class Drawn:
    """Photos by role, as places; no near-duplicate of a drawn one judges, and no two of them are drawn."""

    photos: Photos
    roles: dict[str, list[int]]
    judges: Any
    counts: list[int]


def draw(photos: Photos, counts: list[int], seed: int) -> Drawn:
    """So many photos of each label, in the usual shares of the roles, and what judges them."""
    order = np.random.default_rng(seed).permutation(len(photos))
    order = order[np.sort(np.unique(photos.groups[order], return_index=True)[1])]
    roles: dict[str, list[int]] = {"train": [], "validation": [], "calibration": []}
    for label, count in enumerate(counts):
        mine = order[photos.labels[order] == label].tolist()
        for role, places in roles.items():
            share = max(1, round(SHARES[role] * count))
            places += mine[:share]
            mine = mine[share:]
    drawn = np.concatenate(list(roles.values()))
    others = ~np.isin(photos.groups, photos.groups[drawn])
    return Drawn(photos, roles, np.flatnonzero(others)[:JUDGES], counts)


def judge(known: Any, drawn: Drawn) -> Iterator[tuple[str, tuple[float, ...]]]:
    """The share that is wrong, the log loss, and the recall of the first label, by both heads."""
    labels, groups, classes = drawn.photos.labels, drawn.photos.groups, len(drawn.counts)
    train, validation, calibration = ((known[places], labels[places]) for places in drawn.roles.values())
    roles = groups[drawn.roles["train"]], groups[drawn.roles["validation"]]
    features, truth = known[drawn.judges], labels[drawn.judges]
    weights = (np.array(drawn.counts) / np.bincount(truth, minlength=classes))[truth]
    for name, head, calibrated in (
        ("by validation", by_validation(train, validation, classes), False),
        ("as trained", choose_head(train, validation, roles, classes).refitted, True),
    ):
        temperature = fit_temperature(head.logits(calibration[0]), calibration[1], calibrated=calibrated)
        logits = head.logits(features) / np.float32(temperature)
        right, losses = logits.argmax(1) == truth, losses_of(logits, truth)
        wrong, loss = (float(np.average(each, weights=weights)) for each in (~right, losses))
        yield name, (wrong, loss, float(right[truth == 0].mean()))


def by_validation(train: LabelledFeatures, validation: LabelledFeatures, classes: int) -> Head:
    """The setting with the least log loss on validation, fitted again on both."""
    counts = np.bincount(train[1])
    uneven = counts.max() >= 3 * counts.min()

    def loss(setting: tuple[float, bool, bool]) -> float:
        return log_loss(fit_head([train], classes, *setting).logits(validation[0]), validation[1])

    ways = product(L2_CS, (False, True), (False, True) if uneven else (False,))
    return fit_head([train, validation], classes, *min(ways, key=loss))


if __name__ == "__main__":
    main()
