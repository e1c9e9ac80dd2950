"""Steps of training on a CPU: frozen batch norm as it is and folded; resnet8 in fp32 and bf16.

python benchmarks/steps.py
python benchmarks/steps.py --backbone efficientnet_lite2_slim --size 320 --batch 8
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import header, in_turns
from torch import nn

from catflap.allocator import keep_memory
from catflap.image import Frame
from catflap.training.backbone import PACKAGED, RESNET8, load_backbone
from catflap.training.folding import folded
from catflap.training.network import Network

LABELS = 10
SMALL, MANY = 32, 128  # px and photos of resnet8's steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default=PACKAGED)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    keep_memory()
    header(backbone=args.backbone, size=args.size, batch=args.batch, threads=torch.get_num_threads())

    frame = Frame(args.size, args.size)
    plain = Network(load_backbone(args.backbone), LABELS).eval()
    other = Network(load_backbone(args.backbone), LABELS).eval()
    with folded(other, frame) as count:
        steps = {"as it is": step(plain, args.size, args.batch), "folded": step(other, args.size, args.batch)}
        compare(in_turns(steps, args.rounds), args.batch, batch_norms_folded=count)

    small = Network(load_backbone(RESNET8, pretrained=False), LABELS).train()
    steps = {name: step(small, SMALL, MANY, bf16=name == "bf16") for name in ("fp32", "bf16")}
    compare(in_turns(steps, args.rounds), MANY, backbone=RESNET8, size=SMALL)


def step(network: Network, size: int, batch: int, bf16: bool = False) -> Callable[[], None]:
    """Forward and backward of a batch of noise; no weight is changed."""
    dice = np.random.default_rng(0)
    frames = torch.from_numpy(dice.integers(0, 256, (batch, size, size, 3), np.uint8))
    labels = torch.from_numpy(dice.integers(0, LABELS, batch))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(network(frames), labels)
        loss.backward()
        network.zero_grad()

    return run


def compare(taken: dict[str, dict[str, float]], batch: int, **facts: Any) -> None:
    """Print photos a second of both, and how many times as fast the second is."""
    for name, times in taken.items():
        print(json.dumps({"step": name, "photos_per_second": round(batch / times["p50"] * 1e3, 1), **times}))
    first, second = (times["p50"] for times in taken.values())
    print(json.dumps({"times_as_fast": round(first / second, 2), **facts}))


if __name__ == "__main__":
    main()
