"""One process or many: what torchrun started, as Lightning Fabric sees it."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lightning_fabric import Fabric


def open_fabric(device: str) -> Fabric:
    """The device, precision and processes of a training run.

    torchrun tells through its environment how many processes there are, on how many machines; they
    share every batch and average their gradients (DDP; gloo on CPUs, nccl on GPUs).
    """
    everywhere, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells its precision on stderr
    fabric = Fabric(
        accelerator=device.split(":")[0],
        devices=here,
        num_nodes=max(1, everywhere // here),
        strategy="ddp" if everywhere > 1 else "auto",
        precision=_precision(device),
    )
    fabric.launch()
    return fabric


def is_first_process() -> bool:
    """Whether this process writes and tells what all of them have trained."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all_processes() -> None:
    """Return when every process has come here; at once when there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _precision(device: str) -> Any:
    """bf16 where a GPU computes it natively, else fp32.

    On a CPU bf16 is slower: 0.53 to 0.67 of fp32's photos a second, forward and backward, at 64 to 160 px.
    """
    native = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if native else "32-true"
