"""GPUs, as far as a machine without one can tell: where networks stay, and what too little memory does."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from catflap.artifacts.dataset import Dataset, Photos
from catflap.errors import CatflapError
from catflap.image import Frame
from catflap.progress import silent
from catflap.training.backbones import Backbone, digest_tensors
from catflap.training.cost import count_flops
from catflap.training.distributed import fastest_precision, open_fabric, pick_device
from catflap.training.features import Extractor, open_extractor
from catflap.training.finetune import LoopSettings, _judge, predict, train_weights
from catflap.training.head import Head
from catflap.training.plan import Plan
from catflap.training.search import (
    OVERHEAD,
    Clock,
    seconds_a_photo,
    seconds_of_features,
    seconds_to_load,
)
from catflap.training.train import assemble, train
from tests.training.small import Small, small_network

ONCE = LoopSettings(epochs=2, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5)
FRAME = Frame(32, 32)
SETTINGS = LoopSettings(epochs=10)


@pytest.fixture(autouse=True)
def one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a batch follow each other, as on a GPU."""
    for room in ("finetune", "search"):
        monkeypatch.setattr(f"catflap.training.{room}.takes_parts", lambda *_: False)


class Narrow(Small):
    """A GPU whose memory holds four photos: more raise what torch raises."""

    most = 4
    error: type[RuntimeError] = torch.OutOfMemoryError
    seen: list[int] = []  # noqa: RUF012

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.training or torch.is_grad_enabled():
            self.seen.append(len(pixels))
            if len(pixels) > self.most:
                raise self.error("out of memory")
        return super().forward(pixels)


class Apple(Narrow):
    """Where torch raises nothing more special."""

    error = RuntimeError


class Full(Narrow):
    most = 0


class Broken(Small):
    """A RuntimeError that is about something else."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a kernel failed")


@pytest.mark.parametrize("kind", [Narrow, Apple])
def test_a_gpu_out_of_memory_gets_half_the_photos_and_learns_the_same(
    drawn_dataset: Dataset, tmp_path: Path, kind: type[Small]
) -> None:
    whole, narrow = small_network(), small_network(kind)
    Narrow.seen.clear()
    for number, network in enumerate((whole, narrow)):
        train_weights(network, drawn_dataset, tmp_path / str(number), ONCE, 0, "cpu", silent)
    assert Narrow.seen[:3] == [8, 4, 4]
    assert max(Narrow.seen[1:]) == 4, "the size that fitted is kept"
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor.float(), narrow.state_dict()[name].float(), atol=1e-5), name


def test_another_error_of_a_gpu_is_no_lack_of_memory(drawn_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a kernel failed"):
        train_weights(small_network(Broken), drawn_dataset, tmp_path / "resume", ONCE, 0, "cpu", silent)


def test_a_gpu_without_memory_for_one_photo_is_one_error(drawn_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="too little memory for 1 photos"):
        train_weights(small_network(Full), drawn_dataset, tmp_path / "resume", ONCE, 0, "cpu", silent)


class Held(torch.autograd.Function):
    """What a forward pass keeps of each photo until backward, and the room that backward needs beside it."""

    most = 16
    held: dict[int, int] = {}  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor) -> torch.Tensor:
        Held.refuse(len(features))
        Held.held[id(ctx)] = len(features)
        ctx.kept = features.clone()
        weakref.finalize(ctx.kept, Held.held.pop, id(ctx))
        return features * 1

    @staticmethod
    def backward(ctx: Any, slopes: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        Held.refuse(len(slopes))
        return slopes

    @staticmethod
    def refuse(more: int) -> None:
        if sum(Held.held.values()) + more > Held.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


class Keeps(Small):
    """A GPU whose memory holds the graph of 16 photos, or of eight where backward works on them."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = super().forward(pixels)
        return Held.apply(features) if torch.is_grad_enabled() else features  # type: ignore[no-any-return]


def backbone(kind: type[Small]) -> Backbone:
    network = kind().eval()
    sha256 = digest_tensors(network.state_dict())
    return Backbone("small", network, 16, (0.5,) * 3, (0.5,) * 3, sha256, "none")


def test_a_backbone_stays_where_it_is_when_its_features_are_worked_out() -> None:
    """Else its head would be on the CPU and it on a GPU. What is on "meta" was moved as a GPU's is."""
    body = backbone(Small)
    open_extractor(body, FRAME, device="meta")
    assert {str(weight.device) for weight in body.network.parameters()} == {"cpu"}
    head = Head(np.zeros((2, 16), np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert min(count_flops(assemble(body, head), FRAME)) > 0


def test_what_a_failed_step_held_is_let_go_of(
    drawn_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory ends in backward, when a graph of 16 photos is there; two of eight fit one after the other."""
    once = replace(ONCE, batch=16)
    whole, halved = small_network(), small_network(Keeps)
    for number, network in enumerate((whole, halved)):
        train_weights(network, drawn_dataset, tmp_path / str(number), once, 0, "cpu", silent)
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor.float(), halved.state_dict()[name].float(), atol=1e-5), name
    (message,) = (record.getMessage() for record in caplog.records)
    assert "too little memory for 16 photos at once; gradients are accumulated over 8" in message


def test_the_clock_times_what_fits(drawn_dataset: Dataset) -> None:
    Narrow.seen.clear()
    assert seconds_a_photo(small_network(Narrow), drawn_dataset, SETTINGS, "cpu", "32-true") > 0
    assert [photos for photos in Narrow.seen if photos > 1] == [32, 16, 8, 4, 4, 4]
    with pytest.raises(CatflapError, match="too little memory for 1 photos"):
        seconds_a_photo(small_network(Full), drawn_dataset, SETTINGS, "cpu", "32-true")


def test_before_a_gpu_the_clock_counts_the_loading(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that takes longer than the network, which is so of large photos."""
    assert seconds_to_load(drawn_dataset, SETTINGS) > 0
    network = small_network()
    monkeypatch.setattr("catflap.training.search.seconds_a_photo", lambda *_: 1e-9)
    monkeypatch.setattr("catflap.training.search.seconds_to_load", lambda *_: 1.0)
    monkeypatch.setattr("catflap.training.search.perf_counter", lambda: 100.0)
    fit = {
        device: Clock(300.5, 0.0, device, "32-true").epochs(network, drawn_dataset, SETTINGS)
        for device in ("cpu", "cpu:0")
    }
    train, validation = (drawn_dataset.roles[role] for role in ("train", "validation"))
    assert fit == {
        "cpu": 10,
        "cpu:0": int((200 - 5 * validation) / (1.25 * (train + (train + validation) / 3) + validation)),
    }


def test_before_a_gpu_features_wait_for_their_photos(
    drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = Extractor(lambda frames: np.zeros((len(frames), 1), np.float32), FRAME, 1, "", batch=64)
    photos = drawn_dataset.photos("train")
    now = 0.0

    def slow(photos: Photos, *_: object) -> Iterator[None]:
        nonlocal now
        for _ in range(len(photos)):
            yield
            now += 0.01

    monkeypatch.setattr("catflap.training.search.perf_counter", lambda: now)
    monkeypatch.setattr("catflap.training.search.frames_of", slow)
    assert seconds_of_features(extractor, photos, "cpu") == 0.0
    assert seconds_of_features(extractor, photos, "cpu:0") == pytest.approx(0.01 * OVERHEAD)


@pytest.mark.parametrize(
    ("name", "capability", "precision"),
    [
        ("NVIDIA A100-SXM4-40GB", (8, 0), "bf16-mixed"),
        ("Tesla T4", (7, 5), "16-mixed"),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), "32-true"),
        ("Tesla P40", (6, 1), "32-true"),
    ],
)
def test_a_gpu_gets_the_numbers_that_it_is_quick_in(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], precision: str
) -> None:
    """Of the GPU that is asked for; a T4 only imitates bf16, and a GTX 16 gives what is no number in fp16."""
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:1": name}.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {"cuda:1": capability}.__getitem__)
    assert fastest_precision("cuda:1") == precision


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_this_torch_cannot_use_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever its driver says of it. There is none here, so that it cannot be used either."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == "cpu"
    assert "torch cannot use the GPU" in caplog.text
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CatflapError, match="no device 'cuda'"):  # the others may have theirs
        pick_device("auto")


def test_fp32_is_not_tf32() -> None:
    torch.backends.cudnn.allow_tf32 = True
    pick_device("cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_each_of_many_processes_has_its_gpu_before_anything_is_worked_out(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the precision: it is Fabric that tells torch which GPU is whose."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")

    class Opened(Exception):
        pass

    def opened(device: str) -> None:
        raise Opened

    with pytest.raises(CatflapError, match="Each of 2 processes takes a device of its own") as refused:
        open_fabric("cuda:1")
    assert refused.value.fix == "Use --device cuda."
    monkeypatch.setattr("catflap.training.train.open_fabric", opened)
    with pytest.raises(Opened):
        train(drawn_dataset, tmp_path / "out", Plan(precision="fp32"), device="cpu")


def test_validation_is_summed_up_where_there_is_float64(drawn_dataset: Dataset) -> None:
    """Not on the device, which may be Apple's; "meta" has no numbers that could be read at all."""
    fabric: Any = SimpleNamespace(device=torch.device("meta"), world_size=1, global_rank=0)
    network = small_network()
    judged = _judge(fabric, network, dict(network.state_dict()), drawn_dataset)
    assert judged["validation_log_loss"] > 0


class Looks(Small):
    """A GPU whose memory holds three photos that are looked at."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 3 and not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(pixels)


class Blind(Small):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_features_and_answers_come_in_halves_where_memory_is_short(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    torch.manual_seed(0)
    narrow = backbone(Looks)
    whole = Small().eval()
    whole.load_state_dict(narrow.network.state_dict())
    wide = replace(narrow, network=whole)
    one, other = (open_extractor(body, FRAME, device="cpu:0").model(frames) for body in (wide, narrow))
    assert np.allclose(one, other, atol=1e-3)
    with pytest.raises(CatflapError, match="too little memory for 1 photos"):
        open_extractor(backbone(Blind), FRAME, device="cpu:0").model(frames)
    known = drawn_dataset.photos("validation")
    logits = [predict(small_network(kind), known, drawn_dataset.frame) for kind in (Small, Looks)]
    assert np.allclose(*logits, atol=1e-5)
