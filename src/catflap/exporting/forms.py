"""The forms that a model can be written in, by the name of the variant; a target is one toolchain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

import numpy as np

from catflap.artifacts.bundle import NAME, Variant
from catflap.artifacts.checkpoint import Checkpoint
from catflap.errors import CatflapError, need, system_reason
from catflap.exporting.embedding import with_embedding
from catflap.exporting.judge import CalibrationAnswers, EvaluationSet, answer_calibration
from catflap.exporting.quantising.rounding import round_weights
from catflap.image import Pixels
from catflap.machine import versions
from catflap.progress import Progress, silent
from catflap.runtime.engine import ENGINES, Logits, Model, engine_error
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import frames_of

CALIBRATION_FRAMES = 48


@dataclass(frozen=True)
class Form:
    """What a variant is: the runtime that runs it, its precision, and its members in the Bundle.

    `target` names the file in exporting/targets that writes it; "" for a file made elsewhere.
    """

    target: str
    runtime: str
    precision: str
    file: str
    weights: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its files in the Bundle: one, or the graph and its weights."""
        return as_variant("", self).members


@dataclass(frozen=True)
class ExportSource:
    """What every target is written from: the Checkpoint, its float ONNX graph, and calibration photos."""

    checkpoint: Checkpoint
    onnx: bytes
    evaluation: EvaluationSet
    _answered: dict[bytes, CalibrationAnswers] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def frames(self) -> Pixels:
        """Calibration frames for quantisers, uint8 (n, height, width, 3), n ≤ 48."""
        photos = self.evaluation.calibration
        chosen = photos.take(np.arange(min(CALIBRATION_FRAMES, len(photos))))
        return np.concatenate(list(frames_of(chosen, self.evaluation.frame)))

    @cached_property
    def rounded(self) -> bytes:
        """The float graph with its weights on the int8 grid, as ONNX bytes."""
        return round_weights(self.onnx, self.frames)

    @cached_property
    def answers(self) -> Logits:
        """What the float graph answers to the calibration photos, logits, float32 (n, labels)."""
        return self.calibration_answers(with_embedding(self.onnx)).logits

    def calibration_answers(
        self,
        graph: bytes,
        step: str = "calibration",
        progress: Progress = silent,
        model: Model | None = None,
    ) -> CalibrationAnswers:
        """What an ONNX graph, or the model that was opened from it, answers to the calibration photos.

        The same graph is asked once.
        """
        if graph not in self._answered:
            self._answered[graph] = answer_calibration(
                model or open_model(graph), self.evaluation, step, progress
            )
        return self._answered[graph]


def _two(place: str, suffix: str) -> tuple[str, str]:
    """The names of a graph and its weights."""
    return f"targets/{place}.{suffix}", f"targets/{place}.bin"


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "int8": Form("onnx", "onnxruntime", "int8", "int8.onnx"),
        "fp32": Form("onnx", "onnxruntime", "fp32", "fp32.onnx"),
        "fp16": Form("onnx", "onnxruntime", "fp16", "fp16.onnx"),
        "onnx-frame": Form("onnx-frame", "onnxruntime-frame", "fp32", "targets/onnx/frame.onnx"),
        "litert-int8": Form("litert", "litert", "int8", "targets/litert/int8.tflite"),
        "litert-fp32": Form("litert", "litert", "fp32", "targets/litert/fp32.tflite"),
        "litert-micro": Form("litert-micro", "litert-micro", "int8", "targets/litert/micro.tflite"),
        "openvino-int8": Form("openvino", "openvino", "int8", *_two("openvino/int8", "xml")),
        "openvino-fp16": Form("openvino", "openvino", "fp16", *_two("openvino/fp16", "xml")),
        "ncnn-fp32": Form("ncnn", "ncnn", "fp32", *_two("ncnn/fp32", "param")),
        "ncnn-fp16": Form("ncnn", "ncnn", "fp16", *_two("ncnn/fp16", "param")),
        "executorch-fp32": Form("executorch", "executorch", "fp32", "targets/executorch/fp32.pte"),
        "coreml-fp32": Form("coreml", "coreml", "fp32", "targets/coreml/fp32.mlmodel"),
    }
)
PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(  # of PyPI, that write it and run it
    {
        "onnx": (),
        "onnx-frame": (),
        "litert": ("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
        "litert-micro": ("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
        "openvino": ("openvino", "nncf"),
        "ncnn": ("pnnx", "ncnn"),
        "executorch": ("executorch",),
        "coreml": ("coremltools",),
    }
)
QUANTISERS = ("nncf", "ai-edge-quantizer")  # of these packages, which int8 alone needs
_RUNTIMES = MappingProxyType(
    {
        ".onnx": "onnxruntime",
        ".tflite": "litert",
        ".xml": "openvino",
        ".param": "ncnn",
        ".pte": "executorch",
    }
)


def variant_names(targets: Iterable[str], variants: Iterable[str] = ()) -> tuple[str, ...]:
    """The variants asked for by name, then all that the targets have; CatflapError for an unknown one."""
    found = dict.fromkeys(variants)
    for target in targets:
        of_target = [name for name, form in FORMS.items() if form.target == target]
        if not of_target:
            raise CatflapError(f"There is no target {target!r}.", f"Use: {', '.join(PACKAGES)}.")
        found |= dict.fromkeys(of_target)
    unknown = [name for name in found if name not in FORMS]
    if unknown or not found:
        raise CatflapError(f"There is no variant {', '.join(unknown)!r}.", f"Use: {', '.join(FORMS)}.")
    return tuple(found)


def untested_of(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the named forms whose runtime Catflap has no engine for, on any machine."""
    return tuple(name for name in names if FORMS[name].runtime not in ENGINES)


def check_variants(names: tuple[str, ...]) -> None:
    """Raise CatflapError when the variants of a new Bundle cannot be written here, or none of them can run.

    It is asked before any work, which may take hours.
    """
    if untested_of(names) == names:
        raise CatflapError(f"{names[0]} cannot run here: nothing would be tested.", "Add --variants int8.")
    for name in names:
        check_tools(FORMS[name])


def check_tools(form: Form) -> None:
    """Raise MissingExtra when a package that writes or runs this form is not here, or does not run it."""
    for package in PACKAGES[form.target]:
        if form.precision == "int8" or package not in QUANTISERS:
            need(package.replace("-", "_"))
    if form.runtime in ENGINES and (why := engine_error(as_variant("", form))) is not None:
        raise why


def make(form: Form, source: ExportSource) -> dict[str, bytes]:
    """The files of a form by their names in the Bundle; MissingExtra when its toolchain is not here."""
    check_tools(form)
    target = import_module(f"catflap.exporting.targets.{form.target.replace('-', '_')}")
    return dict(zip(form.members, target.convert(form.precision, source), strict=True))


def made_elsewhere(path: Path, name: str, precision: str) -> tuple[Form, dict[str, bytes]]:
    """The form and the bytes of a model file that another toolchain wrote; its suffix tells the runtime."""
    runtime = _RUNTIMES.get(path.suffix)
    if runtime is None:
        raise CatflapError(
            f"{path.name} is of no runtime that Catflap knows.", f"Use: {', '.join(_RUNTIMES)}."
        )
    if not NAME.fullmatch(name + path.suffix) or "/" in name:
        raise CatflapError(f"A variant cannot be named {name!r}.", "Use up to 90 letters, digits, - and _.")
    parts = [path, path.with_suffix(".bin")] if runtime in ENGINES and ENGINES[runtime].files == 2 else [path]
    try:
        data = [part.read_bytes() for part in parts]
    except OSError as error:
        raise CatflapError(
            f"{error.filename} cannot be read: {system_reason(error)}.", "Name a model file."
        ) from error
    form = Form("", runtime, precision, *(f"targets/other/{name}{part.suffix}" for part in parts))
    return form, dict(zip(form.members, data, strict=True))


def tools(names: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that write these variants."""
    packages = {package for name in names for package in PACKAGES[FORMS[name].target]}
    return versions(sorted(packages))


def as_variant(name: str, form: Form) -> Variant:
    """A form as the Variant that a runtime opens, before anything was measured on it."""
    return Variant(name, form.file, form.runtime, form.precision, 1.0, 1.0, {}, {}, {}, form.weights)
