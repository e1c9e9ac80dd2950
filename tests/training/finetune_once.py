"""One fine-tuning in a process of its own, which tells every step."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from catflap.artifacts.dataset import load_dataset
from catflap.training.loop.every_weight import train_every_weight
from catflap.training.loop.settings import LoopSettings
from catflap.training.networks.backbone import PACKAGED, digest_tensors, load_backbone
from catflap.training.networks.network import Network

RECIPE = LoopSettings(epochs=3, batch=8, save_every=2)


def finetune_once(dataset: str, resume: str, pipe: Connection) -> None:
    """Send the number of each step that is done, and last the weights and the validation logits."""
    torch.manual_seed(0)
    network = Network(load_backbone(PACKAGED), 2).eval()

    def told(_: str, done: int, total: int) -> None:
        pipe.send(done)

    logits, _ = train_every_weight(network, load_dataset(dataset), Path(resume), RECIPE, 0, "cpu", told)
    pipe.send((digest_tensors(network.state_dict()), logits.tobytes()))
