"""Five-fold accuracy of the head recipe: one test role of a few hundred photos cannot tell 0.990 from 0.995.

python benchmarks/folds.py --photos ../shared/data/photos --backbone efficientnet_lite2 --size 320
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from machine import header

from catflap.artifacts.dataset import ROLES, Photos
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.evaluation.metrics import measure
from catflap.image import Frame
from catflap.training.backbone import load_backbone
from catflap.training.features import features, open_extractor
from catflap.training.head import choose_head

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--photos", type=Path, default=Path(os.environ.get("CATFLAP_PHOTOS", "../shared/data/photos"))
    )
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=288)
    args = parser.parse_args()
    frame = Frame(args.size, args.size)
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(scan(args.photos, Path(folder) / "m"), Path(folder) / "d", frame=frame)
        extractor = open_extractor(load_backbone(args.backbone), frame)
        roles: list[Photos] = [dataset.photos(role) for role in ROLES]
        rows = np.concatenate([features(extractor, photos) for photos in roles])
        labels = np.concatenate([photos.labels for photos in roles])
        groups = np.concatenate([photos.groups for photos in roles])
    drawn = np.random.default_rng(0).integers(0, 10 * FOLDS, groups.max() + 1)[groups]
    fold, chooses = drawn % FOLDS, drawn // FOLDS == 0  # a tenth of the other folds chooses the strength
    logits = np.zeros((len(labels), len(dataset.labels)), np.float32)
    for number in range(FOLDS):
        train, validation = (fold != number) & ~chooses, (fold != number) & chooses
        choice = choose_head(
            (rows[train], labels[train]), (rows[validation], labels[validation]), logits.shape[1]
        )
        logits[fold == number] = choice.refitted.logits(rows[fold == number])
    measured = measure(logits, labels, groups, dataset.labels)
    header(n=len(labels), folds=FOLDS, backbone=args.backbone, size=args.size)
    print(json.dumps({"errors": int((logits.argmax(1) != labels).sum()), "accuracy": measured["accuracy"]}))
    print(json.dumps({name: measured[name] for name in ("roc_auc", "log_loss") if name in measured}))


if __name__ == "__main__":
    main()
