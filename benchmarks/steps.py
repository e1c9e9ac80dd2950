"""Steps of training on a CPU: frozen batch norm as it is and folded; quick convolutions; fp32 and bf16.

python benchmarks/steps.py
python benchmarks/steps.py --backbone efficientnet_lite2_slim --size 320 --batch 8
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from machine import header, in_turns
from torch import nn

from catflap.image import Frame
from catflap.machine import keep_memory
from catflap.training.networks.backbone import PACKAGED, RESNET8, load_backbone
from catflap.training.networks.convolution import QuickConvolution
from catflap.training.networks.folding import folded
from catflap.training.networks.network import Network

LABELS = 10
SMALL, MANY = 32, 128  # px and photos of resnet8's steps
NOTHING = nullcontext()


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
        frozen = {
            "as it is": step(plain, args.size, args.batch),
            "folded": step(other, args.size, args.batch),
            "folded, bf16": step(other, args.size, args.batch, bf16=True),
        }
        compare(in_turns(frozen, args.rounds), args.batch, batch_norms_folded=count)
    learning = Network(load_backbone(args.backbone), LABELS).train()
    compare(in_turns(from_scratch(learning, args.size, args.batch), args.rounds), args.batch)
    small = Network(load_backbone(RESNET8, pretrained=False), LABELS).train()
    steps = from_scratch(small, SMALL, MANY)
    compare(in_turns(steps, args.rounds), MANY, backbone=RESNET8, size=SMALL)


def from_scratch(network: Network, size: int, batch: int) -> dict[str, Callable[[], None]]:
    """Steps in which batch norm learns, too, with torch's convolutions and with quick ones."""
    return {
        "fp32": step(network, size, batch),
        "bf16": step(network, size, batch, bf16=True),
        "quick, fp32": step(network, size, batch, around=QuickConvolution()),
        "quick, bf16": step(network, size, batch, bf16=True, around=QuickConvolution()),
    }


def step(
    network: Network, size: int, batch: int, bf16: bool = False, around: Any = NOTHING
) -> Callable[[], None]:
    """Forward and backward of a batch of noise; no weight is changed."""
    dice = np.random.default_rng(0)
    frames = torch.from_numpy(dice.integers(0, 256, (batch, size, size, 3), np.uint8))
    labels = torch.from_numpy(dice.integers(0, LABELS, batch))

    def run() -> None:
        with around:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(network(frames), labels)
            torch.autograd.backward(loss)
        network.zero_grad()

    return run


def compare(taken: dict[str, dict[str, float]], batch: int, **facts: Any) -> None:
    """Print photos a second of each, and how many times as fast as the first it is."""
    first = next(iter(taken.values()))["p50"]
    for name, times in taken.items():
        pace, ratio = round(batch / times["p50"] * 1e3, 1), round(first / times["p50"], 2)
        print(json.dumps({"step": name, "photos_per_second": pace, "times_as_fast": ratio, **times, **facts}))


if __name__ == "__main__":
    main()
