"""What photos without a label are worth to a head: self-training beside the head of the labelled photos.

    python benchmarks/unlabelled.py --sets steel,textures --clones CLONES
    python benchmarks/unlabelled.py --sets steel --warm-up 2           # epochs of self-supervised learning
    python benchmarks/unlabelled.py --sets steel --warm-up 8 --more 0  # of the labelled photos alone

Frozen Lite0 at 192 px, whole photos; 500 labelled photos of each set of the league, up to 2,000 others whose
labels are not read, and the same photos to judge with. `self-training` labels the others by the head where
its probability is high enough, and fits again, twice (pseudo-labels, Lee 2013); `moments` only scales
the features by the mean and deviation of all photos. With `--warm-up` all photos, labelled or not, first
teach the backbone to tell them apart by two changed views of each (SimCLR, Chen et al. 2020).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from league import labels_of, photos_of
from league_sets import SETS, gather
from machine import header
from torchvision.transforms import v2
from wrong_labels import FRAME, extract, listed

from catflap.image import read_pixels
from catflap.training.backbones import PACKAGED, Backbone, digest_tensors, load_backbone
from catflap.training.features import open_extractor
from catflap.training.head import choose_head, fit_head, moments

LEAST = (0.5, 0.8, 0.95)  # probability from which a photo's label is believed
VIEW, PAIRS, RATE, TEMPERATURE = 160, 64, 1e-4, 0.2  # of the warm-up: px, photos a step, AdamW's rate


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
            backbone = warmed(backbone, [*labelled, *others], args.warm_up)
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


def warmed(backbone: Backbone, paths: list[Path], epochs: int) -> Backbone:
    """The backbone after SimCLR on these photos; batch norm keeps its statistics."""
    torch.manual_seed(0)
    network = backbone.network.eval()
    projection = torch.nn.Sequential(
        torch.nn.Linear(backbone.features, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128)
    )
    change: Any = v2.Compose(
        [v2.RandomResizedCrop(VIEW, (0.3, 1.0), antialias=True), v2.RandomHorizontalFlip(),
         v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2),
         v2.ToDtype(torch.float, scale=True), v2.Normalize(backbone.mean, backbone.std)]
    )  # fmt: skip
    photos = torch.from_numpy(np.stack([read_pixels(path, FRAME) for path in paths])).permute(0, 3, 1, 2)
    optimiser = torch.optim.AdamW([*network.parameters(), *projection.parameters()], RATE)
    partner = torch.cat([torch.arange(PAIRS, 2 * PAIRS), torch.arange(PAIRS)])
    for _ in range(epochs):
        for some in torch.split(torch.randperm(len(photos)), PAIRS):
            if len(some) == PAIRS:
                views = torch.stack([change(photos[one]) for one in [*some, *some]])
                found = torch.nn.functional.normalize(projection(network(views)))
                near = (found @ found.T / TEMPERATURE).fill_diagonal_(-torch.inf)
                optimiser.zero_grad()
                loss: Any = torch.nn.functional.cross_entropy(near, partner)
                loss.backward()
                optimiser.step()
    return replace(backbone, network=network, sha256=digest_tensors(network.state_dict()))


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
