"""What photos without a label are worth to a head: self-training beside the head of the labelled photos.

    python benchmarks/unlabelled.py --sets steel,textures --clones CLONES
    python benchmarks/unlabelled.py --sets steel --warm-up 2           # epochs of self-supervised learning
    python benchmarks/unlabelled.py --sets steel --warm-up 8 --more 0  # of the labelled photos alone

Frozen Lite0 at 192 px, whole photos; 500 labelled photos of each set of the league, up to 2,000 others whose
labels are not read, and the same photos to judge with. `self-training` labels the others by the head where
its probability is high enough, and fits again, twice (pseudo-labels, Lee 2013); `moments` only scales
the features by the mean and deviation of all photos. With `--warm-up` all photos, labelled or not, first
teach the backbone to recognise each in two changed views (`training/self_supervised.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from league import labels_of, photos_of
from league_sets import SETS, gather
from machine import header
from wrong_labels import FRAME, extract, listed

from catflap.image import read_pixels
from catflap.training.backbones import PACKAGED, load_backbone
from catflap.training.distributed import common_precision
from catflap.training.features import open_extractor
from catflap.training.head import choose_head, fit_head, moments
from catflap.training.self_supervised import MARGIN, view_of, warmed_up

LEAST = (0.5, 0.8, 0.95)  # probability from which a photo's label is believed


def main() -> None:
    """Accuracy without and with the unlabelled photos, by set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default=",".join(one.name for one in SETS), metavar="NAME,…")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/catflap-league").expanduser())
    parser.add_argument("--clones", type=Path, help="a folder of clones, OWNER+NAME, used in place of GitHub")
    parser.add_argument(
        "--warm-up", type=int, default=0, metavar="EPOCHS", help="of self-supervised learning"
    )
    parser.add_argument("--more", type=int, default=2000, metavar="N", help="photos without a label, at most")
    args = parser.parse_args()
    precision = common_precision("cpu")
    header(sets=args.sets, more=args.more, warm_up=args.warm_up)
    for photo_set in [one for one in SETS if one.name in args.sets.split(",")]:
        small = gather(photo_set, "small", args.cache, args.clones)
        names, rows = labels_of(small), listed(small)
        judged = photos_of(small / "judge", names)
        others = unlabelled(small, gather(photo_set, "all", args.cache, args.clones))[: args.more]
        if len(others) < min(100, args.more):
            print(f"{photo_set.name:14} has {len(others)} photos more: left out", flush=True)
            continue
        labelled = [small / row["path"] for row in rows]
        backbone, start = load_backbone(PACKAGED), process_time()
        if args.warm_up:
            view = view_of(FRAME, MARGIN)
            pixels = np.stack([read_pixels(path, view) for path in [*labelled, *others]])
            backbone = warmed_up(backbone, pixels, FRAME, epochs=args.warm_up, precision=precision)
            print(f"{photo_set.name:14} warm-up: {(process_time() - start) / 60:.1f} CPU-minutes", flush=True)
        extractor = open_extractor(backbone, FRAME)
        labels = np.array([names.index(row["label"]) for row in rows])
        groups = np.unique([row["group"] or row["path"] for row in rows], return_inverse=True)[1]
        features, unseen, more = (
            extract(extractor, paths) if paths else None
            for paths in (labelled, [path for path, _ in judged], others)
        )
        truth = np.array([number for _, number in judged])
        for what, logits in heads(features, labels, groups, more, unseen, len(names)):
            accuracy = float((logits.argmax(1) == truth).mean())
            print(
                f"{photo_set.name:14} n {len(truth)}, {len(others)} more: {what:20} {accuracy:.4f}",
                flush=True,
            )


def unlabelled(small: Path, large: Path) -> list[Path]:
    """Photos to learn from of the large size that the small size does not have."""
    known = {path.name for path in small.rglob("*") if path.is_file()}
    return sorted(
        (path for path in (large / "learn").rglob("*") if path.is_file() and path.name not in known),
        key=lambda path: path.name,
    )


def heads(features: Any, labels: Any, groups: Any, more: Any, unseen: Any, classes: int) -> Any:
    """The logits of the photos that judge, by each way."""
    held = np.arange(len(labels)) % 8 == 0
    parts = [(features[some], labels[some]) for some in (~held, held)]
    choice = choose_head(parts[0], parts[1], (groups[~held], groups[held]), classes)
    yield "labelled only", choice.refitted.logits(unseen)
    if more is None:
        return
    setting = classes, choice.chosen["c"], choice.chosen["standardise"]
    scales = choice.chosen["logit_scale"], choice.chosen["prior_scale"]
    everything = moments([(features, labels), (more, np.zeros(len(more), int))])
    head = fit_head([(features, labels)], *setting, balanced=True, measured=everything)
    yield "moments", head.logits(unseen)
    for least in LEAST:
        head = choice.refitted
        for _ in range(2):
            logits = head.logits(more)
            probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
            sure = probabilities.max(1) >= least
            taught = [(features, labels), (more[sure], logits[sure].argmax(1))]
            head = fit_head(taught, *setting, balanced=True).scaled(*scales)
        yield f"self-training {least}", head.logits(unseen)


if __name__ == "__main__":
    main()
