"""One of several processes, started by torchrun, that fine-tune a small network together.

DATASET RESUME OUT STOP OPTIMISER KIND: the first process writes OUT, its weights and what it found
on validation; at the step STOP, unless it is 0, all of them end at once. {rank} in RESUME is the number of
the process, KIND the name of a backbone in small.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from catflap.artifacts.dataset import load_dataset
from catflap.training.distributed import is_first_process
from catflap.training.finetune import LoopSettings, train_weights
from tests.training import small
from tests.training.small import small_network


def main() -> None:
    dataset, resume, out, stop, optimiser, kind = sys.argv[1:]
    torch.set_num_threads(1)

    def reported(_: str, done: int, total: int) -> None:
        if done == int(stop):
            torch.distributed.barrier()
            os._exit(9)

    network, resume = small_network(getattr(small, kind)), resume.format(rank=os.environ["RANK"])
    recipe = LoopSettings(
        3,
        optimiser,
        batch=8,
        learning_rate=0.1,
        backbone_rate_ratio=1.0,
        ema_decay=0.5,
        save_every=2,
        train_batch_norm=True,
    )
    ended = train_weights(network, load_dataset(dataset), Path(resume), recipe, 0, "cpu", reported)
    if is_first_process():
        described = {"history": json.dumps(ended.history)}
        save_file({name: tensor.contiguous() for name, tensor in ended.weights.items()}, out, described)


if __name__ == "__main__":
    main()
