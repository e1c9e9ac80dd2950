"""Every target is written, run on its real runtime and judged, where its tools are installed."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.golden import read_golden
from catflap.errors import CatflapError, MissingExtra
from catflap.exporting.export import export, source_of
from catflap.exporting.forms import FORMS, PACKAGES, made_elsewhere, make, variant_names
from catflap.exporting.quantising.quantise import FLOAT_LAYERS
from catflap.exporting.quantising.rounding import convolution_weights
from catflap.exporting.subprocesses import convert_apart
from catflap.pipeline.evaluate import evaluate
from catflap.progress import silent
from catflap.runtime.engine import open_members
from catflap.verification.verify import verify

TOOLS = {
    "onnx": "onnxruntime",
    "onnx-frame": "onnx",
    "litert": "litert_torch",
    "litert-micro": "litert_torch",
    "openvino": "nncf",
    "ncnn": "pnnx",
    "executorch": "executorch",
}


def test_targets_stand_for_their_variants() -> None:
    assert variant_names(["litert"], ["fp32"]) == ("fp32", "litert-int8", "litert-fp32")
    assert {form.target for form in FORMS.values()} == set(PACKAGES)
    with pytest.raises(CatflapError, match="no target 'abacus'"):
        variant_names(["abacus"])


def test_no_two_forms_share_a_file() -> None:
    files = [member for form in FORMS.values() for member in form.members]
    assert len(set(files)) == len(files)


def test_a_file_made_elsewhere_brings_its_weights(tmp_path: Path) -> None:
    (tmp_path / "mine.param").write_bytes(b"graph")
    with pytest.raises(CatflapError, match=r"mine\.bin cannot be read"):
        made_elsewhere(tmp_path / "mine.param", "mine", "fp32")
    (tmp_path / "mine.bin").write_bytes(b"weights")
    form, files = made_elsewhere(tmp_path / "mine.param", "mine", "fp32")
    assert form.runtime == "ncnn"
    assert files == {"targets/other/mine.param": b"graph", "targets/other/mine.bin": b"weights"}
    with pytest.raises(CatflapError, match="no runtime that Catflap knows"):
        made_elsewhere(tmp_path / "mine.h5", "mine", "fp32")
    for name in ("../mine", "", "-mine", "m" * 95):
        with pytest.raises(CatflapError, match="cannot be named"):
            made_elsewhere(tmp_path / "mine.param", name, "fp32")


def test_a_file_made_elsewhere_never_lies_where_one_of_ours_does(tmp_path: Path) -> None:
    ours = {member for form in FORMS.values() for member in form.members}
    for file in {form.file for form in FORMS.values()} - {FORMS["coreml-fp32"].file}:
        path = tmp_path / Path(file).name
        for part in (path, path.with_suffix(".bin")):
            part.write_bytes(b"")
        form, _ = made_elsewhere(path, path.stem, "fp32")
        assert not ours & set(form.members)


def test_a_converter_that_fails_or_crashes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """`work` of these modules of the standard library does not exist, or is killed by the system."""
    home = Path(__file__).parents[2]  # the new process looks in no folder that it was not told of
    monkeypatch.setenv("PYTHONPATH", str(home), prepend=os.pathsep)
    with pytest.raises(CatflapError, match="cannot be converted for antigravity_no: ModuleNotFoundError"):
        convert_apart("antigravity_no", {}, ())
    with pytest.raises(CatflapError, match=r"cannot be converted for crashing: it crashed \(SIGSEGV\)"):
        convert_apart("tests.exporting.crashing", {}, ())


@pytest.mark.slow
@pytest.mark.parametrize("target", TOOLS)
def test_a_target_keeps_what_the_checkpoint_says(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, target: str
) -> None:
    pytest.importorskip(
        TOOLS[target], reason=f"what writes {target} is not installed: docs/reference/targets.md"
    )
    names = variant_names([target])
    path = tmp_path / "new.catflap"
    export(drawn_checkpoint, drawn_dataset, path, variants=names)
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


def test_a_target_whose_tools_are_absent_names_the_extra(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catflap.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"catflap\[targets\]"):
        export(drawn_checkpoint, drawn_dataset, tmp_path / "new.catflap", variants=("openvino-fp16",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litert-fp32", "ncnn-fp32", "executorch-fp32"])
def test_a_checkpoint_may_lie_in_a_folder_that_is_not_utf8(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, name: str
) -> None:
    tool = TOOLS[FORMS[name].target]
    pytest.importorskip(tool, reason=f"{tool} is not installed: docs/reference/targets.md")
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(drawn_checkpoint.path, folder)
    except OSError:
        pytest.skip("this file system has no such names")
    source = source_of(load_checkpoint(folder), drawn_dataset, silent)
    assert all(make(FORMS[name], source).values())


@pytest.mark.slow
def test_litert_in_int8_has_the_rounded_weights_behind_two_float_layers(
    drawn_checkpoint: Checkpoint, drawn_dataset: Dataset
) -> None:
    pytest.importorskip(TOOLS["litert"], reason="litert_torch is not installed: docs/reference/targets.md")
    from catflap.exporting.targets.litert_file import _convolutions, _laid_out, _opened

    source = source_of(drawn_checkpoint, drawn_dataset, silent)
    (written,) = make(FORMS["litert-int8"], source).values()
    model, wanted = _opened(written), convolution_weights(source.rounded).values()
    kinds = []
    for (code, operator, tensors), rounded in zip(_convolutions(model), wanted, strict=True):
        tensor, expected = tensors[operator.inputs[1]], _laid_out(rounded, code)
        kind = np.int8 if tensor.quantization and tensor.quantization.scale is not None else np.float32
        kinds.append(kind)
        found = np.frombuffer(model.buffers[tensor.buffer].data.tobytes(), kind).reshape(expected.shape)
        if kind == np.int8:
            steps = tensor.quantization.scale
            found = found * (steps if expected.shape[0] == 1 else steps[:, None, None, None])
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert kinds == [np.float32] * FLOAT_LAYERS + [np.int8] * (len(kinds) - FLOAT_LAYERS)
