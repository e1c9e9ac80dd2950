"""The numbers in which weights are trained: fp32, or bf16 or fp16 where the device is faster in them."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from catflap.machine import describe_machine

Precision: TypeAlias = Literal["32-true", "bf16-mixed", "16-mixed"]
_NUMBERS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_TENSOR_CORES = (7, 0)  # the least compute capability of NVIDIA's GPUs that have them; they are quick in fp16


def precision_on(device: str) -> Precision:
    """The fastest: bf16 on GPUs that compute it natively, processors with AMX, and AMD's with bf16.

    Intel's that have bf16 without AMX gain next to nothing or lose (docs/concepts/recipes.md). Older GPUs
    with tensor cores, as a T4 or a V100, get fp16.
    """
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed"
        return "16-mixed" if torch.cuda.get_device_capability(device) >= _TENSOR_CORES else "32-true"
    machine = describe_machine()
    quick = "bf16" if machine.processor.startswith("AMD") else "amx"
    return "bf16-mixed" if device.startswith("cpu") and quick in machine.instructions else "32-true"


def autocast(device: str, precision: Precision) -> torch.autocast:
    """A context in which a network computes in these numbers."""
    return torch.autocast(device.partition(":")[0], _NUMBERS[precision], enabled=precision != "32-true")
