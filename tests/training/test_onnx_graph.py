"""Graphs that torch's exporter writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from catflap.runtime.engine_onnx import open_model
from catflap.training.onnx_graph import to_onnx


class Small(nn.Module):
    """A module whose activation changes its input, as timm's do."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits, float32 (n, 4)."""
        return self.activation(self.convolution(frames.permute(0, 3, 1, 2).float())).mean((2, 3))  # type: ignore[no-any-return]


def test_a_graph_answers_as_its_module_which_stays_as_it_was() -> None:
    torch.manual_seed(0)
    module = Small()
    graph = to_onnx(module, 8, 10)
    assert module.activation.inplace
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), np.uint8)
    with torch.no_grad():
        wanted = module(torch.from_numpy(frames)).numpy()
    assert wanted.max() > 0.1
    np.testing.assert_allclose(open_model(graph)(frames), wanted, atol=1e-5)


@pytest.mark.slow
def test_a_module_gives_the_same_graph_again() -> None:
    module = Small()
    assert to_onnx(module, 8, 8) == to_onnx(module, 8, 8)
