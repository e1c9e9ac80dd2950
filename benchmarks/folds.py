"""Errors of head and fine-tuning over five folds: one test role of some hundred cannot tell 0.990 from 0.995.

python benchmarks/folds.py --photos ../shared/data/photos --save lite0.npz
python benchmarks/folds.py --photos ../shared/data/photos --backbone efficientnet_lite2_slim --size 320 \\
    --against lite0.npz
python benchmarks/folds.py --photos ../shared/data/photos --int8
python benchmarks/folds.py --photos ../shared/data/photos --backbone efficientnet_lite2_slim --size 320 \\
    --finetune 2
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from machine import header, need_photos

from catflap.artifacts.dataset import ROLES, Dataset, Photos
from catflap.artifacts.schema import digest
from catflap.cli.prepare import sides
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.evaluation.gate import fidelity
from catflap.evaluation.metrics import measure
from catflap.exporting.quantise import CALIBRATION_FRAMES, quantise
from catflap.exporting.rounding import round_weights
from catflap.image import Frame
from catflap.runtime.decisions import softmax
from catflap.runtime.engine import Logits
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import frames_of, score
from catflap.training.network import load_network
from catflap.training.onnx_graph import to_onnx
from catflap.training.plan import DEFAULT_MAX_MB, Plan
from catflap.training.search import DEFAULT_TRIALS
from catflap.training.train import train

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--photos", type=Path, default=Path(os.environ.get("CATFLAP_PHOTOS", "../shared/data/photos"))
    )
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=sides, default="288", metavar="PX or WIDTHxHEIGHT")
    parser.add_argument("--fit", default="squash", choices=("squash", "crop"))
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="keep the logits")
    parser.add_argument(
        "--against", type=Path, metavar="FILE.npz", help="and compare with kept ones, photo by photo"
    )
    parser.add_argument("--int8", action="store_true", help="and what int8 answers, from raw bytes")
    parser.add_argument(
        "--finetune", type=int, default=0, metavar="EPOCHS",
        help="and what is answered after so many, as the blend with its start that is expected to be best",
    )  # fmt: skip
    parser.add_argument(
        "--default", action="store_true", help="as a plain build: two candidates, fine-tuned where that pays"
    )
    args = parser.parse_args()
    need_photos(args.photos)
    width, height = args.size
    frame = Frame(width, height, fit=args.fit)
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(scan(args.photos, Path(folder) / "m"), Path(folder) / "d", frame=frame)
        photos = together([dataset.photos(role) for role in ROLES])
        labels, groups = photos.labels, photos.groups
        drawn = np.random.default_rng(0).integers(0, 10 * FOLDS, groups.max() + 1)[groups]
        fold, chooses = drawn % FOLDS, drawn // FOLDS == 0  # a tenth of the other folds chooses the strength
        answers = {"head": np.zeros((len(labels), len(dataset.labels)), np.float32)}
        answers |= {name: answers["head"].copy() for name in ("finetune", "int8") if getattr(args, name)}
        for number in range(FOLDS):
            held = np.flatnonzero(fold == number)
            roles = {
                "train": photos.take(np.flatnonzero((fold != number) & ~chooses)),
                "validation": photos.take(np.flatnonzero((fold != number) & chooses)),
            }
            for name, given in judge(fold_of(dataset, roles), photos.take(held), args).items():
                answers[name][held] = given
                wrong = int((given.argmax(1) != labels[held]).sum())
                print(f"fold {number + 1} of {FOLDS}: {name}, {wrong} errors", file=sys.stderr)
    header(n=len(labels), folds=FOLDS, backbone=args.backbone, size=args.size, fit=args.fit)
    kept = answers.get("finetune", answers["head"])
    for name, given in answers.items():
        print(name)
        show(given, labels, groups, dataset.labels)
    for (before, start), (name, given) in pairwise(answers.items()):  # each is made from the one before it
        lost = fidelity(softmax(start, 1.0), softmax(given, 1.0), labels, groups)
        print(json.dumps({"of": name, "against": before, **lost}))
    if args.save:
        np.savez(args.save, ids=photos.ids, labels=labels, groups=groups, logits=kept)
    if args.against:
        other = np.load(args.against)
        order = np.argsort(other["ids"])[np.argsort(np.argsort(photos.ids))]
        lost = fidelity(softmax(other["logits"][order], 1.0), softmax(kept, 1.0), labels, groups)
        print(json.dumps({"against": str(args.against), **lost}))


@dataclass(frozen=True)
class Fold(Dataset):
    """A Dataset with other photos in its roles."""

    parts: dict[str, Photos] = field(default_factory=dict)

    def photos(self, role: str) -> Photos:
        """Those that this fold has in the role."""
        return self.parts[role]

    def train_pixels(self) -> None:
        """There is no memory map of them."""


def fold_of(dataset: Dataset, parts: dict[str, Photos]) -> Fold:
    """The Dataset with these photos in its roles."""
    ids = digest([part.ids.tolist() for part in parts.values()])
    return Fold(**{**vars(dataset), "sha256": ids, "parts": parts})


def judge(fold: Fold, held: Photos, args: argparse.Namespace) -> dict[str, Logits]:
    """Logits of the photos that the fold has not seen: of the head, after fine-tuning, and in int8."""
    plans = {"head": Plan(backbone=args.backbone, recipe="head")}
    if args.default:
        plans = {"head": Plan(trials=DEFAULT_TRIALS, max_mb=DEFAULT_MAX_MB)}
    if args.finetune:
        plans["finetune"] = Plan(backbone=args.backbone, recipe="finetune", epochs=args.finetune)
    answers = {}
    for name, plan in plans.items():
        with tempfile.TemporaryDirectory() as folder:
            made = train(fold, Path(folder) / "checkpoint", plan)
            print(json.dumps({"recipe": made.recipe, "seconds": made.cost["seconds"]}), file=sys.stderr)
            for entry in made.history:
                if "validation_log_loss" in entry and entry["step"] in ("finetune", "blend"):
                    print(json.dumps(entry), file=sys.stderr)
            graph = to_onnx(load_network(made), made.frame.height, made.frame.width)
        answers[name] = score(open_model(graph), held, made.frame)
    if args.int8:
        known = fold.photos("validation")
        shown = known.take(np.arange(len(known))[:CALIBRATION_FRAMES])
        frames = np.concatenate(list(frames_of(shown, made.frame)))
        int8 = open_model(quantise(round_weights(graph, frames), frames))
        answers["int8"] = score(int8, held, made.frame)
    return answers


def show(logits: Any, labels: Any, groups: Any, names: tuple[str, ...]) -> None:
    """Print what answers (n, labels) are worth."""
    measured = measure(logits, labels, groups, names)
    print(json.dumps({"errors": int((logits.argmax(1) != labels).sum()), "accuracy": measured["accuracy"]}))
    print(json.dumps({name: measured[name] for name in ("roc_auc", "log_loss") if name in measured}))
    for label, of in measured["per_class"].items():
        print(json.dumps({label: {"recall_at_fpr": of.get("recall_at_fpr")}}))  # too few photos have none


def together(roles: list[Photos]) -> Photos:
    """The photos of all roles as one."""
    columns = ("ids", "labels", "groups", "shards", "offsets", "lengths", "crcs")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(photos, name) for photos in roles]) for name in columns
    }
    return replace(roles[0], **joined)


if __name__ == "__main__":
    main()
