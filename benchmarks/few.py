"""What a head makes of few photos: some of each label are drawn, and all others judge it.

The head is chosen as `catflap train` does it, and as the least log loss on the drawn validation photos would.

python benchmarks/few.py --photos ../shared/data/photos
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
from pathlib import Path
from typing import Any

import numpy as np
from folds import together
from machine import header

from catflap.artifacts.dataset import ROLES, Photos
from catflap.cli.prepare import sides
from catflap.data.prepare import prepare
from catflap.data.roles import SHARES
from catflap.data.scan import scan
from catflap.image import Frame
from catflap.training.backbone import load_backbone
from catflap.training.choosing import STRENGTHS, choose_head
from catflap.training.features import features, open_extractor
from catflap.training.head import Head, fit_head, log_loss
from catflap.training.logistic import Known
from catflap.training.slim import fit

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
        metavar="N,…",
        help="photos of each label, of which a tenth validates",
    )
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frame = Frame(*args.size)
        dataset = prepare(scan(args.photos, Path(folder) / "m"), Path(folder) / "d", frame=frame)
        photos = together([dataset.photos(role) for role in ROLES])
        photos = photos.take(np.argsort(photos.ids)[:MOST])
        body = fit(load_backbone(args.backbone), photos, frame)
        known = np.asarray(features(open_extractor(body, frame), photos))
    header(n=len(photos), backbone=args.backbone, size=args.size, draws=args.draws)
    for each in (int(number) for number in args.each.split(",")):
        found: dict[str, list[tuple[float, float]]] = {"by validation": [], "as trained": []}
        for seed in range(args.draws):
            print(f"{each} of each label, draw {seed + 1} of {args.draws}", file=sys.stderr)
            for name, judged in judge(known, draw(photos, each, seed), len(dataset.labels)):
                found[name].append(judged)
        for name, judgements in found.items():
            wrong, loss = np.mean(judgements, 0)
            print(
                json.dumps({"each": each, "head": name, "wrong": round(wrong, 4), "log_loss": round(loss, 4)})
            )


@dataclass(frozen=True)
class Drawn:
    """Photos by role, as places; no near-duplicate of a drawn one judges, and no two of them are drawn."""

    photos: Photos
    train: Any
    validation: Any
    test: Any


def draw(photos: Photos, each: int, seed: int) -> Drawn:
    """So many photos of each label, in the usual shares of train and validation, and what judges them."""
    order = np.random.default_rng(seed).permutation(len(photos))
    order = order[np.sort(np.unique(photos.groups[order], return_index=True)[1])]
    of_train, of_validation = (max(1, round(SHARES[role] * each)) for role in ("train", "validation"))
    train, validation = list[int](), list[int]()
    for label in np.unique(photos.labels):
        mine = order[photos.labels[order] == label]
        train += mine[:of_train].tolist()
        validation += mine[of_train : of_train + of_validation].tolist()
    others = ~np.isin(photos.groups, photos.groups[train + validation])
    return Drawn(photos, train, validation, np.flatnonzero(others)[:JUDGES])


def judge(known: Any, drawn: Drawn, classes: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """The share that is wrong and the log loss of the rest, by both heads."""
    labels, groups = drawn.photos.labels, drawn.photos.groups
    train, validation, test = (
        (known[places], labels[places]) for places in (drawn.train, drawn.validation, drawn.test)
    )
    choice = choose_head(train, validation, (groups[drawn.train], groups[drawn.validation]), classes)
    for name, head in (
        ("by validation", by_validation(train, validation, classes)),
        ("as trained", choice.refitted),
    ):
        logits = head.logits(test[0])
        yield name, (float((logits.argmax(1) != test[1]).mean()), log_loss(logits, test[1]))


def by_validation(train: Known, validation: Known, classes: int) -> Head:
    """The setting with the least log loss on validation, fitted again on both."""

    def loss(setting: tuple[float, bool]) -> float:
        return log_loss(fit_head([train], classes, *setting).logits(validation[0]), validation[1])

    settings = [(strength, scaled) for scaled in (False, True) for strength in STRENGTHS]
    return fit_head([train, validation], classes, *min(settings, key=loss))


if __name__ == "__main__":
    main()
