"""Steps of fine-tuning on a CPU, with and without fast depthwise gradients, in fp32 and bf16.

python benchmarks/steps.py
python benchmarks/steps.py --backbone efficientnet_lite2_slim --size 320 --batch 8
python benchmarks/steps.py --calls DATASET
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import header, in_turns
from torch import nn

import catflap
from catflap.artifacts.dataset import load_dataset
from catflap.machine import keep_memory
from catflap.progress import silent
from catflap.training.backbones import PACKAGED, load_backbone
from catflap.training.depthwise import fast_depthwise
from catflap.training.finetune import finetuning, train_weights
from catflap.training.network import Network

LABELS = 10
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
    parser.add_argument(
        "--calls",
        type=Path,
        metavar="DATASET",
        help="instead count our own calls in one step",
    )
    args = parser.parse_args()
    if args.calls:
        print(json.dumps(calls_of_a_step(args.calls, args.backbone)))
        return
    keep_memory()
    header(backbone=args.backbone, size=args.size, batch=args.batch, threads=torch.get_num_threads())
    network = Network(load_backbone(args.backbone, pretrained=False), LABELS).eval()
    steps = {
        f"{name}, {'bf16' if bf16 else 'fp32'}": step(network, args.size, args.batch, bf16, fast)
        for name, fast in (("plain", False), ("fast depthwise", True))
        for bf16 in (False, True)
    }
    taken = in_turns(steps, args.rounds)
    first = next(iter(taken.values()))["p50"]
    for name, times in taken.items():
        pace, ratio = round(args.batch / times["p50"] * 1e3, 1), round(first / times["p50"], 2)
        print(json.dumps({"step": name, "photos_per_second": pace, "times_as_fast": ratio, **times}))


def step(network: Network, size: int, batch: int, bf16: bool, fast: bool) -> Callable[[], None]:
    """Forward and backward of a batch of noise; no weight is changed."""
    dice = np.random.default_rng(0)
    frames = torch.from_numpy(dice.integers(0, 256, (batch, size, size, 3), np.uint8))
    labels = torch.from_numpy(dice.integers(0, LABELS, batch))

    def run() -> None:
        with fast_depthwise(network) if fast else NOTHING:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(network(frames), labels)
            torch.autograd.backward(loss)
        network.zero_grad()

    return run


def calls_of_a_step(folder: Path, backbone: str) -> dict[str, Any]:
    """Our own functions that one fine-tuning step calls on the thread that trains, and their files."""
    dataset, ours = load_dataset(folder), str(Path(catflap.__file__).parent)
    network = Network(load_backbone(backbone, pretrained=False), len(dataset.labels)).eval()
    counts: list[Counter[tuple[str, str]]] = []

    def trace(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ours):
            counts[-1][Path(frame.f_code.co_filename).name, frame.f_code.co_name] += 1

    def log(step: int, _: dict[str, float]) -> None:
        counts.append(Counter())
        sys.setprofile(trace)

    settings = replace(finetuning(1, 0.1, 0.5, 224), batch=8)
    with tempfile.TemporaryDirectory() as out:
        train_weights(network, dataset, Path(out) / "resume", settings, 0, "cpu", silent, log=log)
    sys.setprofile(None)
    whole = counts[1]  # from the end of the second step to the end of the third
    return {
        "calls": sum(whole.values()),
        "files": len({name for name, _ in whole}),
        "by_function": {"/".join(name): count for name, count in whole.most_common()},
    }


if __name__ == "__main__":
    main()
