"""What wrong labels cost a head beside scikit-learn on the same features, in a CPU-minute a set.

    python benchmarks/wrong_labels.py --sets steel,rooms

Frozen Lite0 at 192 px, whole photos; a tenth of the labels to learn from is wrong, none of those that judge.
Both learn from all 500 photos, of which the head holds an eighth back for its choice first. The whole `build`
beside its peers is measured by `league.py --wrong 0.1`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from league import labels_of, photos_of
from league_sets import LIST, SETS, gather, with_wrong_labels
from machine import header
from peers.classifiers import fitted

from catflap.image import Frame, read_pixels
from catflap.training.backbones import PACKAGED, load_backbone
from catflap.training.features import Extractor, open_extractor
from catflap.training.head import choose_despite_noise, log_loss

FRAME = Frame(192, 192)


def main() -> None:
    """Accuracy and log loss with right and wrong labels, by set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="ants_bees,steel,rooms,textures,blood_cells", metavar="NAME,…")
    parser.add_argument("--wrong", type=float, default=0.1, metavar="SHARE")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/catflap-league").expanduser())
    parser.add_argument("--clones", type=Path, help="a folder of clones, OWNER+NAME, used in place of GitHub")
    args = parser.parse_args()
    header(sets=args.sets, wrong=args.wrong)
    extractor = open_extractor(load_backbone(PACKAGED), FRAME)
    for photo_set in [one for one in SETS if one.name in args.sets.split(",")]:
        right = gather(photo_set, "small", args.cache, args.clones)
        wrong = with_wrong_labels(right, args.wrong)
        names = labels_of(right)
        judged = photos_of(right / "judge", names)
        truth, learnt = np.array([number for _, number in judged]), listed(right)
        features = extract(extractor, [right / row["path"] for row in learnt])
        unseen = extract(extractor, [path for path, _ in judged])
        for kind, rows in (("right", learnt), ("wrong", listed(wrong))):
            by_name = {Path(row["path"]).name: row for row in rows}
            ordered = [by_name[Path(row["path"]).name] for row in learnt]
            labels = np.array([names.index(row["label"]) for row in ordered])
            groups = [row["group"] or row["path"] for row in ordered]
            peer = fitted(features, labels, groups)
            logits = np.full((len(truth), len(names)), -16.0)
            logits[:, peer.classes_] = np.log(np.clip(peer.predict_proba(unseen), 1e-7, 1))
            report(photo_set.name, kind, "scikit-learn", logits, truth)
            owners = np.unique(groups, return_inverse=True)[1]
            held = np.arange(len(labels)) % 8 == 0
            parts = [(features[some], labels[some]) for some in (~held, held)]
            choice = choose_despite_noise(parts[0], parts[1], (owners[~held], owners[held]), len(names))
            report(photo_set.name, kind, "head", choice.refitted.logits(unseen), truth)


def listed(photos: Path) -> list[dict[str, str]]:
    with (photos / LIST).open(newline="") as file:
        return list(csv.DictReader(file))


def extract(extractor: Extractor, paths: list[Path]) -> Any:
    step = extractor.batch
    batches = [paths[start : start + step] for start in range(0, len(paths), step)]
    return np.concatenate(
        [extractor.model(np.stack([read_pixels(path, FRAME) for path in batch])) for batch in batches]
    )


def report(name: str, kind: str, entrant: str, logits: Any, truth: Any) -> None:
    accuracy = float((logits.argmax(1) == truth).mean())
    print(f"{name:14} {kind} {entrant:13} {accuracy:.4f}, log loss {log_loss(logits, truth):.3f}", flush=True)


if __name__ == "__main__":
    main()
