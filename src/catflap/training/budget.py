"""How much fine-tuning fits into the minutes that a user gives."""

from __future__ import annotations

from copy import deepcopy
from time import perf_counter

import torch

from catflap.allocator import keep_memory
from catflap.artifacts.dataset import Dataset
from catflap.training.folding import folded
from catflap.training.network import Network
from catflap.training.processes import Precision
from catflap.training.recipe import Recipe

MOST_EPOCHS = 10
_TRIES = 3
_LOOP = 1.25  # photos and the optimiser take time too, and a machine is not as quick every minute


def epochs_within(
    seconds: float, network: Network, dataset: Dataset, device: str, precision: Precision
) -> int:
    """Whole epochs of fine-tuning, 0 to 10, that fit into `seconds`, each judged, and five blends after."""
    pace = seconds_a_photo(network, dataset, device, precision)
    judged = len(dataset.photos("validation")) * pace / 2  # forward only, in fp32
    epoch = len(dataset.photos("train")) * pace * _LOOP + judged
    return max(0, min(MOST_EPOCHS, int((seconds - 5 * judged) / epoch)))


def seconds_a_photo(network: Network, dataset: Dataset, device: str, precision: Precision) -> float:
    """What a photo takes forward and backward, measured as the loop runs it, on blank frames with a copy."""
    keep_memory()  # as the loop does
    copy, batch = deepcopy(network).to(device), Recipe().batch
    frames = torch.zeros(
        batch, dataset.frame.height, dataset.frame.width, 3, dtype=torch.uint8, device=device
    )
    taken, bf16 = [], torch.autocast(device.split(":")[0], torch.bfloat16, precision == "bf16-mixed")
    with folded(copy, dataset.frame):
        for _ in range(_TRIES):
            start = perf_counter()
            with bf16:
                answers = copy(frames)
            answers.sum().backward()
            copy.zero_grad()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.append(perf_counter() - start)
    return min(taken) / batch
