"""Five-fold accuracy of the head recipe: one test role of a few hundred photos cannot tell 0.990 from 0.995.

python benchmarks/folds.py --photos ../shared/data/photos --save lite0.npz
python benchmarks/folds.py --photos ../shared/data/photos --backbone efficientnet_lite2_slim --size 320 \\
    --against lite0.npz
python benchmarks/folds.py --photos ../shared/data/photos --int8
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import header

from catflap.artifacts.dataset import ROLES, Photos
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.evaluation.gate import fidelity
from catflap.evaluation.metrics import measure
from catflap.exporting.forms import CALIBRATION_FRAMES
from catflap.exporting.quantise import quantise
from catflap.exporting.rounding import round_weights
from catflap.image import Frame
from catflap.runtime.decisions import softmax
from catflap.runtime.scoring import frames_of, score
from catflap.runtime.session import open_model
from catflap.training.backbone import load_backbone
from catflap.training.features import features, open_extractor
from catflap.training.head import choose_head
from catflap.training.onnx_graph import to_onnx
from catflap.training.recipes import assemble
from catflap.training.slim import fit

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--photos", type=Path, default=Path(os.environ.get("CATFLAP_PHOTOS", "../shared/data/photos"))
    )
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=288)
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="keep the logits")
    parser.add_argument(
        "--against", type=Path, metavar="FILE.npz", help="and compare with kept ones, photo by photo"
    )
    parser.add_argument("--int8", action="store_true", help="and what int8 answers, from raw bytes")
    args = parser.parse_args()
    frame = Frame(args.size, args.size)
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(scan(args.photos, Path(folder) / "m"), Path(folder) / "d", frame=frame)
        photos = together([dataset.photos(role) for role in ROLES])
        labels, groups = photos.labels, photos.groups
        drawn = np.random.default_rng(0).integers(0, 10 * FOLDS, groups.max() + 1)[groups]
        fold, chooses = drawn % FOLDS, drawn // FOLDS == 0  # a tenth of the other folds chooses the strength
        logits = np.zeros((len(labels), len(dataset.labels)), np.float32)
        small = np.zeros_like(logits)
        for number in range(FOLDS):
            train, validation = (fold != number) & ~chooses, (fold != number) & chooses
            body = fit(load_backbone(args.backbone), photos.take(np.flatnonzero(train)), frame)
            rows = features(open_extractor(body, frame), photos)  # from the cache but for a slim backbone
            choice = choose_head(
                (rows[train], labels[train]), (rows[validation], labels[validation]), logits.shape[1]
            )
            held = np.flatnonzero(fold == number)
            logits[held] = choice.refitted.logits(rows[held])
            if args.int8:
                graph = to_onnx(assemble(body, choice.refitted), frame.height, frame.width)
                shown = photos.take(np.flatnonzero(validation)[:CALIBRATION_FRAMES])
                frames = np.concatenate(list(frames_of(shown, frame)))
                int8 = open_model(quantise(round_weights(graph, frames), frames))
                small[held] = score(int8, photos.take(held), frame)
            print(f"fold {number + 1} of {FOLDS}", file=sys.stderr)
    header(n=len(labels), folds=FOLDS, backbone=args.backbone, size=args.size)
    show(logits, labels, groups, dataset.labels)
    if args.int8:
        print("int8")
        show(small, labels, groups, dataset.labels)
        lost = fidelity(softmax(logits, 1.0), softmax(small, 1.0), labels, groups)
        print(json.dumps({"against": "float", **lost}))
    if args.save:
        np.savez(args.save, ids=photos.ids, labels=labels, groups=groups, logits=logits)
    if args.against:
        other = np.load(args.against)
        order = np.argsort(other["ids"])[np.argsort(np.argsort(photos.ids))]
        lost = fidelity(softmax(other["logits"][order], 1.0), softmax(logits, 1.0), labels, groups)
        print(json.dumps({"against": str(args.against), **lost}))


def show(logits: Any, labels: Any, groups: Any, names: tuple[str, ...]) -> None:
    """Print what answers (n, labels) are worth."""
    measured = measure(logits, labels, groups, names)
    print(json.dumps({"errors": int((logits.argmax(1) != labels).sum()), "accuracy": measured["accuracy"]}))
    print(json.dumps({name: measured[name] for name in ("roc_auc", "log_loss") if name in measured}))
    for label, of in measured["per_class"].items():
        print(json.dumps({label: {"recall_at_fpr": of.get("recall_at_fpr")}}))  # too few photos have none


def together(roles: list[Photos]) -> Photos:
    """The photos of all roles as one."""
    columns = ("ids", "labels", "groups", "shards", "offsets", "lengths")
    joined = (np.concatenate([getattr(photos, name) for photos in roles]) for name in columns)
    return Photos(roles[0].folder, *joined)


if __name__ == "__main__":
    main()
