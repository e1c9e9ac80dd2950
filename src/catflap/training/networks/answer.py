"""A Checkpoint as a function from frames to logits, in torch."""

from __future__ import annotations

import torch

from catflap.artifacts.checkpoint import Checkpoint
from catflap.image import Pixels
from catflap.machine import keep_memory
from catflap.runtime.engine import Logits, Model
from catflap.training.networks.network import load_network


def open_checkpoint(checkpoint: Checkpoint, threads: int | None = None) -> Model:
    """The trained network as it was tested: uint8 frames (n, height, width, 3) to float32 logits.

    With `threads` each call takes so many, and leaves torch's own number as it was: the last digits
    of what others compute in this process depend on it.
    """
    keep_memory()
    network = load_network(checkpoint)

    @torch.inference_mode()
    def run(frames: Pixels) -> Logits:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            logits: Logits = network(
                torch.from_numpy(frames if frames.flags.writeable else frames.copy())
            ).numpy()
        finally:
            torch.set_num_threads(before)
        return logits

    return run
