"""Weights that are spread over processes (FSDP), and the same weights whole."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from catflap.training.networks.network import Network

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Tensors = dict[str, torch.Tensor]


def shard(network: Network, mesh: DeviceMesh, patience: timedelta) -> Network:
    """Spread a network's weights over the processes of a mesh, a part of its backbone at a time.

    The parts that follow each other inside the backbone are gathered when they are needed, and let go of
    afterwards (Zhao et al. 2023, FSDP; torch's fully_shard). `patience` is how long one may keep the others
    waiting; Fabric tells it to the group of all, not to that of the mesh.
    """
    from torch.distributed.distributed_c10d import _set_pg_timeout
    from torch.distributed.fsdp import fully_shard

    processes = mesh["data_parallel"]
    _set_pg_timeout(patience, processes.get_group())
    for part in network.backbone.children():
        for block in part.children() if isinstance(part, nn.Sequential) else ():
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=processes)
    fully_shard(network, mesh=processes)
    return network


def learner_of(network: Network, device: torch.device, strategy: str) -> Network:
    """What learns in a network's place: a copy whose weights will be spread, or the network itself."""
    if strategy != "fsdp":
        return network
    return deepcopy(network.to(device))


def whole(tensors: Tensors) -> Tensors:
    """The tensors as they are without sharding; every process has to ask."""
    return {name: whole_tensor(tensor) for name, tensor in tensors.items()}


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as it is without sharding; every process has to ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def spread_like(tensor: torch.Tensor, other: Any) -> torch.Tensor:
    """A whole tensor, which every process has, spread as another one is."""
    if not hasattr(other, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    near = tensor.to(other.device)
    return distribute_tensor(near, other.device_mesh, other.placements, src_data_rank=None)


def share_buffers(learner: Network) -> None:
    """Give every process the statistics of the first; DDP does it, too, when the next step begins."""
    if torch.distributed.is_initialized():
        for buffer in learner.buffers():
            torch.distributed.broadcast(buffer, 0)
