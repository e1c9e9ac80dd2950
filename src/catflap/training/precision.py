"""The numbers in which weights are trained: fp32, or bf16 or fp16 where the device is faster in them."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from catflap.machine import describe_machine

Precision: TypeAlias = Literal["32-true", "16-mixed", "bf16-mixed"]  # the quickest last
_NUMBERS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_BF16 = (8, 0)  # the compute capability from which NVIDIA's GPUs compute it themselves
_TENSOR_CORES = (7, 0)  # from which they have them, but for the following
_WITHOUT = ("GTX 16", "MX450", "MX550", "T400", "T500", "T550", "T600", "T1000", "T1200", "T2000")


def precision_on(device: str) -> Precision:
    """The fastest: bf16 on GPUs that compute it natively, processors with AMX, and AMD's with bf16.

    Intel's that have bf16 without AMX gain next to nothing or lose (docs/concepts/recipes.md). Older GPUs
    with tensor cores, as a T4, get fp16.
    """
    if device.startswith("cuda"):
        capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
        if torch.version.hip or capability >= _BF16:
            return "bf16-mixed"
        has_cores = capability >= _TENSOR_CORES and not any(each in name for each in _WITHOUT)
        return "16-mixed" if has_cores else "32-true"
    machine = describe_machine()
    quick = "bf16" if machine.processor.startswith("AMD") else "amx"
    return "bf16-mixed" if device.startswith("cpu") and quick in machine.instructions else "32-true"


def autocast(device: str, precision: Precision) -> torch.autocast:
    """A context in which a network computes in these numbers."""
    return torch.autocast(device.partition(":")[0], _NUMBERS[precision], enabled=precision != "32-true")
