"""A network computes the same with its batch norm folded into its convolutions."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from catflap.image import Frame
from catflap.training.networks.backbone import PACKAGED, SLIM, TINY, Backbone, load_backbone
from catflap.training.networks.folding import folded
from catflap.training.networks.network import Network
from tests.training.small import Small, small_network

FRAME = Frame(48, 40)


def frames(count: int = 4) -> torch.Tensor:
    """Drawn so that nothing inside is as near to 0 or 6 as to have another slope by its last digit."""
    shape = (count, FRAME.height, FRAME.width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def gradients(network: Network) -> dict[str, torch.Tensor]:
    network.zero_grad()
    nn.functional.cross_entropy(network(frames()), torch.tensor([0, 1, 1, 0])).backward()
    given = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert len(given) == len(list(network.parameters()))
    return given


def resnet() -> Backbone:
    """A plain BatchNorm2d after each convolution, where EfficientNets have timm's with the activation."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    return Backbone("resnet18", network, 512, (0.5,) * 3, (0.5,) * 3, "", "none")


@pytest.mark.parametrize("name", [PACKAGED, SLIM, TINY, "resnet18"])
def test_answers_and_gradients_of_all_weights_stay_the_same(name: str) -> None:
    body = resnet() if name == "resnet18" else load_backbone(name)
    network = Network(body, 2).eval()
    answers, slopes = network(frames()), gradients(network)
    names, forward = list(network.state_dict()), {module: module.forward for module in network.modules()}
    pairs = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with folded(network, FRAME) as count:
        assert count == pairs > 0
        assert sum(module.forward != forward[module] for module in network.modules()) == 2 * pairs
        assert torch.allclose(network(frames()), answers, atol=1e-4)
        assert list(network.state_dict()) == names
        for weight, slope in gradients(network).items():
            assert (slope - slopes[weight]).norm() <= 1e-4 * slopes[weight].norm(), weight
    assert all(module.forward == forward[module] for module in network.modules())
    assert torch.equal(network(frames()), answers)


class LooksTwice(Small):
    """What the convolution gives goes to the batch norm and past it."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        seen = self.first(pixels)
        return self.second(self.norm(seen) + seen.relu()).relu().mean((2, 3))


def test_a_network_that_would_answer_otherwise_is_left_as_it_is() -> None:
    network = small_network(LooksTwice)
    network.get_parameter("backbone.norm.weight").data.fill_(3.0)
    answers = network(frames())
    with folded(network, FRAME) as count:
        assert count == 0
        assert torch.equal(network(frames()), answers)


def test_an_error_inside_does_not_leave_it_folded() -> None:
    network = small_network()
    with pytest.raises(RuntimeError), folded(network, FRAME):
        network(frames()[..., :2])
    assert "forward" not in vars(network.backbone.first)
