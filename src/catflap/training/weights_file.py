"""Pretrained weights from a file that a user names: its hash, what it may hold, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from catflap.errors import CatflapError, first_line

Tensors: TypeAlias = dict[str, torch.Tensor]
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # of training scripts, around the weights
COUNTER = "num_batches_tracked"  # of batch norm; old files lack it, and nothing reads it


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, and the sha256 that its publisher states, hexadecimal."""

    path: Path
    sha256: str


def read_weights(weights: WeightsFile) -> Tensors:
    """The tensors of a state dict, from safetensors or from torch.save, of which no code is run.

    Raises CatflapError for a file that cannot be read, has another hash or holds something else.
    """
    path, stated = weights.path, weights.sha256.strip().lower()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CatflapError(
            f"The weights {path} cannot be read: {first_line(error)}.", "Name a file of weights."
        ) from error
    found = sha256(data).hexdigest()
    if not stated:
        raise CatflapError(
            f"--weights needs the hash that the publisher of {path} states.",
            f"Compare it with that of this file, then add: --sha256 {found}",
        )
    if found != stated:
        raise CatflapError(
            f"The weights {path} have the sha256 {found}, and not {stated}.",
            "Fetch the file again, or correct --sha256.",
        )
    return _tensors(data, path)


def _tensors(data: bytes, path: Path) -> Tensors:
    try:
        held: object = load(data)
    except SafetensorError:
        try:
            held = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises errors of many types for bytes that are not its own
            raise _no_state_dict(path) from error
    for name in WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
    if not isinstance(held, Mapping) or not held:
        raise _no_state_dict(path)
    if not all(isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in held.items()):
        raise _no_state_dict(path)
    return {name.removeprefix("module."): tensor for name, tensor in held.items()}


def _no_state_dict(path: Path) -> CatflapError:
    return CatflapError(
        f"{path} holds no state dict, that is tensors by their names.",
        "Use a safetensors file, or one written by torch.save(model.state_dict(), FILE).",
    )


def load_into(network: nn.Module, whole: nn.Module, tensors: Tensors, name: str, path: Path) -> None:
    """Load tensors into a network without a classifier; `whole` is the same one with its classifier.

    Raises CatflapError, with the first tensor that is wrong, if they are of another architecture.
    """
    expected = network.state_dict()
    wrong = [
        each
        for each, tensor in expected.items()
        if not each.endswith(COUNTER) and (each not in tensors or tensors[each].shape != tensor.shape)
    ]
    wrong += sorted(tensors.keys() - expected.keys() - whole.state_dict().keys())
    if wrong:
        first = wrong[0]
        theirs, ours = (
            f"has the shape {tuple(held[first].shape)}" if first in held else "is absent"
            for held in (tensors, expected)
        )
        raise CatflapError(
            f"{len(wrong)} tensors of {path} do not fit {name}; the first, {first}, {theirs} in the file and "
            f"{ours} in the network.",
            "Name the backbone that the file was made for with --backbone.",
        )
    network.load_state_dict({each: tensors.get(each, tensor) for each, tensor in expected.items()})
