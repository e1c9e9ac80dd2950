"""Fine-tuning: every weight is trained, from the head's solution on. The loop reads top to bottom."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.folder import digest, sweep, whole_file
from catflap.data.loader import Crops, Place, load_batches
from catflap.errors import CatflapError
from catflap.image import Frame
from catflap.progress import Progress
from catflap.runtime.scoring import frames_of
from catflap.training.allocator import keep_memory
from catflap.training.backbone import digest_tensors
from catflap.training.head import log_loss
from catflap.training.network import Network
from catflap.training.resizing import resize

BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """What a fine-tuning run is made from; rates are SGD's, the backbone's is `body` × the head's."""

    epochs: int = 3
    batch: int = 32
    rate: float = 0.02
    body: float = 0.1
    momentum: float = 0.9
    decay: float = 1e-4
    smoothing: float = 0.05
    warm_up: float = 0.1
    average: float = 0.99
    smallest_crop: float = 0.5
    save_every: int = 25


def finetune(
    network: Network,
    dataset: Dataset,
    resume: Path,
    recipe: Recipe,
    seed: int,
    device: str,
    progress: Progress,
) -> tuple[npt.NDArray[np.float32], list[dict[str, Any]]]:
    """Train all weights in place; returns the validation logits, float32 (n, labels), and the history.

    Batch norm stays as it was pretrained; the answer is the running average of the weights, blended
    with the weights it started from as validation likes best (Wortsman et al. 2022, WiSE-FT), so it
    is never worse there than its start. `resume` is a file that is written every `save_every` steps;
    with it the run goes on mid-epoch and ends with the same weights.
    """
    keep_memory()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells its precision on stderr
    photos, validation = dataset.photos("train"), dataset.photos("validation")
    fabric = Fabric(accelerator=device.split(":")[0], devices=1, precision=_precision(device))
    model, optimiser = fabric.setup(network, _optimiser(network, recipe))
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    steps = -(-len(photos) // recipe.batch)
    total = steps * recipe.epochs
    run = digest([dataset.sha256, vars(recipe), seed, device, digest_tensors(start), str(torch.__version__)])
    sweep(resume)
    done, history = _load(resume, run, network, optimiser, average)

    start_at = Place(seed, done // steps, done % steps * recipe.batch)
    batches = load_batches(
        photos, dataset.frame, recipe.batch, start=start_at, epochs=recipe.epochs,
        crops=Crops(recipe.smallest_crop), resize=resize,
    )  # fmt: skip
    for step, (frames, labels, ids, _) in zip(range(done, total), batches, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = group["full_rate"] * _schedule(step, total, recipe)
        logits = model(torch.from_numpy(frames).to(fabric.device))
        target = torch.from_numpy(labels).to(fabric.device)
        losses = nn.functional.cross_entropy(
            logits, target, label_smoothing=recipe.smoothing, reduction="none"
        )
        loss = losses.mean()
        fabric.backward(loss)
        norm = fabric.clip_gradients(model, optimiser, max_norm=5.0, error_if_nonfinite=False)
        _refuse_non_finite(losses, norm, ids, step)
        optimiser.step()
        optimiser.zero_grad()
        _average(average, network, min(recipe.average, (step + 1) / (step + 10)))
        if (step + 1) % steps == 0:
            history.append(
                {"step": "finetune", "epoch": (step + 1) // steps, "train_loss": float(loss.detach())}
            )
        if (step + 1) % recipe.save_every == 0 or (step + 1) % steps == 0:
            _save(resume, run, step + 1, history, network, optimiser, average)
        progress("finetune", step + 1, total)

    return _blend(network, start, average, validation, dataset.frame, history)


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.SGD:
    groups = [
        {"params": list(network.head.parameters()), "full_rate": recipe.rate},
        {"params": list(network.backbone.parameters()), "full_rate": recipe.rate * recipe.body},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.decay, nesterov=True
    )


def _schedule(step: int, total: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, int(total * recipe.warm_up))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, total - warm))))


@torch.no_grad()
def _average(average: Tensors, network: Network, keep: float) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - keep)


def _blend(
    network: Network,
    start: Tensors,
    average: Tensors,
    validation: Photos,
    frame: Frame,
    history: list[dict[str, Any]],
) -> tuple[npt.NDArray[np.float32], list[dict[str, Any]]]:
    """Put the blend of start and average into the network that validation likes best."""
    tried = []
    for share in BLENDS:
        network.load_state_dict(_mixed(start, average, share))
        logits = _answers(network, validation, frame)
        tried.append((log_loss(logits, validation.labels), share, logits))
        history.append({"step": "blend", "share": share, "validation_log_loss": tried[-1][0]})
    _, share, logits = min(tried, key=lambda entry: entry[0])
    network.load_state_dict(_mixed(start, average, share))
    return logits, history


def _mixed(start: Tensors, average: Tensors, share: float) -> Tensors:
    return {
        name: torch.lerp(tensor, average[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in start.items()
    }


@torch.inference_mode()
def _answers(network: Network, photos: Photos, frame: Frame) -> npt.NDArray[np.float32]:
    device = next(network.parameters()).device
    rows = [network(torch.from_numpy(frames).to(device)).cpu().numpy() for frames in frames_of(photos, frame)]
    return np.concatenate(rows).astype(np.float32)


def _precision(device: str) -> Any:
    """bf16 where a GPU computes it natively, else fp32.

    On a CPU bf16 is slower: 0.53 to 0.67 of fp32's photos a second, forward and backward, at 64 to 160 px.
    """
    native = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if native else "32-true"


def _refuse_non_finite(
    losses: torch.Tensor, norm: torch.Tensor | None, ids: npt.NDArray[np.str_], step: int
) -> None:
    """Stop before weights are spoilt, and name the photos whose loss is not a number."""
    if torch.isfinite(losses).all() and (norm is None or torch.isfinite(norm)):
        return
    bad = ids[(~torch.isfinite(losses)).cpu().numpy()].tolist()
    if bad:
        named = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
        raise CatflapError(
            f"The loss of step {step + 1} is not a number for {len(bad)} of {len(ids)} photos: {named}.",
            "Leave these photos out, or use the recipe head.",
        )
    raise CatflapError(
        f"The gradients of step {step + 1} are not numbers, though every loss is.", "Use the recipe head."
    )


def _save(
    path: Path,
    run: str,
    step: int,
    history: list[dict[str, Any]],
    network: Network,
    optimiser: torch.optim.Optimizer,
    average: Tensors,
) -> None:
    """Keep everything that the next step depends on, whole or not at all."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors[f"momentum.{number}"] = state["momentum_buffer"]
    described = {"run": run, "step": str(step), "history": json.dumps(history)}
    whole_file(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, described))


def _load(
    path: Path, run: str, network: Network, optimiser: torch.optim.Optimizer, average: Tensors
) -> tuple[int, list[dict[str, Any]]]:
    """Take up a stopped run; step 0 when there is none or it was made from something else."""
    with contextlib.suppress(OSError, ValueError, SafetensorError), safe_open(path, "pt") as file:
        described = file.metadata() or {}
        if described.get("run") != run:
            return 0, []
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network.load_state_dict(_under("network.", tensors))
        for name, tensor in _under("average.", tensors).items():
            average[name].copy_(tensor)
        state = optimiser.state_dict()
        momenta = _under("momentum.", tensors)
        state["state"] = {int(number): {"momentum_buffer": tensor} for number, tensor in momenta.items()}
        optimiser.load_state_dict(state)
        return int(described["step"]), json.loads(described["history"])
    return 0, []


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
