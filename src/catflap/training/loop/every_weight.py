"""The loop that trains every weight; it reads from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call

from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.schema import digest
from catflap.data.loader import Place, batches_an_epoch, load_batches, reading_threads
from catflap.errors import CatflapError
from catflap.evaluation.intervals import significantly_positive
from catflap.image import Frame, Pixels
from catflap.machine import keep_memory
from catflap.progress import Progress
from catflap.runtime.engine import Logits
from catflap.runtime.scoring import BATCH, frames_of
from catflap.training.heads.features import GPU_BATCH
from catflap.training.heads.head import log_loss, losses_of
from catflap.training.loop.backward import backward, draw_alike, scaler_of
from catflap.training.loop.curve import remember
from catflap.training.loop.resizing import resize
from catflap.training.loop.resume import FORMAT, LoopState, load_state, save_state
from catflap.training.loop.settings import LoopSettings
from catflap.training.loop.step_logging import StepLogger, log_nothing
from catflap.training.networks.backbone import digest_tensors
from catflap.training.networks.convolution import QuickConvolution
from catflap.training.networks.folding import folded
from catflap.training.networks.network import Network
from catflap.training.precision import Precision
from catflap.training.processes import (
    all_gather,
    all_reduce,
    all_rows,
    in_halves,
    open_fabric,
    refuse_other_steps,
    share_of,
)
from catflap.training.sharding import Tensors, learner_of, share_buffers, whole, whole_tensor

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
QUICKER = 20  # steps of a GPU in the time of one


def train_every_weight(
    network: Network,
    dataset: Dataset,
    resume: Path,
    settings: LoopSettings,
    seed: int,
    device: str,
    progress: Progress,
    *,
    part: Photos | None = None,
    targets: npt.NDArray[np.float32] | None = None,
    watch: StepLogger = log_nothing,
    strategy: str = "ddp",
    precision: Precision = "32-true",
) -> tuple[Logits, list[dict[str, Any]]]:
    """Train all weights in place; returns the validation logits, float32 (n, labels), and the history.

    `part` are the train photos to learn from, if not all. `targets`, float32 (train photos, labels), are
    probabilities to learn instead. The answer is the running average of the weights after the epoch with the
    lowest log loss on validation, blended with the start (Wortsman et al. 2022, WiSE-FT) in the share with
    the lowest: never worse there; careful settings keep the start unless the gain is more than chance; a
    random start is not blended. With `resume`, a file, a run goes on mid-epoch. `watch` gets each step's
    figures. `strategy` is ddp or fsdp, `precision` Fabric's. It ends on the CPU.
    """
    photos, fabric = part or dataset.photos("train"), open_fabric(device, strategy, precision=precision)
    model, start, state = _ready(fabric, network, settings, strategy)
    world, share = fabric.world_size, max(1, settings.batch // fabric.world_size)  # of each batch's photos
    steps, total = _steps_of(len(photos), share, world, settings)
    wanted = _answers_to_learn(photos, len(dataset.labels), targets)
    run = _identity(dataset, settings, seed, (device, world, strategy, precision), start, targets, part)
    done, history = load_state(resume, run, state)
    refuse_other_steps(fabric, done, resume)
    at_once, begin = share + 1, Place(seed, done // steps, done % steps * share * world)
    coming = islice(load_batches(
        photos, dataset.frame, share, start=begin, epochs=ceil(settings.epochs), rank=fabric.global_rank,
        world=world, crops=settings.crops, resize=resize, pixels=None if part else dataset.train_pixels(),
        merge=settings.train_batch_norm,
    ), total - done)  # fmt: skip
    with QuickConvolution() if settings.train_batch_norm else folded(state.network, dataset.frame):
        for step, (frames, labels, ids, _) in zip(range(done, total), coming, strict=True):
            _set_rate(state.optimiser, _schedule(step, total, settings))
            draw_alike(seed, step, fabric.global_rank)
            losses, at_once = backward(
                fabric, model, frames, wanted(labels, ids), settings.label_smoothing, at_once
            )
            norm = fabric.clip_gradients(model, state.optimiser, max_norm=5.0, error_if_nonfinite=False)
            loss = _refuse_non_finite(losses, norm, ids, step, state.scaler)
            _move(state, settings, step)
            figures = {"loss": loss, "rate": state.optimiser.param_groups[0]["lr"]}
            remember(history, step + 1, (steps, total), figures)
            ended = step + 1 == total or (step + 1) % steps == 0
            if ended:
                figures |= _end_epoch(fabric, network, state, history, dataset)
            watch(step + 1, figures)
            if ended or (step + 1) % _save_every(fabric, settings) == 0:
                save_state(resume, run, (step + 1, total), history, state)
            progress("train every weight", step + 1, total)
    fabric.barrier()
    logits, blends = _blend(network.eval(), start, whole(state.best), settings, dataset)
    return logits, [{"step": "settings", **vars(settings), "precision": precision}, *history, *blends]


def _save_every(fabric: Fabric, settings: LoopSettings) -> int:
    """The steps between two savings, which on a GPU would else take as long as the steps."""
    return settings.save_every * (1 if fabric.device.type == "cpu" else QUICKER)


def _steps_of(photos: int, share: int, world: int, settings: LoopSettings) -> tuple[int, int]:
    """Steps of an epoch and of all.

    Raises CatflapError where batch norm would learn from one photo at a time: all its variances would be 0.
    """
    if settings.train_batch_norm and share < 2:
        raise CatflapError("Each process would get one photo of a batch.", "Use fewer processes.")
    steps = batches_an_epoch(photos, share, world=world, merge=settings.train_batch_norm)
    return steps, max(1, round(steps * settings.epochs))


def _ready(
    fabric: Fabric, network: Network, settings: LoopSettings, strategy: str
) -> tuple[Any, Tensors, LoopState]:
    """The module that takes batches, the weights at the start, and what changes with each step."""
    keep_memory()
    learner = learner_of(network, fabric.device, strategy)
    model = fabric.setup_module(learner.train(settings.train_batch_norm))
    scaler = scaler_of(fabric)
    optimiser: Any = fabric.setup_optimizers(_optimiser(learner, settings, fused=scaler is None))
    state = LoopState(learner, optimiser, _copied(learner), _copied(learner), scaler)
    return model, _copied(network), state


def _identity(
    dataset: Dataset,
    settings: LoopSettings,
    seed: int,
    place: tuple[str | int, ...],
    start: Tensors,
    targets: npt.NDArray[np.float32] | None,
    part: Photos | None,
) -> str:
    """What a run is made from: a stopped one goes on only when all of it is the same."""
    taught = {} if targets is None else {"targets": torch.from_numpy(targets)}
    tensors = [digest_tensors(start), digest_tensors(taught)]
    ids = part.ids.tolist() if part else []
    return digest(
        [FORMAT, dataset.sha256, vars(settings), seed, *place, *tensors, str(torch.__version__), *ids]
    )


def _answers_to_learn(
    photos: Photos, count: int, given: npt.NDArray[np.float32] | None
) -> Callable[[npt.NDArray[np.int64], npt.NDArray[np.str_]], torch.Tensor]:
    """From labels and ids of a batch to probabilities, float32 (n, labels): given ones, else the label."""
    if given is None:
        return lambda labels, ids: nn.functional.one_hot(torch.from_numpy(labels), count).float()
    order = np.argsort(photos.ids)
    return lambda labels, ids: torch.from_numpy(given[order[np.searchsorted(photos.ids, ids, sorter=order)]])


def _optimiser(network: Network, settings: LoopSettings, *, fused: bool) -> torch.optim.Optimizer:
    groups = [
        {"params": list(network.head.parameters()), "full_rate": settings.learning_rate},
        {
            "params": list(network.backbone.parameters()),
            "full_rate": settings.learning_rate * settings.backbone_rate_ratio,
        },
    ]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=True,
    )


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["full_rate"] * rate


def _schedule(step: int, total: int, settings: LoopSettings) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, int(total * settings.warm_up))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, total - warm))))


def _copied(network: Network) -> Tensors:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@torch.no_grad()
def _move(state: LoopState, settings: LoopSettings, step: int) -> None:
    """Move the weights by their gradients, and the average towards the weights, at first by more."""
    state.optimiser.step()
    state.optimiser.zero_grad()
    if settings.train_batch_norm:
        share_buffers(state.network)
    keep = min(settings.ema_decay, (step + 1) / (step + 10))
    for name, tensor in state.network.state_dict().items():
        if tensor.is_floating_point():
            state.average[name].lerp_(tensor, 1 - keep)


@torch.no_grad()
def _end_epoch(
    fabric: Fabric, network: Network, state: LoopState, history: list[dict[str, Any]], dataset: Dataset
) -> dict[str, float]:
    """Judge the average, keep it where no epoch before had a lower log loss, and return the figures."""
    history[-1] |= _judged(fabric, network, whole(state.average), dataset)
    losses = [entry["validation_log_loss"] for entry in history if entry["step"] == "finetune"]
    if losses[-1] <= min(losses):
        for name, tensor in state.average.items():
            state.best[name].copy_(tensor)
    return {name: figure for name, figure in history[-1].items() if name != "step"}


def _blend(
    network: Network, start: Tensors, best: Tensors, settings: LoopSettings, dataset: Dataset
) -> tuple[Logits, list[dict[str, Any]]]:
    """Load the blend of start and best epoch with the lowest validation log loss; and all that were tried.

    Careful settings keep the start where the gain may be chance.
    """
    validation, tried, lost = dataset.photos("validation"), list[Logits](), []
    mine, device = validation.take(share_of(len(validation))), next(network.parameters()).device
    shares = BLENDS if settings.blended else (1.0,)
    for share in shares:
        network.load_state_dict(_mixed(start, best, share))
        tried.append(all_rows(_answers(network, mine, dataset.frame), len(validation), device))
        lost.append(losses_of(tried[-1], validation.labels))
    means = [float(each.mean()) for each in lost]
    kept = int(np.argmin(means))
    if settings.careful and not significantly_positive(lost[0] - lost[kept], validation.groups):
        kept = 0
    network.load_state_dict(_mixed(start, best, shares[kept]))
    network.cpu()  # where it is counted, written, and shares its backbone with a head
    history = [
        {"step": "blend", "share": share, "validation_log_loss": loss, "kept": number == kept}
        for number, (share, loss) in enumerate(zip(shares, means, strict=True))
    ]
    return tried[kept], history


def _mixed(start: Tensors, end: Tensors, share: float) -> Tensors:
    return {
        name: torch.lerp(tensor, end[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in start.items()
    }


def _judged(fabric: Fabric, network: Network, average: Tensors, dataset: Dataset) -> dict[str, float]:
    """Log loss and accuracy of the average on the validation photos, of which each process takes a share."""
    photos, mode = dataset.photos("validation"), network.training
    mine = photos.take(share_of(len(photos)))
    sums = torch.zeros(2, dtype=torch.float64)
    if len(mine):
        logits = _answers(network.eval(), mine, dataset.frame, average)
        right = int((logits.argmax(1) == mine.labels).sum())
        sums += torch.tensor([log_loss(logits, mine.labels) * len(mine), right])
        network.train(mode)
    if fabric.world_size > 1:
        sums = sums.to(fabric.device)  # Apple's GPUs have no float64, and are alone
        all_reduce(sums)
    loss, accuracy = (sums / len(photos)).tolist()
    return {"validation_log_loss": loss, "validation_accuracy": accuracy}


@torch.inference_mode()
def _answers(network: Network, photos: Photos, frame: Frame, weights: Tensors | None = None) -> Logits:
    """Logits of photos, with other weights than the network's where they are given."""
    device, rows = next(network.parameters()).device, [np.empty((0, network.head.out_features), np.float32)]

    def answer(frames: Pixels) -> Logits:
        pixels = torch.from_numpy(frames).to(device)
        logits = functional_call(network, weights, pixels) if weights else network(pixels)
        return logits.cpu().numpy()  # type: ignore[no-any-return]

    on_cpu = device.type == "cpu"  # where more photos at a time would only wait for cores
    workers, batch = (2, BATCH) if on_cpu else (reading_threads(), GPU_BATCH)
    for frames in frames_of(photos, frame, workers, batch):
        rows.append(in_halves(answer, frames, device))
    return np.concatenate(rows).astype(np.float32)


def _refuse_non_finite(
    losses: torch.Tensor,
    norm: torch.Tensor | None,
    ids: npt.NDArray[np.str_],
    step: int,
    scaler: torch.amp.GradScaler | None,
) -> float:
    """The mean loss of every process's photos; where it is none, stop before weights are spoilt.

    Gradients in fp16 that were scaled by too much are left out, and the next ones scaled by half.
    Raises CatflapError, in every process, that names the photos whose loss is not a number.
    """
    sums = torch.stack([losses.sum(), losses.new_tensor(len(losses))])
    all_reduce(sums)
    steep = norm is not None and not torch.isfinite(whole_tensor(norm)).all()
    steep = steep and not (scaler and scaler.get_scale() > 1)
    if torch.isfinite(sums).all() and not steep:
        return float(sums[0] / sums[1])
    bad = all_gather(ids[(~torch.isfinite(losses)).cpu().numpy()].tolist())
    if bad:
        named = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
        raise CatflapError(
            f"The loss of step {step + 1} is not a number for {len(bad)} of {int(sums[1])} photos: {named}.",
            "Use --precision fp32." if scaler else "Leave these photos out, or use the recipe head.",
        )
    raise CatflapError(
        f"The gradients of step {step + 1} are not numbers, though every loss is.",
        "Use --precision fp32." if scaler else "Use the recipe head.",
    )
