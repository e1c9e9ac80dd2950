"""One step and one prediction: every number of the page is the one that autograd and ONNX Runtime give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.cli.main import main
from catflap.comparison.explain import explain, mosaic, size
from catflap.errors import BadPhoto, CatflapError
from catflap.image import encode, read_pixels
from catflap.training.network import load_network
from catflap.training.one_step import BACKBONE_RATE, HEAD_RATE, repeat_on_head, take_step
from tests.tiny import Exported, drawn


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "photo.jpg"
    path.write_bytes(encode(drawn("other", 99), "JPEG", quality=90))
    return path


@pytest.fixture(scope="module")
def explained(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, photo: Path
) -> tuple[dict[str, Any], Path]:
    page = photo.with_name("page.html")
    return explain(drawn_checkpoint.path, drawn_bundle.path, photo, page, label="cat"), page


def test_the_step_is_the_one_that_autograd_takes(
    drawn_checkpoint: Checkpoint, explained: tuple[dict[str, Any], Path], photo: Path
) -> None:
    fields = explained[0]["training"]
    network = load_network(drawn_checkpoint)
    frames = torch.from_numpy(read_pixels(photo.read_bytes(), drawn_checkpoint.frame)[None].copy())
    logits = network(frames)
    target = drawn_checkpoint.labels.index("cat")
    loss = -logits.log_softmax(1)[0, target]
    weights = dict(network.named_parameters())
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    np.testing.assert_allclose(fields["logits"], logits[0].detach(), rtol=1e-5)
    assert fields["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert fields["label"] == "cat"
    assert sum(stage["weights"] for stage in fields["stages"]) == sum(map(torch.numel, weights.values()))
    for stage in fields["stages"]:
        mine = [name for name in weights if _stage_of(name) == _first(stage["name"])]
        if stage["name"] in ("conv_stem", "conv_head"):  # with the batch norm that follows
            mine += [name for name in weights if name.startswith({"conv_stem": "backbone.bn1"}.get(
                stage["name"], "backbone.bn2"))]  # fmt: skip
        norm = np.sqrt(sum(float(gradients[name].double().square().sum()) for name in mine))
        rate = HEAD_RATE if stage["name"] == "head" else BACKBONE_RATE
        assert stage["gradient_norm"] == pytest.approx(norm, rel=1e-4), stage["name"]
        assert stage["update_norm"] == pytest.approx(rate * norm, rel=0.02, abs=1e-7), stage["name"]
    with torch.no_grad():
        for name, weight in weights.items():
            weight -= (HEAD_RATE if name.startswith("head") else BACKBONE_RATE) * gradients[name]
        after = network(frames)[0]
    np.testing.assert_allclose(fields["logits_after"], after, rtol=1e-4, atol=1e-5)
    assert fields["loss_after"] < fields["loss"]
    change = fields["change"]
    gradient = gradients["head.weight"][change["label"], change["feature"]].item()
    assert change["gradient"] == pytest.approx(gradient, rel=1e-4)
    assert abs(gradient) == pytest.approx(gradients["head.weight"].abs().max().item(), rel=1e-4)
    assert change["after"] == pytest.approx(change["before"] - HEAD_RATE * gradient, abs=1e-7)


def _first(name: str) -> str:
    return name


def _stage_of(weight: str) -> str:
    """The name of the stage that a weight belongs to: backbone.blocks.3.0.conv.weight is in blocks.3."""
    parts = weight.split(".")
    return parts[0] if parts[0] == "head" else ".".join(parts[1:3]) if parts[1] == "blocks" else parts[1]


def test_fifty_steps_on_the_head_are_those_of_autograd(drawn_checkpoint: Checkpoint, photo: Path) -> None:
    step = take_step(drawn_checkpoint, read_pixels(photo.read_bytes(), drawn_checkpoint.frame), 0)
    found = repeat_on_head(step.features, step.head_weight, step.head_bias, 0)
    head = nn.Linear(len(step.features), len(step.logits)).double()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(step.head_weight))
        head.bias.copy_(torch.from_numpy(step.head_bias))
    optimiser = torch.optim.SGD(head.parameters(), lr=HEAD_RATE)
    features, target = torch.from_numpy(step.features)[None], torch.tensor([0])
    for number in range(51):
        logits = head(features)
        np.testing.assert_allclose(found[number], logits[0].detach(), rtol=1e-9, atol=1e-9)
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, target).backward()
        optimiser.step()
    np.testing.assert_allclose(found[0], step.logits, rtol=1e-4, atol=1e-5)


def test_activations_and_their_gradients_are_the_networks_own(
    drawn_checkpoint: Checkpoint, photo: Path
) -> None:
    frame = read_pixels(photo.read_bytes(), drawn_checkpoint.frame)
    step = take_step(drawn_checkpoint, frame, 0)
    assert [stage.name for stage in step.stages] == [
        "conv_stem", *(f"blocks.{number}" for number in range(5)), "conv_head", "head",
    ]  # fmt: skip
    network: Any = load_network(drawn_checkpoint)
    body = network.backbone
    seen = body.bn1(body.conv_stem(network.normalise(torch.from_numpy(frame[None].copy()))))
    np.testing.assert_allclose(step.stages[0].activations, seen[0].detach(), rtol=1e-4, atol=1e-5)
    middle = body.blocks[:3](seen)
    np.testing.assert_allclose(step.stages[3].activations, middle[0].detach(), rtol=1e-4, atol=1e-4)
    start = middle.detach().requires_grad_()
    last = body.bn2(body.conv_head(body.blocks[3:](start)))
    loss = nn.functional.cross_entropy(network.head(last.mean((2, 3))), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, start)
    np.testing.assert_allclose(step.stages[3].output_gradient, gradient[0], rtol=1e-3, atol=1e-7)
    assert step.stages[-1].activations is None


def test_the_prediction_is_what_onnx_runtime_gives(
    drawn_bundle: Exported, explained: tuple[dict[str, Any], Path], photo: Path
) -> None:
    fields = explained[0]["prediction"]
    bundle = load_bundle(drawn_bundle.path)
    variant = bundle.variant(fields["variant"])
    session = onnxruntime.InferenceSession(bytes(bundle.members[variant.file]))
    frame = read_pixels(photo.read_bytes(), bundle.frame)[None]
    (logits,) = session.run([bundle.head["output"]["name"]], {session.get_inputs()[0].name: frame})
    np.testing.assert_allclose(fields["logits"], logits[0], atol=1e-5)
    powers = np.exp(logits[0].astype(float) / variant.temperature)
    np.testing.assert_allclose(fields["probabilities"], powers / powers.sum(), rtol=1e-6)
    assert fields["frame_bytes"] == frame.nbytes
    assert fields["model_bytes"] == len(bundle.members[variant.file])
    assert {row["variant"] for row in explained[0]["variants"]} == {"int8", "fp32"}


def test_the_page_shows_these_numbers_and_loads_nothing(explained: tuple[dict[str, Any], Path]) -> None:
    fields, path = explained
    page = path.read_text("utf-8")
    assert len(page) < 1.5e6
    assert not re.search(r"(src|href)=.?(https?:)?//", page)
    assert f"{fields['training']['change']['before']:.9f}" in page
    for value in (*fields["prediction"]["logits"], *fields["training"]["logits_after"]):
        assert f"{value:.4f}" in page
    shown = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page)[1])  # type: ignore[index]
    assert [len(rows) for rows in shown.values()] == [51, 51]
    assert [row["decision"] for row in shown["empty"]][-1] == "cat"
    assert page.count("<img") >= 2 * 7


def test_without_a_checkpoint_only_the_prediction_is_shown(
    drawn_bundle: Exported, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = photo.with_name("alone.html")
    assert main(["explain", str(drawn_bundle.path), str(photo), "-o", str(page)]) == 0
    assert "no checkpoint was named" in capsys.readouterr().out
    text = page.read_text("utf-8")
    assert "No checkpoint was named" in text
    assert "<script" not in text


def test_what_cannot_be_explained_is_refused(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, photo: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:300])
    with pytest.raises(BadPhoto, match=r"broken\.jpg"):
        explain(drawn_checkpoint.path, drawn_bundle.path, broken, page)
    with pytest.raises(BadPhoto, match=r"absent\.jpg"):
        explain(None, drawn_bundle.path, tmp_path / "absent.jpg", page)
    with pytest.raises(CatflapError, match="no label 'dog'"):
        explain(drawn_checkpoint.path, drawn_bundle.path, photo, page, label="dog")
    with pytest.raises(CatflapError, match="was not exported from"):
        explain(drawn_checkpoint.path, "cat", photo, page)
    (tmp_path / "mine.html").write_text("my own page")
    with pytest.raises(CatflapError, match="is not such a page"):
        explain(drawn_checkpoint.path, drawn_bundle.path, photo, tmp_path / "mine.html")
    assert not page.exists()


def test_a_mosaic_shows_the_channels_that_vary_most() -> None:
    maps = np.zeros((20, 8, 8), np.float32)
    maps[7, :, 4:] = 1.0
    picture = mosaic(maps)
    side = picture.shape[0] // 35 * 8  # of a tile, of four and their three lines
    assert picture[0, 0] == 0
    assert picture[0, side - 1] == 255
    assert set(np.unique(picture)) == {0, 128, 255}


@pytest.mark.parametrize(("count", "words"), [(0, "0 bytes"), (999, "999 bytes"), (13_452_000, "13.5 MB")])
def test_sizes_are_in_words(count: int, words: str) -> None:
    assert size(count) == words
