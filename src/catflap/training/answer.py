"""A Checkpoint as a function from frames to logits, in torch."""

from __future__ import annotations

import torch

from catflap.artifacts.checkpoint import Checkpoint
from catflap.image import Pixels
from catflap.runtime.session import Logits, Model
from catflap.training.network import load_network


def open_checkpoint(checkpoint: Checkpoint, threads: int | None = None) -> Model:
    """The trained network as it was tested: uint8 frames (n, height, width, 3) to float32 logits."""
    if threads is not None:
        torch.set_num_threads(threads)
    network = load_network(checkpoint)

    @torch.inference_mode()
    def run(frames: Pixels) -> Logits:
        logits: Logits = network(
            torch.from_numpy(frames if frames.flags.writeable else frames.copy())
        ).numpy()
        return logits

    return run
