"""How many planted label errors an audit finds: labels of real photos are flipped, and looked for.

The flips stand in a list of paths and labels in a temporary folder, beside six drawings that are no
photos; the photos are only read. scan, prepare and audit then run as for a user. Beside the audit's own
order stand cleanlab's rules on the same out-of-fold probabilities. Photos: CATFLAP_PHOTOS, or
../shared/data/photos.

    python benchmarks/audit.py
    python benchmarks/audit.py --photos PHOTOS --flips 100 --seeds 5
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues

from catflap.artifacts.dataset import Dataset
from catflap.curation.audit import audit
from catflap.curation.out_of_fold import all_photos, predict_out_of_fold
from catflap.data.prepare import DEFAULT_FRAME, prepare
from catflap.data.scan import scan
from catflap.image import Frame, encode
from catflap.machine import versions
from catflap.progress import silent
from catflap.training.backbones import PACKAGED, load_backbone
from catflap.training.features import open_extractor

HERE = Path(__file__).resolve().parents[1]
RULES = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given")


@dataclass(frozen=True)
class Planted:
    """A Dataset some of whose labels are wrong: `flipped` and `drawings` are URIs; `uris` are by id."""

    dataset: Dataset
    flipped: frozenset[str]
    drawings: frozenset[str]
    uris: dict[str, str]


def main() -> None:
    """Flip, audit, count and print."""
    from machine import header, need_photos  # beside this script; a test imports the rest of it

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("CATFLAP_PHOTOS") or HERE.parent / "shared" / "data" / "photos"
    parser.add_argument("--photos", type=Path, default=Path(default), help="a class folder")
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    need_photos(args.photos)
    photos = sorted(path for path in args.photos.glob("*/*") if path.is_file())
    header(photos=len(photos), flips=args.flips, judges=versions(("cleanlab", "scikit-learn")))
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            planted = plant(photos, args.flips, seed, Path(folder))
            found = {"seed": seed, **measure(planted, Path(folder)), "cleanlab": rules(planted)}
            print(json.dumps(found), flush=True)


def plant(photos: list[Path], flips: int, seed: int, folder: Path, frame: Frame = DEFAULT_FRAME) -> Planted:
    """List photos under labels some of which are flipped, scan and prepare them."""
    labels = sorted({path.parent.name for path in photos})
    dice = np.random.default_rng(seed)
    drawings = no_photos(folder, dice)
    flipped = {str(photos[place]) for place in dice.choice(len(photos), flips, replace=False)}
    with open(folder / "photos.csv", "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label"])
        for path in photos:
            true = path.parent.name
            others = [label for label in labels if label != true]
            lines.writerow([path, dice.choice(others) if str(path) in flipped else true])
        lines.writerows([path, labels[number % len(labels)]] for number, path in enumerate(drawings))
    manifest = scan(folder / "photos.csv", folder / "manifest", profile=False)
    dataset = prepare(manifest, folder / "dataset", frame=frame, seed=seed, profile=False)
    uris = {row["id"]: row["uri"] for row in manifest.rows(["id", "uri"]).to_pylist()}
    return Planted(dataset, frozenset(flipped), frozenset(drawings), uris)


def measure(planted: Planted, folder: Path) -> dict[str, Any]:
    """How many flips stand among the first suspects."""
    start = perf_counter()
    suspects = audit(planted.dataset, folder / "audited", seed=planted.dataset.seed).suspects
    seconds = perf_counter() - start
    hit = np.array([one.uri in planted.flipped for one in suspects], dtype=bool)
    flips = len(planted.flipped)
    return {
        "suspects": len(suspects),
        "found_in_first": {str(count): int(hit[:count].sum()) for count in (flips, 2 * flips)},
        "found_at_all": int(hit.sum()),
        "outliers": sum(one.kind == "outlier" for one in suspects),
        "drawings_suspected": sum(one.uri in planted.drawings for one in suspects),
        "audit_seconds": round(seconds, 1),
    }


def no_photos(folder: Path, dice: np.random.Generator) -> list[str]:
    """Noise, blobs, a page of lines, rectangles, a gradient and a chessboard, 288 px each."""
    side = np.arange(288)
    boxes = np.full((288, 288, 3), 255)
    for _ in range(12):
        (left, right), (top, bottom) = np.sort(dice.integers(0, 288, (2, 2)), axis=1)
        boxes[top:bottom, left:right] = dice.integers(0, 256, 3)
    grey = {
        "page": np.where((side[:, None] % 16 < 9) & (dice.random((288, 288)) < 0.4), 20, 250),
        "gradient": side[:, None] * 255 // 287 + 0 * side,
        "chess": (side[:, None] // 36 + side // 36) % 2 * 255,
    }
    pictures = {
        "noise": dice.integers(0, 256, (288, 288, 3)),
        "blobs": np.kron(dice.integers(0, 256, (6, 6, 3)), np.ones((48, 48, 1))),
        "boxes": boxes,
        **{name: np.repeat(picture[..., None], 3, axis=2) for name, picture in grey.items()},
    }
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(encode(picture.astype(np.uint8), "PNG"))
    return [str(folder / f"{name}.png") for name in pictures]


def rules(planted: Planted) -> dict[str, dict[str, int]]:
    """What each rule of cleanlab would call an error, and how many of these are flips."""
    dataset = planted.dataset
    photos = all_photos(dataset).photos
    extractor = open_extractor(load_backbone(PACKAGED), dataset.frame)
    predicted = predict_out_of_fold(
        extractor, photos, len(dataset.labels), dataset.seed, silent
    ).probabilities
    true: npt.NDArray[np.bool_] = np.array(
        [planted.uris[id] in planted.flipped for id in photos.ids.tolist()]
    )
    found = {}
    for rule in RULES:
        cut = find_label_issues(photos.labels, predicted, filter_by=rule, n_jobs=1)
        found[rule] = {"called": int(cut.sum()), "flips": int(true[cut].sum())}
    order = np.argsort(predicted[np.arange(len(predicted)), photos.labels])
    count = len(planted.flipped)
    for first in (count, 2 * count):
        found[f"self_confidence, first {first}"] = {"called": first, "flips": int(true[order[:first]].sum())}
    return found


if __name__ == "__main__":
    main()
