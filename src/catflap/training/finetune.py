"""Fine-tuning: learning-rate schedule, crops, epochs, soft targets, mirroring, the loop, resume, blends."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice, pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.folder import sweep, write_atomically
from catflap.artifacts.schema import digest
from catflap.errors import CatflapError
from catflap.evaluation.calibration import fit_temperature
from catflap.evaluation.intervals import clustered_variance
from catflap.image import Frame, Pixels
from catflap.machine import keep_memory
from catflap.progress import Progress, Record, ignore, prefetch
from catflap.runtime.decisions import softmax
from catflap.runtime.engine import Logits
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import BATCH, frames_of, score
from catflap.training.augment import Crops, Place, batches_an_epoch, load_batches, reading_threads
from catflap.training.backbones import digest_tensors
from catflap.training.depthwise import fast_depthwise
from catflap.training.distributed import (
    Precision,
    all_gather,
    all_reduce,
    check_same_step,
    gather_rows,
    ignore_oom,
    is_first_process,
    is_single_process,
    open_fabric,
    out_of_memory,
    retry_on_oom,
    share_of,
)
from catflap.training.features import GPU_BATCH, Extractor
from catflap.training.gradients import (
    PART_PIXELS,
    add_gradients,
    freeze,
    open_workers,
    photos_of_a_part,
    takes_parts,
    threads,
    threads_each,
    worker_count,
)
from catflap.training.head import Head, Labels, log_loss, losses_of
from catflap.training.network import Network, load_network
from catflap.training.onnx_graph import to_onnx
from catflap.training.step_logging import StepLogger, log_nothing

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Tensors: TypeAlias = dict[str, torch.Tensor]
History: TypeAlias = list[dict[str, Any]]

GOOD_HEAD = (
    0.95  # of the photos that judge a head; below, fine-tuning changes features more than it keeps them
)
FROZEN = 3  # stages, the stem included, that keep their weights in fine-tuning: they are half of the work
MANY_PHOTOS = 10_000  # train photos: then a random start takes larger batches
SMALL_SIDE = 64  # px: a crop of such a photo, enlarged, is blurred
TEACHERS_SHARE = 0.7  # of a soft target; the rest is the label's
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the fine-tuned weights
MAX_EPOCHS = 10  # where nobody names them
ALL_PHOTOS_SHARE = 1 / 3  # of the epochs, to learn from validation photos as well after the choice
# Photo passes of a fine-tuning that nobody measures in epochs or minutes, at the cost of the slim Lite2 at
# 320 px, to learn from so many: 5 epochs for 350 photos, two for 2,800, a part of one for more than 7,000.
PASSES, PASSES_OF, PASSES_POWER, MAX_PASSES = 2400, 350, 0.5, 7000
PASS_FLOPS = 2.3e9
MIN_GAIN = 0.05  # of the start's loss: for less, the start is kept, whose head learns from more photos
GPU_SAVES = 20  # steps between saves on a GPU, relative to a CPU, because saving takes as long as some steps
CURVE_POINTS = 100  # in the history of a run
RESUME_VERSION = 5


@dataclass(frozen=True)
class LoopSettings:
    """Settings of a run that trains a network: every weight, or all but its first stages.

    `epochs` may be fractional; `batch` counts the photos of all processes. `optimiser` is sgd (with Nesterov
    momentum) or adamw (Loshchilov & Hutter 2019). The head learns at `learning_rate`, the backbone at
    `backbone_rate_ratio` × that. `warm_up` is the share of steps in which the rate grows; `ema_decay` that of
    the running average of the weights. `smallest_crop`, `shift` and `mirror` are those of augment.Crops.
    `train_batch_norm` updates batch norm's statistics, which only a random start needs. `frozen` stages, the
    stem included, keep their weights. `save_every` counts steps between saves on a CPU.
    """

    epochs: float = 3
    optimiser: str = "sgd"
    batch: int = 32
    learning_rate: float = 0.02
    backbone_rate_ratio: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.05
    warm_up: float = 0.1
    ema_decay: float = 0.99
    smallest_crop: float = 0.5
    shift: float = 0.0
    mirror: bool = True
    save_every: int = 25
    train_batch_norm: bool = False
    frozen: int = 0

    @property
    def crops(self) -> Crops:
        """The random crops of the photos."""
        return Crops(self.smallest_crop, shift=self.shift, mirror=self.mirror)


def finetuning(
    epochs: float,
    backbone_rate_ratio: float,
    head_accuracy: float,
    side: int,
    mirror: bool = True,
) -> LoopSettings:
    """Settings for weights that start with a head on frozen features.

    `head_accuracy` (0 to 1) is on held-out photos, `side` the side in px of what the network sees of most
    photos. A backbone with a rate of 1 must change whatever its head. Otherwise a
    good head's features are kept: SGD with small steps, large crops and hard labels (smoothed ones spoil the
    probabilities of a head that is nearly always right). A poor head's features must change: AdamW. Small
    photos are then shifted, not cropped.
    """
    if backbone_rate_ratio == 1:
        return LoopSettings(epochs, backbone_rate_ratio=1, mirror=mirror)
    if head_accuracy >= GOOD_HEAD:
        return LoopSettings(
            epochs, learning_rate=0.005, backbone_rate_ratio=backbone_rate_ratio, label_smoothing=0.0,
            smallest_crop=0.8, mirror=mirror,
        )  # fmt: skip
    return LoopSettings(
        epochs, optimiser="adamw", batch=16, learning_rate=1.5e-4, ema_decay=0.98, warm_up=0.2,
        backbone_rate_ratio=1.0, weight_decay=0.01, shift=_shift(side), mirror=mirror, frozen=FROZEN,
    )  # fmt: skip


def usual_epochs(train: int, validation: int, flops: int) -> float:
    """Epochs of a fine-tuning that nobody measures in epochs or minutes; `flops` of a forward pass."""
    passes: float = min(MAX_PASSES, PASSES * (train / PASSES_OF) ** PASSES_POWER) * PASS_FLOPS / flops
    epochs = min(float(MAX_EPOCHS), passes / passes_an_epoch(train, validation))
    return round(epochs) if epochs >= 1 else round(epochs, 2)


def passes_an_epoch(train: int, validation: int) -> float:
    """Photos that an epoch learns from, with those of the epochs with all photos that follow."""
    return train + ALL_PHOTOS_SHARE * (train + validation)


def scratch(epochs: float, photos: int, side: int) -> LoopSettings:
    """Settings for random weights: one large rate, and batch norm that learns; else as in `finetuning`."""
    batch, rate = (128, 0.2) if photos >= MANY_PHOTOS else (32, 0.1)
    return LoopSettings(
        epochs, batch=batch, learning_rate=rate, backbone_rate_ratio=1.0, weight_decay=5e-4,
        label_smoothing=0.1, smallest_crop=0.35, shift=_shift(side), train_batch_norm=True,
    )  # fmt: skip


def _shift(side: int) -> float:
    return 1 / 8 if side <= SMALL_SIDE else 0.0


def mirror_keeps_labels(extractor: Extractor, head: Head, photos: Photos, logits: Logits) -> bool:
    """Whether a head recognises mirrored photos: False for letters, digits, arrows.

    `logits` are the head's on the photos as they are, which it has not learnt from. False if mirroring lowers
    the accuracy by more than 3 points and raises the log loss by more than a quarter.
    """
    mirrored = np.concatenate(
        [
            head.logits(extractor.model(np.ascontiguousarray(frames[:, :, ::-1])))
            for frames in frames_of(photos, extractor.frame, extractor.workers, extractor.batch)
        ]
    )
    right, before = ((each.argmax(1) == photos.labels).mean() for each in (mirrored, logits))
    worse = log_loss(mirrored, photos.labels) > 1.25 * log_loss(logits, photos.labels)
    return not (worse and right < before - 0.03)


def soft_targets(
    teachers: Sequence[Checkpoint],
    labels: Sequence[str],
    photos: Photos,
    share: float,
    device: str,
    progress: Progress,
) -> npt.NDArray[np.float32]:
    """Targets, float32 (photos, labels): `share` × the teachers' mean probabilities, the rest the label.

    Each teacher sees the whole photo through its own frame (Hinton et al. 2015). Processes share the photos.
    Raises CatflapError if a teacher has other labels.
    """
    for teacher in teachers:
        if tuple(teacher.labels) != tuple(labels):
            raise CatflapError(
                f"The teacher {teacher.path} has other labels than {photos.folder}.",
                "Train a teacher on photos with the same labels.",
            )
    mine = photos.take(share_of(len(photos)))
    total = np.zeros((len(mine), len(labels)))
    for number, teacher in enumerate(teachers, 1):
        step = "teacher" if len(teachers) == 1 else f"teacher {number} of {len(teachers)}"
        network, frame = load_network(teacher), teacher.frame
        if device == "cpu" and len(mine):
            model = open_model(to_onnx(network, frame.height, frame.width))
            total += softmax(score(model, mine, frame, step, progress), 1.0)
        elif len(mine):
            total += softmax(predict(network.to(device), mine, frame), 1.0)
    mean = gather_rows(total, len(photos), device) / len(teachers)
    return (share * mean + (1 - share) * np.eye(len(labels))[photos.labels]).astype(np.float32)


@dataclass(frozen=True)
class Run:
    """The end of a loop: the running average of the weights, and its history.

    `learnt` counts the photos that the weights learnt from in this process's run, `learnt_before` those of
    the stopped run that it resumed.
    """

    weights: Tensors
    history: History
    learnt: int
    learnt_before: int


@dataclass(frozen=True)
class LoopState:
    """What changes with each step; `average` is the running average, `scaler` scales losses in fp16."""

    network: Network
    optimiser: torch.optim.Optimizer
    average: Tensors
    scaler: torch.amp.GradScaler | None = None


def train_weights(
    network: Network,
    dataset: Dataset,
    resume: Path,
    settings: LoopSettings,
    seed: int,
    device: str,
    progress: Progress,
    *,
    photos: Photos | None = None,
    targets: npt.NDArray[np.float32] | None = None,
    log: StepLogger = log_nothing,
    record: Record = ignore,
    precision: Precision = "32-true",
) -> Run:
    """Train a network in place, but for its frozen stages, and return the running average of the weights.

    Learns from the train photos, judged on validation after each epoch; or from `photos`, without judging.
    `targets`, float32 (train photos, labels), replace the labels. A stopped run resumes from the file
    `resume` with the next batch. Under torchrun all processes share each batch. `log` gets each step's
    figures, `record` each entry of the history. Raises CatflapError that names the photos if a loss is not
    finite.
    """
    keep_memory()
    judged, photos = photos is None, dataset.photos("train") if photos is None else photos
    freeze(network, settings.frozen)
    fabric = open_fabric(device, precision=precision)
    model = fabric.setup_module(network.train(settings.train_batch_norm))
    scaler = getattr(fabric.strategy.precision, "scaler", None)  # of fp16 (Micikevicius et al. 2018)
    optimiser: Any = fabric.setup_optimizers(_optimiser(network, settings, fused=scaler is None))
    state = LoopState(network, optimiser, copied(network), scaler)
    rank, world = fabric.global_rank, fabric.world_size
    share = max(1, settings.batch // world)
    if settings.train_batch_norm and share < 2:  # variances of one photo are 0
        raise CatflapError("Each process would get one photo of a batch.", "Use fewer processes.")
    steps = batches_an_epoch(len(photos), share, world=world, merge=settings.train_batch_norm)
    total = max(1, round(steps * settings.epochs))

    where = device, world, precision
    run = _identity(dataset, photos, settings, seed, where, state.average, targets)
    first, history = load_state(resume, run, state)
    check_same_step(fabric, first, resume)
    for entry in history:
        record(entry)
    recorded = max(0, len(history) - 1)  # the last one may grow
    start = Place(seed, first // steps, first % steps * share * world)
    batches = load_batches(
        photos, dataset.frame, share, start=start, epochs=ceil(settings.epochs), rank=rank, world=world,
        crops=settings.crops, pixels=dataset.train_pixels() if judged else None,
        merge=settings.train_batch_norm,
    )  # fmt: skip
    save_every = settings.save_every * (1 if fabric.device.type == "cpu" else GPU_SAVES)
    part = _part_size(fabric, network, dataset.frame, share)
    table = _targets_by_id(photos, len(dataset.labels), targets)
    in_parts = takes_parts(fabric.device.type, settings.train_batch_norm)
    with fast_depthwise(network), open_workers() if in_parts else nullcontext() as pool:
        for done, batch in enumerate(islice(batches, total - first), first + 1):
            rate = _schedule(done - 1, total, settings.warm_up)
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * rate
            torch.manual_seed(_step_seed(seed, done - 1, rank))
            wanted = torch.from_numpy(table[np.searchsorted(table["id"], batch.ids)]["target"])
            if pool:
                smoothing = settings.label_smoothing
                losses = add_gradients(pool, network, batch.frames, wanted, smoothing, precision, scaler)
            else:
                losses, part = _backward(fabric, model, batch.frames, wanted, settings.label_smoothing, part)
            norm = fabric.clip_gradients(model, optimiser, max_norm=5.0, error_if_nonfinite=False)
            loss = _mean_loss(losses, norm, batch.ids, done, scaler)
            optimiser.step()
            optimiser.zero_grad()
            _update_average(state, min(settings.ema_decay, done / (done + 9)), settings.train_batch_norm)
            figures = {"loss": loss, "rate": optimiser.param_groups[0]["lr"]}
            _record(history, done, (steps, total), figures)
            ended = done == total or done % steps == 0
            if ended and judged:
                history[-1] |= _judge(fabric, network, state.average, dataset)
            if ended:
                figures |= {name: figure for name, figure in history[-1].items() if name != "step"}
            log(done, figures)
            whole = len(history) if ended else len(history) - 1
            for entry in history[recorded:whole]:
                record(entry)
            recorded = max(recorded, whole)
            if ended or done % save_every == 0:
                save_state(resume, run, (done, total), history, state)
            progress("train every weight", done, total)
    fabric.barrier()
    network.eval()
    described = {"step": "settings", **vars(settings), "precision": precision, "photos": len(photos)}
    before = first * len(photos) // steps
    return Run(state.average, [described, *history], total * len(photos) // steps - before, before)


def _optimiser(network: Network, settings: LoopSettings, *, fused: bool) -> torch.optim.Optimizer:
    rate = settings.learning_rate
    groups = [
        {"params": list(network.head.parameters()), "full_rate": rate},
        {
            "params": [weight for weight in network.backbone.parameters() if weight.requires_grad],
            "full_rate": rate * settings.backbone_rate_ratio,
        },
    ]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=settings.weight_decay, fused=fused)
    return torch.optim.SGD(
        groups, lr=rate, momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=True
    )


def _schedule(step: int, total: int, warm_up: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, int(total * warm_up))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, total - warm))))


def _step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of dropout in a step of a process: the same in a resumed run."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def _targets_by_id(photos: Photos, classes: int, targets: npt.NDArray[np.float32] | None) -> npt.NDArray[Any]:
    """Ids and targets of the photos, sorted by id; without targets, the labels one-hot."""
    if targets is None:
        targets = np.eye(classes, dtype=np.float32)[photos.labels]
    table = np.empty(len(photos), [("id", photos.ids.dtype), ("target", np.float32, classes)])
    table["id"], table["target"] = photos.ids, targets
    return table[np.argsort(photos.ids, kind="stable")]


def _part_size(fabric: Fabric, network: Network, frame: Frame, share: int) -> int:
    """How many photos of a batch go through the network at once; on a CPU more only cost memory."""
    if fabric.device.type != "cpu":
        return share + 1
    return min(share + 1, photos_of_a_part(network, frame.width, frame.height))


def _backward(
    fabric: Fabric, model: Any, frames: Pixels, targets: torch.Tensor, smoothing: float, size: int
) -> tuple[torch.Tensor, int]:
    """Add up the gradients of a batch in parts of `size` photos: the losses, float32 (n,), and the size used.

    If a GPU runs out of memory, parts are halved, with a warning. The gradients are the same sums, but batch
    norm that learns sees the parts. Raises CatflapError if one photo is too many, or in one of several
    processes, which cannot halve alone.
    """
    while True:
        losses, logits, loss = list[torch.Tensor](), None, None
        edges = np.linspace(0, len(frames), -(-len(frames) // size) + 1).astype(int).tolist()  # equal parts
        with ignore_oom():
            for begin, end in pairwise(edges):
                with fabric.no_backward_sync(model, enabled=end < len(frames)):
                    logits = model(torch.from_numpy(frames[begin:end]).to(fabric.device))
                    part = targets[begin:end].to(fabric.device)
                    loss = nn.functional.cross_entropy(
                        logits, part, label_smoothing=smoothing, reduction="none"
                    )
                    fabric.backward(loss.sum() / len(frames))
                losses.append(loss.detach())
            return torch.cat(losses), size
        del logits, loss  # and with them the graph of what failed
        model.zero_grad()
        tried = min(size, len(frames))
        if tried == 1 or fabric.world_size > 1:
            raise out_of_memory(fabric.device, tried)
        size = (tried + 1) // 2
        logging.getLogger(__name__).warning(
            "%s has too little memory for %d photos at once; gradients are accumulated over %d.",
            fabric.device, tried, size,
        )  # fmt: skip


def _mean_loss(
    losses: torch.Tensor,
    norm: torch.Tensor | None,
    ids: npt.NDArray[np.str_],
    step: int,
    scaler: torch.amp.GradScaler | None,
) -> float:
    """The mean loss over all processes; raises CatflapError in each before a loss or gradient spoils weights.

    Gradients in fp16 that overflow are skipped by the scaler, which then halves its scale.
    """
    sums = torch.stack([losses.sum(), losses.new_tensor(len(losses))])
    all_reduce(sums)
    overflow = norm is not None and not torch.isfinite(norm).all()
    overflow = overflow and not (scaler and scaler.get_scale() > 1)
    if torch.isfinite(sums).all() and not overflow:
        return float(sums[0] / sums[1])
    bad = all_gather(ids[(~torch.isfinite(losses)).cpu().numpy()].tolist())
    if bad:
        named = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
        raise CatflapError(
            f"The loss of step {step} is not a number for {len(bad)} of {int(sums[1])} photos: {named}.",
            "Use --precision fp32." if scaler else "Remove these photos, or use --recipe head.",
        )
    raise CatflapError(
        f"The gradients of step {step} are not numbers, though every loss is.",
        "Use --precision fp32." if scaler else "Use --recipe head.",
    )


@torch.no_grad()
def _update_average(state: LoopState, decay: float, shared_buffers: bool) -> None:
    if shared_buffers and torch.distributed.is_initialized():
        for buffer in state.network.buffers():  # DDP does it, too, but only before the next step
            torch.distributed.broadcast(buffer, 0)
    for name, tensor in state.network.state_dict().items():
        if tensor.is_floating_point():
            state.average[name].lerp_(tensor, 1 - decay)


def _record(history: History, done: int, length: tuple[int, int], figures: dict[str, float]) -> None:
    """Add the figures of step `done`, from 1, to a history; `length` is the steps of an epoch and of all.

    An entry "steps" has the mean loss and last rate of a hundredth of the run, and ends with its epoch at the
    latest. An entry "finetune" follows each epoch, or the part of one at the end, with its mean loss. Entries
    grow in place, so a resumed run continues them exactly.
    """
    epoch, total = length
    width, place = -(-total // CURVE_POINTS), (done - 1) % epoch
    if place % width == 0 or not history or history[-1]["step"] != "steps":
        history.append({"step": "steps", "first": done, "last": 0, "loss": 0.0, "rate": 0.0})
    entry = history[-1]
    entry["loss"] += (figures["loss"] - entry["loss"]) / (done - entry["first"] + 1)
    entry["last"], entry["rate"] = done, figures["rate"]
    if done % epoch == 0 or done == total:
        before = (done - 1) // epoch * epoch
        parts = [each for each in history if each["step"] == "steps" and each["first"] > before]
        counts = [each["last"] - each["first"] + 1 for each in parts]
        loss = sum(each["loss"] * count for each, count in zip(parts, counts, strict=True)) / sum(counts)
        number = round(done / epoch, 2) if done % epoch else done // epoch
        history.append({"step": "finetune", "epoch": number, "train_loss": loss})


def _judge(fabric: Fabric, network: Network, weights: Tensors, dataset: Dataset) -> dict[str, float]:
    """Log loss and accuracy of the weights on validation; each process takes a share of the photos."""
    photos, mode = dataset.photos("validation"), network.training
    mine = photos.take(share_of(len(photos)))
    sums = torch.zeros(2, dtype=torch.float64)
    if len(mine):
        logits = predict(network.eval(), mine, dataset.frame, weights)
        right = int((logits.argmax(1) == mine.labels).sum())
        sums += torch.tensor([log_loss(logits, mine.labels) * len(mine), right])
        network.train(mode)
    if fabric.world_size > 1:
        sums = sums.to(fabric.device)  # Apple's GPUs have no float64, and run one process
        all_reduce(sums)
    loss, accuracy = (sums / len(photos)).tolist()
    return {"validation_log_loss": loss, "validation_accuracy": accuracy}


def predict(network: Network, photos: Photos, frame: Frame, weights: Tensors | None = None) -> Logits:
    """Logits of photos, float32 (n, labels), with other weights than the network's if given.

    Each core of a CPU takes its own photos, few at once: cores that share a photo wait for each other at
    every layer, and the activations of many photos leave the caches.
    """
    device, rows = next(network.parameters()).device, [np.empty((0, network.head.out_features), np.float32)]
    if weights:
        network = deepcopy(network)
        network.load_state_dict(weights)

    @torch.inference_mode()
    def compute(frames: Pixels) -> Logits:
        return network(torch.from_numpy(frames).to(device)).float().cpu().numpy()  # type: ignore[no-any-return]

    def compute_alone(frames: Pixels) -> Logits:
        with threads(threads_each()):
            return retry_on_oom(compute, frames, device)

    if device.type == "cpu":
        batch = max(1, min(BATCH, PART_PIXELS // (frame.width * frame.height)))
        workers = worker_count() if is_single_process() else 1
        rows += prefetch(compute_alone, frames_of(photos, frame, batch=batch), workers)
    else:
        for frames in frames_of(photos, frame, reading_threads(), GPU_BATCH):
            rows.append(retry_on_oom(compute, frames, device))
    return np.concatenate(rows)


def predict_shared(network: Network, photos: Photos, frame: Frame) -> Logits:
    """Logits of photos, float32 (n, labels), in every process; each computes a share."""
    mine, device = photos.take(share_of(len(photos))), next(network.parameters()).device
    return gather_rows(predict(network, mine, frame), len(photos), device)


@dataclass(frozen=True)
class Blend:
    """The share of the fine-tuned weights to keep, its validation logits, and what was tried."""

    share: float
    logits: Logits
    history: History


def choose_blend(
    network: Network,
    start: Tensors,
    end: Tensors,
    dataset: Dataset,
    head_accuracy: float,
    *,
    least_gain: float = MIN_GAIN,
    forced: bool = False,
    trusted: npt.NDArray[np.bool_] | None = None,
) -> Blend:
    """Choose how much of the fine-tuned weights to keep, between the start (0) and the end (1).

    Blends of weights (Wortsman et al. 2022, WiSE-FT) are judged on validation by `expected_gains`; the one
    with the highest expected gain over the start is chosen, if that is more than `least_gain` of the start's
    loss. With `forced` the start itself is no choice. Only `trusted` validation photos judge, (n,), if given.
    Afterwards the network has the weights of the blend.
    """
    validation, tried = dataset.photos("validation"), list[Logits]()
    for share in BLENDS:
        network.load_state_dict(mixed(start, end, share))
        tried.append(predict_shared(network, validation, dataset.frame))
    judging = np.arange(len(validation)) if trusted is None else np.flatnonzero(trusted)
    judges = validation.take(judging)
    losses = np.stack([_calibrated_losses(each[judging], judges) for each in tried])
    gains = expected_gains(losses, judges.groups, head_accuracy)
    best = int(np.argmax(gains[1:])) + 1
    kept = best if forced or gains[best] > least_gain * losses[0].mean() else 0
    network.load_state_dict(mixed(start, end, BLENDS[kept]))
    history = [
        {
            "step": "blend",
            "share": share,
            "validation_log_loss": log_loss(logits, validation.labels),
            "expected_gain": float(gain),
            "kept": number == kept,
        }
        for number, (share, logits, gain) in enumerate(zip(BLENDS, tried, gains, strict=True))
    ]
    return Blend(BLENDS[kept], tried[kept], history)


def _calibrated_losses(logits: Logits, photos: Photos) -> npt.NDArray[np.float64]:
    """The loss of each photo at the temperature that suits these photos, as export will calibrate it."""
    return losses_of(logits / fit_temperature(logits, photos.labels, photos.groups), photos.labels)


def expected_gains(
    losses: npt.NDArray[np.float64], groups: Labels, head_accuracy: float
) -> npt.NDArray[np.float64]:
    """The expected gain in log loss of each blend over the first one, (blends,), from `losses` (blends, n).

    The measured gain, with its variance over groups, is combined with a normal prior: of a poor head, half of
    fine-tuning is expected to save a tenth of the loss, with a standard deviation of a fifth, and all of it
    nothing; of a good head it costs a twentieth, give or take a tenth. So the question is what is expected to
    be better, not what is significantly better, and a good head is left for strong evidence only.
    """
    scale = float(losses[0].mean())
    is_poor = head_accuracy < GOOD_HEAD
    mean, deviation = (0.1, 0.2) if is_poor else (-0.05, 0.1)
    owners = np.unique(groups, return_inverse=True)[1]
    gains = np.zeros(len(losses))
    for number, share in enumerate(BLENDS[1:], 1):
        gain = losses[0] - losses[number]
        variance = clustered_variance((gain - gain.mean()) / len(gain), owners)[0] + 1e-12
        prior = mean * scale * (4 * share * (1 - share) if is_poor else 1 - (1 - share) ** 2)
        prior_variance = (deviation * scale) ** 2 + 1e-12
        gains[number] = (gain.mean() / variance + prior / prior_variance) / (
            1 / variance + 1 / prior_variance
        )
    return gains


def mixed(start: Tensors, end: Tensors, share: float) -> Tensors:
    """The weights between `start` (share 0) and `end` (1)."""
    return {
        name: torch.lerp(tensor, end[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in start.items()
    }


def averaged(ends: Sequence[Tensors]) -> Tensors:
    """The mean of weights that were fine-tuned from the same start."""
    mean = ends[0]
    for number, end in enumerate(ends[1:], 2):
        mean = mixed(mean, end, 1 / number)
    return mean


def copied(network: Network) -> Tensors:
    """A copy of a network's weights."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _identity(
    dataset: Dataset,
    photos: Photos,
    settings: LoopSettings,
    seed: int,
    place: tuple[str | int, ...],
    start: Tensors,
    targets: npt.NDArray[np.float32] | None,
) -> str:
    """A hash of everything that a run depends on: a stopped one resumes only if all of it is the same."""
    soft = {} if targets is None else {"targets": torch.from_numpy(targets)}
    tensors = [digest_tensors(start), digest_tensors(soft)]
    return digest(
        [
            RESUME_VERSION,
            dataset.sha256,
            len(photos),
            vars(settings),
            seed,
            *place,
            *tensors,
            str(torch.__version__),
        ]
    )


def save_state(path: Path, run: str, steps: tuple[int, int], history: History, state: LoopState) -> None:
    """Write the resume file: its sha256, then safetensors; `steps` are those done and all of them."""
    if not is_first_process():
        return
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    for number, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"moments.{number}.{name}": tensor for name, tensor in moments.items()}
    scale = state.scaler.state_dict() if state.scaler else {}
    fields = {"run": run, "step": steps[0], "total": steps[1], "history": history, "scale": scale}
    tensors["fields"] = torch.frombuffer(bytearray(json.dumps(fields).encode()), dtype=torch.uint8)
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_atomically(path, hashlib.sha256(data).digest() + data)


def load_state(path: Path, run: str, state: LoopState) -> tuple[int, History]:
    """Resume a stopped run: the steps that it has done, and its history; 0 if there is none.

    A file that is damaged or of another run is not used, with a warning. Leftovers of a kill are removed.
    """
    sweep(path)
    try:
        data = path.read_bytes()
    except OSError:
        return 0, []
    try:
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise ValueError("its checksum is wrong")
        tensors = load(data[32:])
        fields = json.loads(tensors.pop("fields").numpy().tobytes())
    except (ValueError, KeyError, SafetensorError) as error:
        _warn_first("The resume file %s is damaged (%s); training starts over.", path, error)
        return 0, []
    if fields["run"] != run:
        if fields["step"] != fields["total"]:
            _warn_first(
                "The resume file %s is of another run (other photos, options, device or processes); "
                "training starts over.", path,
            )  # fmt: skip
        return 0, []
    groups: dict[str, Tensors] = {"network": {}, "average": {}, "moments": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        groups[kind][rest] = tensor
    current = state.network.state_dict()
    for name, tensor in groups["network"].items():
        current[name].copy_(tensor)
    for name, tensor in groups["average"].items():
        state.average[name].copy_(tensor)
    moments: dict[int, Tensors] = {}
    for place, tensor in groups["moments"].items():
        number, _, name = place.partition(".")
        moments.setdefault(int(number), {})[name] = tensor
    state.optimiser.load_state_dict({**state.optimiser.state_dict(), "state": moments})
    if state.scaler:
        state.scaler.load_state_dict(fields["scale"])
    return fields["step"], fields["history"]


def _warn_first(message: str, *values: object) -> None:
    """Log a warning in the first process only."""
    if is_first_process():
        logging.getLogger(__name__).warning(message, *values)
