"""What a stopped run needs to go on with the very next step: one file, whole or absent."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from catflap.artifacts.folder import sweep, write_atomically
from catflap.training.networks.network import Network
from catflap.training.processes import is_first_process
from catflap.training.sharding import Tensors, spread_like, whole

FORMAT = 4  # of the file; one of another format is of another run


@dataclass(frozen=True)
class LoopState:
    """Everything that the rest of a run depends on.

    `average` is the running average of the weights, `best` that after the best epoch so far; `scaler` scales
    losses in fp16.
    """

    network: Network
    optimiser: torch.optim.Optimizer
    average: Tensors
    best: Tensors
    scaler: torch.amp.GradScaler | None = None


def save_state(
    path: Path, run: str, steps: tuple[int, int], history: list[dict[str, Any]], state: LoopState
) -> None:
    """Keep a run; `steps` are those that it has done and all, `run` names what it is made from.

    Every process calls this, for weights may be spread over them; only the first one writes.
    """
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for number, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"moments.{number}.{name}": tensor for name, tensor in moments.items()}
    tensors = whole(tensors)
    if not is_first_process():
        return
    done, total = map(str, steps)
    scale = json.dumps(state.scaler.state_dict() if state.scaler else {})
    described = {"run": run, "step": done, "total": total, "history": json.dumps(history), "scale": scale}
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, described))


def load_state(path: Path, run: str, state: LoopState) -> tuple[int, list[dict[str, Any]]]:
    """Take up a stopped run: its steps and history; 0 steps where there is none, or one of another `run`.

    What a kill left half-written beside it is swept away. That a stopped one is lost is told.
    """
    sweep(path)
    with contextlib.suppress(OSError, ValueError, SafetensorError), safe_open(path, "pt") as file:
        described = file.metadata() or {}
        if described.get("run") != run:
            if described.get("step") != described.get("total") and is_first_process():
                _tell_lost(path)
            return 0, []
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        parts = {"network.": state.network.state_dict(), "average.": state.average, "best.": state.best}
        for prefix, into in parts.items():
            for name, tensor in _under(prefix, tensors).items():
                into[name].copy_(spread_like(tensor, into[name]))
        kept = state.optimiser.state_dict()
        learnt = [one for group in state.optimiser.param_groups for one in group["params"]]
        moments: dict[int, Tensors] = {number: {} for number in range(len(learnt))}
        for place, tensor in _under("moments.", tensors).items():
            number, _, name = place.partition(".")
            like = learnt[int(number)]
            moments[int(number)][name] = spread_like(tensor, like) if tensor.shape == like.shape else tensor
        kept["state"] = {number: held for number, held in moments.items() if held}
        state.optimiser.load_state_dict(kept)
        if state.scaler:
            state.scaler.load_state_dict(json.loads(described["scale"]))
        return int(described["step"]), json.loads(described["history"])
    return 0, []


def _tell_lost(path: Path) -> None:
    logging.getLogger(__name__).warning(
        "What a stopped training kept in %s is of another run (other photos, options, device or number of "
        "processes) and is not used.",
        path,
    )


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
