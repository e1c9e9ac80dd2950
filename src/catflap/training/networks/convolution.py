"""A convolution that learns quickly on a processor: one step with what limits it, and gradients by parts."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.functional import conv2d, hardtanh, pad
from torch.overrides import TorchFunctionMode

Sizes: TypeAlias = int | tuple[int, ...]
Limits: TypeAlias = tuple[float, float] | None
Gradients: TypeAlias = tuple[torch.Tensor | None, ...]

WIDEST = 3  # columns of a depthwise kernel whose gradient oneDNN has code of its own for
_LIMITS: dict[type, Limits] = {nn.ReLU: (0.0, float("inf")), nn.ReLU6: (0.0, 6.0)}
_PIXELS = [True, False, False]
_ATEN: Any = torch.ops.aten
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)  # as torch's compiler calls it


def limits_of(activation: nn.Module | None) -> Limits:
    """What ReLU and ReLU6 limit their input to; None for everything else."""
    return _LIMITS.get(type(activation))


class QuickConvolution(TorchFunctionMode):
    """While it is entered, a convolution and its `limits`, if any, are one step, quicker on a processor.

    `limits` are the smallest and largest value of the activation after it. The answers are the same, and the
    gradients the same sums. What a layer does before it convolves, such as padding, stays its own.
    """

    def __init__(self, limits: Limits = None) -> None:
        super().__init__()
        self.limits = limits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the place of torch's conv2d, and of nothing else."""
        if function is not conv2d:
            return function(*args, **kwargs or {})
        return self._convolve(*args, **kwargs or {})

    def _convolve(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        gains = self.limits or groups == len(weight) > 1
        known = _ONEDNN is not None and input.device.type == "cpu"
        if gains and known and not isinstance(padding, str):
            how = _pair(stride), _pair(padding), _pair(dilation), groups
            return _Step.apply(*_cast(input, weight, bias), how, self.limits)  # type: ignore[no-any-return]
        seen = conv2d(input, weight, bias, stride, padding, dilation, groups)
        return hardtanh(seen, *self.limits) if self.limits else seen


def _pair(given: Sizes) -> tuple[int, ...]:
    return (given, given) if isinstance(given, int) else tuple(given)


class _Step(torch.autograd.Function):
    """A convolution and its limits, of which only the result is kept for the gradients."""

    @staticmethod
    def forward(
        ctx: Any, pixels: torch.Tensor, weight: torch.Tensor, bias: Any, how: Any, limits: Limits
    ) -> torch.Tensor:
        stride, padding, dilation, groups = ctx.how = how
        after = ("hardtanh", limits, "") if limits else ("none", (), "")
        seen: torch.Tensor = _ONEDNN(pixels, weight, bias, padding, stride, dilation, groups, *after)
        ctx.limits = limits
        ctx.save_for_backward(pixels, weight, seen if limits else None)
        return seen

    @staticmethod
    def backward(ctx: Any, slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pixels, weight, seen = ctx.saved_tensors
        if ctx.limits:
            slopes = _ATEN.hardtanh_backward(slopes, seen, *ctx.limits)
        return *_gradients(slopes, pixels, weight, ctx.how, ctx.needs_input_grad), None, None


def _cast(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    """As autocast does for torch's own convolution."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [None if tensor is None else tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]


def _gradients(
    slopes: torch.Tensor, pixels: torch.Tensor, weight: torch.Tensor, how: Any, wanted: tuple[bool, ...]
) -> Gradients:
    """Those of the pixels, the weight and the bias, where they are wanted.

    oneDNN has no quick code for two of them, both of depthwise convolutions: the weight's of more than
    three columns, for which it multiplies sixteen channels with each other to keep one product of them; and
    in bf16 the pixels' where there is a stride. The first is taken in parts, the second in fp32.
    """
    stride, padding, dilation, groups = how
    depthwise = groups == len(weight) > 1
    weight_and_bias, back = [False, *wanted[1:3]], None
    if wanted[0] and depthwise and max(stride) > 1:
        like = torch.empty_like(pixels, dtype=torch.float32)  # only its shape and layout are looked at
        back = _by_torch((slopes.float(), like, weight.float()), how, _PIXELS)[0].to(pixels.dtype)
    elif wanted[0]:
        back = _by_torch((slopes, pixels, weight), how, _PIXELS)[0]
    in_parts = depthwise and wanted[1] and weight.shape[3] > WIDEST and dilation[1] == 1
    if not in_parts:
        return back, *_by_torch((slopes, pixels, weight), how, weight_and_bias)[1:]

    given, unpadded = torch.empty_like(weight), (stride, (0, 0), dilation, groups)
    width = stride[1] * (slopes.shape[3] - 1) + WIDEST  # of the pixels that three columns see
    for start in _starts(weight.shape[3]):
        columns, left = slice(start, start + WIDEST), padding[1] - start
        seen = pad(pixels, (left, width - pixels.shape[3] - left, padding[0], padding[0]))
        part = slopes, seen, weight[..., columns]
        _, given[..., columns], bias = _by_torch(part, unpadded, weight_and_bias)
    return back, given, bias


def _starts(columns: int) -> list[int]:
    """First columns of parts of three that cover a kernel; the last part may look at some again."""
    return [min(start, columns - WIDEST) for start in range(0, columns, WIDEST)]


def _by_torch(tensors: tuple[torch.Tensor, ...], how: Any, which: list[bool]) -> Any:
    """Gradients of pixels, weight and bias from their slopes, the pixels and the weight."""
    stride, padding, dilation, groups = how
    count = [tensors[2].shape[0]]
    return _ATEN.convolution_backward(
        *tensors, count, stride, padding, dilation, False, (0, 0), groups, which
    )
