"""What nothing here can run is converted, checked layer by layer and carried; nobody takes it for tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.cli.main import main
from catflap.errors import CatflapError, MissingExtra
from catflap.exporting.export import export
from catflap.exporting.targets.to_coreml import layer_by_layer
from catflap.image import read_pixels
from catflap.training.network import open_checkpoint
from catflap.verification.verify import verify
from tests.artifacts.samples import write_bundle
from tests.tiny import Exported

FILE = "targets/coreml/fp32.mlmodel"


@pytest.fixture(scope="module")
def carrying(drawn_bundle: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a form that was never run."""
    bundle = load_bundle(drawn_bundle.path)
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    head["untested"] = {"coreml-fp32": {"file": FILE, "runtime": "coreml", "precision": "fp32"}}
    files = {name: bytes(data) for name, data in bundle.members.items() if name != HEAD}
    path = tmp_path_factory.mktemp("carrying") / "tiny.catflap"
    write_bundle(path, head, {**files, FILE: b"a model"})
    return path


def answered(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_the_verdict_says_that_it_did_not_run(carrying: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reported = answered(capsys, "verify", carrying)
    assert reported["verdict"] == "pass"
    assert "coreml, which Catflap cannot run here" in reported["not_run"]["coreml-fp32"]
    assert "golden:coreml-fp32" not in {check["name"] for check in reported["checks"]}
    assert answered(capsys, "verify", carrying, "--variants", "coreml-fp32", code=2)
    (carrying.parent / "x.jpg").write_bytes(b"")
    assert answered(capsys, "predict", carrying, "x.jpg", "--variant", "coreml-fp32", code=2)


def test_it_is_shown_carried_and_left_out(
    carrying: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered(capsys, "bundle", "inspect", carrying)["untested"]["coreml-fp32"]["file"] == FILE
    names = {part["name"] for part in answered(capsys, "bundle", "sbom", carrying)["components"]}
    assert FILE in names
    answered(capsys, "bundle", "unpack", carrying, "-o", tmp_path / "files")
    assert (tmp_path / "files" / FILE).read_bytes() == b"a model"
    small = tmp_path / "small.catflap"
    answered(capsys, "bundle", "strip", carrying, "-o", small, "--variants", "int8")
    assert load_bundle(small).untested == {}
    assert FILE not in load_bundle(small).members


def test_a_file_that_a_tested_variant_runs_stays(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(drawn_bundle.path)
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    head["untested"] = {"tpu": {"file": "int8.onnx", "runtime": "tpu9", "precision": "int8"}}
    files = {name: bytes(data) for name, data in bundle.members.items() if name != HEAD}
    write_bundle(tmp_path / "shared.catflap", head, files)
    out = tmp_path / "small.catflap"
    answered(capsys, "bundle", "strip", tmp_path / "shared.catflap", "-o", out, "--variants", "int8")
    assert "int8.onnx" in load_bundle(out).members


def test_it_is_never_the_only_one(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.catflap"
    with pytest.raises(CatflapError, match="nothing would be tested"):
        export(drawn_checkpoint, drawn_dataset, out, variants=("coreml-fp32",))
    monkeypatch.setattr("catflap.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[coreml\]"):
        export(drawn_checkpoint, drawn_dataset, out, variants=("int8", "coreml-fp32"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_core_ml_is_written_and_its_layers_answer_as_the_checkpoint(
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    drawn_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    coremltools = pytest.importorskip("coremltools", reason="coremltools is not installed: catflap[coreml]")
    import torch

    paths = [tmp_path / "exported.catflap", tmp_path / "added.catflap"]
    reported = export(drawn_checkpoint, drawn_dataset, paths[0], variants=("coreml-fp32", "int8"))
    assert (reported["default_variant"], list(reported["variants"])) == ("int8", ["int8"])
    assert reported["untested"] == ["coreml-fp32"]
    words = ["--checkpoint", drawn_checkpoint.path, "--variants", "coreml-fp32"]
    answered(capsys, "bundle", "add", drawn_bundle.path, "-o", paths[1], *words)
    exported, added = (load_bundle(path) for path in paths)
    assert exported.members[FILE] == added.members[FILE]  # the same checkpoint, the same bytes
    assert all(
        "never run: coreml-fp32" in bytes(one.members["card.md"]).decode() for one in (exported, added)
    )
    assert verify(paths[0]).passed
    (tmp_path / "fp32.mlmodel").write_bytes(added.members[FILE])
    spec = coremltools.utils.load_spec(str(tmp_path / "fp32.mlmodel"))
    (given,), (logits,) = spec.description.input, spec.description.output
    assert (given.name, list(given.type.multiArrayType.shape)) == ("pixels", [1, 64, 64, 3])
    assert (logits.name, list(logits.type.multiArrayType.shape)) == ("logits", [1, 2])
    photos = drawn_dataset.photos("test")
    frames = np.stack([read_pixels(photos[n], drawn_dataset.frame) for n in range(3)])
    expected = open_checkpoint(drawn_checkpoint)(frames)
    floats = torch.from_numpy(frames).float()
    got = np.concatenate([layer_by_layer(spec, floats[n : n + 1])["logits"].numpy() for n in range(3)])
    assert np.abs(got - expected).max() < 1e-3
    spec.neuralNetwork.layers[-1].innerProduct.bias.floatValue[0] += 1
    assert np.abs(layer_by_layer(spec, floats[:1])["logits"].numpy() - expected[:1]).max() > 1e-3
    spec.neuralNetwork.layers[-1].softmax.SetInParent()
    with pytest.raises(ValueError, match="softmax"):
        layer_by_layer(spec, floats[:1])
