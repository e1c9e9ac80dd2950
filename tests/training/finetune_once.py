"""One fine-tuning in a process of its own, which tells every step."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from catflap.artifacts.dataset import load_dataset
from catflap.training.backbones import digest_tensors, load_backbone
from catflap.training.finetune import LoopSettings, train_weights
from catflap.training.network import Network
from tests.tiny import TINY

RECIPE = LoopSettings(epochs=3, batch=8, save_every=2)


def finetune_once(dataset: str, resume: str, pipe: Connection) -> None:
    """Send the number of each step that is done, and last the weights and the history."""
    torch.manual_seed(0)
    network = Network(load_backbone(TINY), 2).eval()

    def reported(_: str, done: int, total: int) -> None:
        pipe.send(done)

    ended = train_weights(network, load_dataset(dataset), Path(resume), RECIPE, 0, "cpu", reported)
    pipe.send((digest_tensors(ended.weights), json.dumps(ended.history)))
