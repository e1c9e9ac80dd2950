"""Graphs that torch's exporter writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from catflap.runtime.engine_onnx import open_model
from catflap.training.network import Network
from catflap.training.onnx_graph import to_onnx
from tests.tiny import kept_graph
from tests.training.small import small_backbone


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


@pytest.mark.slow
def test_a_kept_graph_with_another_head_is_the_graph_of_that_head(tmp_path: Path) -> None:
    """As tests/tiny.py gives it to every test that exports."""
    networks = [Network(small_backbone(), 2).eval() for _ in range(2)]
    torch.nn.init.normal_(networks[1].head.weight)
    torch.nn.init.normal_(networks[1].head.bias)
    kept = [kept_graph(tmp_path, network, 16, 16) for network in networks]
    assert kept == [to_onnx(network, 16, 16) for network in networks]
    assert kept[0] != kept[1]
    assert len(list(tmp_path.glob("*.onnx"))) == 1
