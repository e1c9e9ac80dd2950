"""Every target is written, run on its real runtime and judged, where its tools are installed."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.golden import read_golden
from catflap.cli.main import main
from catflap.errors import CatflapError, MissingExtra
from catflap.exporting.export import export
from catflap.exporting.judging import load_source
from catflap.exporting.quantise import FLOAT_LAYERS
from catflap.exporting.rounding import convolution_weights
from catflap.exporting.target import (
    Form,
    convert,
    form_of,
    load_targets,
    read_model_file,
    run_converter,
    variant_names,
)
from catflap.pipeline.evaluate import evaluate
from catflap.runtime.engine import open_members
from catflap.verification.verify import verify

TOOLS = {
    "onnx": "onnxruntime",
    "onnx-frame": "onnx",
    "litert": "ai_edge_litert",
    "litert-micro": "litert_torch",
    "openvino": "nncf",
    "ncnn": "pnnx",
    "executorch": "executorch",
}


def test_targets_stand_for_their_variants() -> None:
    assert variant_names(["litert"], ["fp32"]) == ("fp32", "litert-int8", "litert-fp32")
    assert set(TOOLS) | {"coreml", "triton"} == set(load_targets())
    with pytest.raises(CatflapError, match="no target 'abacus'"):
        variant_names(["abacus"])


def forms() -> dict[str, Form]:
    return {name: form for target in load_targets().values() for name, form in target.forms.items()}


def test_no_two_forms_share_a_file() -> None:
    files = [member for form in forms().values() for member in form.members]
    assert len(set(files)) == len(files)


def test_a_file_made_elsewhere_brings_its_weights(tmp_path: Path) -> None:
    (tmp_path / "mine.param").write_bytes(b"graph")
    with pytest.raises(CatflapError, match=r"mine\.bin cannot be read"):
        read_model_file(tmp_path / "mine.param", "mine", "fp32")
    (tmp_path / "mine.bin").write_bytes(b"weights")
    form, files = read_model_file(tmp_path / "mine.param", "mine", "fp32")
    assert form.runtime == "ncnn"
    assert files == {"targets/other/mine.param": b"graph", "targets/other/mine.bin": b"weights"}
    with pytest.raises(CatflapError, match="the suffix of no known runtime"):
        read_model_file(tmp_path / "mine.h5", "mine", "fp32")
    for name in ("../mine", "", "-mine", "m" * 95):
        with pytest.raises(CatflapError, match="cannot be named"):
            read_model_file(tmp_path / "mine.param", name, "fp32")


def test_a_file_made_elsewhere_never_lies_where_one_of_ours_does(tmp_path: Path) -> None:
    ours = {member for form in forms().values() for member in form.members}
    for file in {form.file for form in forms().values()} - {form_of("coreml-fp32").file}:
        path = tmp_path / Path(file).name
        for part in (path, path.with_suffix(".bin")):
            part.write_bytes(b"")
        form, _ = read_model_file(path, path.stem, "fp32")
        assert not ours & set(form.members)


def test_a_converter_that_fails_or_crashes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """`work` of these modules of the standard library does not exist, or is killed by the system."""
    home = Path(__file__).parents[2]  # the new process looks only in folders that are named
    monkeypatch.setenv("PYTHONPATH", str(home), prepend=os.pathsep)
    with pytest.raises(CatflapError, match="The conversion for antigravity_no failed: ModuleNotFoundError"):
        run_converter("antigravity_no", {}, ())
    with pytest.raises(CatflapError, match=r"The conversion for crashing failed: it crashed \(SIGSEGV\)"):
        run_converter("tests.exporting.crashing", {}, ())


def not_utf8(checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """A copy in a folder whose name is not UTF-8, as converters have to stand; itself where none can be."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(checkpoint.path, folder)
    except OSError:
        return checkpoint
    return load_checkpoint(folder)


@pytest.mark.slow
@pytest.mark.parametrize("target", TOOLS)
def test_a_target_keeps_what_the_checkpoint_says(
    installed_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, target: str
) -> None:
    pytest.importorskip(
        TOOLS[target], reason=f"what writes {target} is not installed: docs/reference/targets.md"
    )
    # The float weights of ncnn are those of test_unknown.py: each conversion is a process that loads torch.
    names = ("ncnn-fp16",) if target == "ncnn" else variant_names([target])
    path = tmp_path / "new.catflap"
    export(not_utf8(installed_checkpoint, tmp_path), drawn_dataset, path, variants=names)
    verdict = verify(path)
    assert verdict.passed
    assert {f"golden:{name}" for name in names} <= {check.name for check in verdict.checks}
    bundle = load_bundle(path)
    for name in names:  # a runtime may point into bytes that Python has let go
        model = open_members(
            {member: bytes(bundle.members[member]) for member in bundle.variant(name).members},
            bundle.variant(name),
        )
        gc.collect()
        rubbish = [bytes([n]) * 200_000 for n in range(200)]
        golden = read_golden(bundle)
        difference = np.abs(model(golden.frames) - golden.logits[name]).max()
        assert len(rubbish) == 200
        assert difference <= bundle.variant(name).tolerance
    report = evaluate(path, drawn_dataset.path, tmp_path / "report")
    for name, variant in load_bundle(path).variants.items():
        assert report.variants[name]["accuracy"] == variant.metrics["accuracy"]
        if variant.precision == "fp32" and not variant.takes_photos:
            assert variant.fidelity["flips"] == 0
            assert variant.fidelity["max_probability_difference"] <= 1e-3


@pytest.mark.slow
def test_a_target_whose_tools_are_absent_names_the_extra(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catflap.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[targets\]"):
        export(drawn_checkpoint, drawn_dataset, tmp_path / "new.catflap", variants=("openvino-fp16",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_litert_in_int8_has_the_rounded_weights_behind_two_float_layers(
    installed_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    pytest.importorskip(TOOLS["litert"], reason="LiteRT is not installed: docs/reference/targets.md")
    from catflap.exporting.targets.to_litert import _convolutions, _laid_out, _opened

    source = load_source(installed_checkpoint, drawn_dataset)
    (written,) = convert("litert-int8", source).values()
    model, wanted = _opened(written), convolution_weights(source.rounded).values()
    *network, _ = _convolutions(model)  # the last one makes activation maps from the head's weights
    kinds = []
    for (code, operator, tensors), rounded in zip(network, wanted, strict=True):
        tensor, expected = tensors[operator.inputs[1]], _laid_out(rounded, code)
        kind = np.int8 if tensor.quantization and tensor.quantization.scale is not None else np.float32
        kinds.append(kind)
        found = np.frombuffer(model.buffers[tensor.buffer].data.tobytes(), kind).reshape(expected.shape)
        if kind == np.int8:
            steps = tensor.quantization.scale
            found = found * (steps if expected.shape[0] == 1 else steps[:, None, None, None])
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert kinds == [np.float32] * FLOAT_LAYERS + [np.int8] * (len(kinds) - FLOAT_LAYERS)


PLUGIN = """
from catflap.exporting.target import Form, Target

def convert(form, source):
    return (source.onnx,)

def unpack(bundle, out):
    out.mkdir()
    (out / "labels.txt").write_text("\\n".join(bundle.labels))
    return {"folder": str(out)}

TARGET = Target("acme", {"acme-fp32": Form("onnxruntime", "fp32", "targets/acme/fp32.onnx")}, convert, unpack)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody else that is installed: a module and a dist-info with an entry point."""
    site = tmp_path / "site"
    info = site / "acme_catflap-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_catflap.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-catflap\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[catflap.targets]\nacme = acme_catflap:TARGET\n")
    monkeypatch.syspath_prepend(site)
    load_targets.cache_clear()
    yield site
    load_targets.cache_clear()


@pytest.mark.slow
def test_another_package_adds_a_target(
    plugin: Path, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "new.catflap"
    export(drawn_checkpoint, drawn_dataset, out, variants=variant_names(["acme"]))
    assert verify(out).passed
    assert load_bundle(out).variant("acme-fp32").file == "targets/acme/fp32.onnx"
    assert main(["bundle", "unpack", str(out), "-o", str(tmp_path / "acme"), "--for", "acme"]) == 0
    assert (tmp_path / "acme" / "labels.txt").read_text() == "cat\nother"


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ("TARGET = 1", "is a int, not a Target"),
        ("import no_such_module", "does not load"),
        (PLUGIN.replace('"acme-fp32"', '"int8"'), "Two targets are called acme or write a variant int8"),
    ],
)
def test_a_broken_target_of_another_package_is_named(plugin: Path, broken: str, what: str) -> None:
    sys.modules.pop("acme_catflap", None)
    (plugin / "acme_catflap.py").write_text(broken)
    with pytest.raises(CatflapError, match=what):
        variant_names(["acme"])


def test_a_target_is_removed_with_its_file(repo: Path, tmp_path: Path) -> None:
    """A copy of the package without the rare targets still knows, and writes, the others."""
    shutil.copytree(repo / "src" / "catflap", tmp_path / "catflap", ignore=shutil.ignore_patterns("shipped"))
    for name in ("ncnn", "executorch", "coreml", "triton", "litert_micro"):
        (tmp_path / "catflap" / "exporting" / "targets" / f"to_{name}.py").unlink()
    code = "from catflap.exporting.target import load_targets; print(*load_targets())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["litert", "onnx", "onnx-frame", "openvino"]
