"""One training step on one photo, taken apart: activations, loss, gradients, update, and what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from catflap.artifacts.checkpoint import Checkpoint
from catflap.image import Pixels
from catflap.machine import keep_memory
from catflap.training.backbones import DEFAULT_RATE
from catflap.training.network import Network, load_network

HEAD_RATE = 0.005  # as fine-tuning takes it for a good head
BACKBONE_RATE = HEAD_RATE * DEFAULT_RATE
HEAD_STEPS = 50
ROUNDS = 3  # timed; their median counts
HEAD = "head"

Floats: TypeAlias = npt.NDArray[np.float64]
Maps: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """A part of the network in the step; the last one is the head.

    `activations` are its output, float32 (channels, height, width), and `output_gradient` the loss's gradient
    with respect to it, the same shape; both None where the output has no such shape. `weights` counts its
    parameters; the norms (L2) are of all of them together. `ms` is the time of its forward pass.
    """

    name: str
    activations: Maps | None
    output_gradient: Maps | None
    weights: int
    weight_norm: float
    gradient_norm: float
    update_norm: float
    ms: float

    @property
    def bytes(self) -> int:
        """The bytes that the output takes until the backward pass has used it."""
        return 0 if self.activations is None else self.activations.nbytes


@dataclass(frozen=True)
class WeightChange:
    """The weight of the head that the step changes most: its place, and before - rate × gradient = after."""

    label: int
    feature: int
    before: float
    gradient: float
    rate: float
    after: float


@dataclass(frozen=True)
class OneStep:
    """A step of plain gradient descent on one photo, every weight trained, in fp32.

    `logits` and `logits_after` are (labels,), `loss` the cross-entropy with the label `target`; `features`
    (width,) enter the head, whose `head_weight` (labels, width) and `head_bias` (labels,) are those before.
    `ms` has the medians of "forward", "backward" and "update".
    """

    target: int
    stages: tuple[Stage, ...]
    logits: Floats
    loss: float
    logits_after: Floats
    loss_after: float
    change: WeightChange
    features: Floats
    head_weight: Floats
    head_bias: Floats
    ms: dict[str, float]

    @property
    def weights(self) -> int:
        """The number of weights that the step changes."""
        return sum(stage.weights for stage in self.stages)


def take_step(checkpoint: Checkpoint, frame: Pixels, target: int | None = None) -> OneStep:
    """Take one step on a copy of the network, for a frame, uint8 (height, width, 3).

    The loss is the cross-entropy with the label number `target` (default: the likeliest). The head learns at
    HEAD_RATE and the backbone at BACKBONE_RATE, without momentum. Batch norm keeps its statistics, as in
    fine-tuning. It runs on one thread. The Checkpoint on disk is not changed.
    """
    keep_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _take_step(load_network(checkpoint), torch.from_numpy(frame[None].copy()), target)
    finally:
        torch.set_num_threads(threads)


def _take_step(network: Network, frames: torch.Tensor, target: int | None) -> OneStep:
    with torch.inference_mode():
        guess = int(network(frames)[0].argmax())
    label = torch.tensor([guess if target is None else target])
    times = [_pass(network, frames, label)[0] for _ in range(ROUNDS)]
    with _watched(network) as parts:
        forward_ms, logits, features = _pass(network, frames, label, retain=True)
    head = network.head
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    groups = [
        {"params": list(network.backbone.parameters()), "lr": BACKBONE_RATE},
        {"params": list(head.parameters()), "lr": HEAD_RATE},
    ]
    optimiser = torch.optim.SGD(groups, lr=HEAD_RATE)
    start = perf_counter()
    optimiser.step()
    update_ms = (perf_counter() - start) * 1e3
    with torch.inference_mode():
        after = network(frames)
    ms = {name: float(np.median([each[name] for each in (*times, forward_ms)])) for name in forward_ms}
    gradient = _gradient(head.weight)
    place = int(gradient.abs().argmax())
    row, column = divmod(place, head.in_features)
    trio = (each.detach()[row, column].item() for each in (before["head.weight"], gradient, head.weight))
    old, slope, new = trio
    return OneStep(
        target=int(label),
        stages=tuple(part.stage(network, before) for part in parts),
        logits=_floats(logits[0]),
        loss=cross_entropy(_floats(logits[0]), int(label)),
        logits_after=_floats(after[0]),
        loss_after=cross_entropy(_floats(after[0]), int(label)),
        change=WeightChange(row, column, old, slope, HEAD_RATE, new),
        features=_floats(features[0]),
        head_weight=_floats(before["head.weight"]),
        head_bias=_floats(before["head.bias"]),
        ms={**ms, "update": update_ms},
    )


def repeat_on_head(
    features: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike,
    target: int,
    steps: int = HEAD_STEPS,
    rate: float = HEAD_RATE,
) -> Floats:
    """The logits, (steps + 1, labels), of one photo while the head alone learns from it, step by step.

    `features` (width,) do not change; `weight` (labels, width) and `bias` (labels,) are those of the start.
    The gradient of the cross-entropy is (probabilities - one-hot target) × features.
    """
    seen = np.asarray(features, np.float64)
    weights, biases = np.array(weight, np.float64), np.array(bias, np.float64)
    wanted = np.eye(len(biases))[target]
    logits = [weights @ seen + biases]
    for _ in range(steps):
        powers = np.exp(logits[-1] - logits[-1].max())
        error = powers / powers.sum() - wanted
        weights -= rate * np.outer(error, seen)
        biases -= rate * error
        logits.append(weights @ seen + biases)
    return np.array(logits)


def cross_entropy(logits: npt.ArrayLike, target: int) -> float:
    """The loss: minus the logarithm of the target's probability, from logits (labels,), in float64."""
    rows = np.asarray(logits, np.float64)
    return float(np.logaddexp.reduce(rows - rows[target]))


class _Part:
    """A part of the network and what hooks saw of it; parts that only normalise belong to the one before."""

    def __init__(self, name: str, modules: list[nn.Module]) -> None:
        self.name = name
        self.modules = modules
        self.output: torch.Tensor | None = None
        self.gradient: torch.Tensor | None = None
        self.ms = 0.0

    def saw(self, output: Any, ms: float) -> None:
        """Keep an output and, once the backward pass reaches it, its gradient."""
        self.ms += ms
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.is_floating_point():
            self.output = output.detach().clone()
            if output.requires_grad:
                output.register_hook(self._saw_gradient)  # type: ignore[no-untyped-call]

    def _saw_gradient(self, gradient: torch.Tensor) -> None:
        self.gradient = gradient.detach().clone()

    def stage(self, network: Network, before: dict[str, torch.Tensor]) -> Stage:
        """The part as numbers; `before` are the weights before the update."""
        mine = {id(weight) for module in self.modules for weight in module.parameters()}
        named = [(before[name], now) for name, now in network.named_parameters() if id(now) in mine]
        return Stage(
            self.name,
            None if self.output is None else self.output[0].numpy(),
            None if self.gradient is None else self.gradient[0].numpy(),
            sum(now.numel() for _, now in named),
            _norm([old for old, _ in named]),
            _norm([_gradient(now) for _, now in named]),
            _norm([now.detach() - old for old, now in named]),
            self.ms,
        )


@contextmanager
def _watched(network: Network) -> Iterator[list[_Part]]:
    """The network's parts, whose outputs and times the next pass fills in."""
    parts: list[_Part] = []
    for name, module in [*_children(network.backbone), (HEAD, network.head)]:
        has_weights = next(module.parameters(), None) is not None
        if parts and (isinstance(module, nn.BatchNorm2d) or not has_weights):
            parts[-1].modules.append(module)
        elif has_weights:
            parts.append(_Part(name, [module]))
    clock = [perf_counter()]

    def hook(part: _Part) -> Callable[[nn.Module, Any, Any], None]:
        def saw(_: nn.Module, __: Any, output: Any) -> None:
            now = perf_counter()
            part.saw(output, (now - clock[0]) * 1e3)
            clock[0] = perf_counter()

        return saw

    def begin(*_: Any) -> None:
        clock[0] = perf_counter()

    handles = [network.register_forward_pre_hook(begin)]
    for part in parts:
        handles += [module.register_forward_hook(hook(part)) for module in part.modules]
    try:
        yield parts
    finally:
        for handle in handles:
            handle.remove()


def _children(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The backbone's children in order; of a sequence of several parts, these."""
    for name, child in backbone.named_children():
        inner = list(child.named_children())
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(inner) > 1:
            yield from ((f"{name}.{number}", part) for number, part in inner)
        else:
            yield name, child


def _pass(
    network: Network, frames: torch.Tensor, label: torch.Tensor, *, retain: bool = False
) -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
    """One forward and backward pass: milliseconds, logits, features; with `retain` gradients stay."""
    network.zero_grad(set_to_none=True)
    entered: list[torch.Tensor] = []
    handle = network.head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].detach()))
    start = perf_counter()
    logits = network(frames)
    loss = nn.functional.cross_entropy(logits, label)
    middle = perf_counter()
    torch.autograd.backward(loss)
    end = perf_counter()
    handle.remove()
    if not retain:
        network.zero_grad(set_to_none=True)
    ms = {"forward": (middle - start) * 1e3, "backward": (end - middle) * 1e3}
    return ms, logits.detach(), entered[0]


def _gradient(weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _norm(tensors: list[torch.Tensor]) -> float:
    return float(
        torch.sqrt(sum((each.double().square().sum() for each in tensors), torch.tensor(0.0).double()))
    )


def _floats(tensor: torch.Tensor) -> Floats:
    return tensor.double().numpy()
