"""Checkpoint to Bundle, and further variants to a Bundle: the verbs `export` and `bundle add`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.folder import working_folder
from catflap.artifacts.golden import FILE as GOLDEN
from catflap.artifacts.golden import Golden, check_golden, read_golden
from catflap.artifacts.schema import digest
from catflap.errors import CatflapError, Refused
from catflap.evaluation.gate import GATE_LIMITS
from catflap.evaluation.paired import compare_decisions
from catflap.exporting.budget import Budget, LatencyMeter, choose_variants
from catflap.exporting.defects import MAX_EXTRA, choose_cases
from catflap.exporting.golden_cases import drawn_cases, extra_case
from catflap.exporting.judging import (
    MAX_REFERENCE_PHOTOS,
    ExportSource,
    Judged,
    Workspace,
    golden_tolerance,
    judge,
    load_source,
)
from catflap.exporting.onnx_edits import worst_layer
from catflap.exporting.repack import check_new, check_out, derived_head, name_of, other_files, write_verified
from catflap.exporting.target import (
    Form,
    check_tools,
    check_variants,
    convert,
    form_of,
    read_model_file,
    tool_versions,
    untested_names,
    variant_names,
)
from catflap.exporting.targets.to_onnx_frame import with_temperature
from catflap.exporting.tflite_writer import UnknownOperator
from catflap.image import Pixels, read_pixels
from catflap.progress import Progress, silent, track
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import (
    check_error_rate,
    check_unknown_rate,
    parse_point_specs,
    point_specs,
)
from catflap.runtime.engine import engine_error, open_members
from catflap.runtime.engine_onnx import VERSION as ONNXRUNTIME
from catflap.runtime.engine_onnx import open_model, open_session
from catflap.training.onnx_graph import INPUT, OUTPUT
from catflap.version import VERSION

PIXEL_TOLERANCE = 4  # grey levels that another decoder may differ by: docs/concepts/frame.md
VARIANTS = ("int8", "fp32")
MOBILE = "litert-int8"  # for phones and the camera page
WRITTEN_FOR_MOBILE = "efficientnet_lite"  # backbones whose every layer tflite_writer.py knows


def export(
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    *,
    variants: tuple[str, ...] = (),
    golden_photos: tuple[bytes, ...] = (),
    about: str = "",
    operating_points: tuple[str, ...] = (),
    error_rate: float | None = None,
    unknown_rate: float | None = None,
    budget: Budget | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a verified Bundle whose variants are measured from photo bytes; the first is the default.

    Without `variants` those of `default_variants` are written; a LiteRT variant that was not asked for and
    fails the gate is left out, and the answer says why.
    Golden cases are drawn; `golden_photos` adds photos. `about` is a sentence or two for the card: what the
    photos are and may be used for. `operating_points`, such as "cat:max_fpr=0.001", are chosen for each
    variant. `error_rate` is the share of photos that may get a wrong label; None chooses the smallest rate at
    which at most a tenth of the calibration photos is `unsure`. `unknown_rate` is the share of photos like
    the calibration photos that may be called `unknown`, so that other things are; 0 for never. None is 0.05
    for three labels or more, where that refuses photos of left-out labels. With a `budget` only variants
    within it go in, the most accurate on calibration photos first. Finished variants are kept in
    `.NAME.catflap.export` beside the Bundle until it is written, so that a stopped export continues. Raises
    Refused, and writes nothing, when a variant fails the gate, an operating point cannot be met or no variant
    is within the budget.
    """
    out, may_fail = Path(out), () if variants else (MOBILE,)
    variants = variant_names((), variants or default_variants(checkpoint.backbone))
    asked = variants
    check_out(out)
    check_roles(checkpoint, dataset)
    check_variants(variants)
    specs = parse_point_specs(operating_points, checkpoint.labels)
    check_error_rate(error_rate)
    check_unknown_rate(unknown_rate, checkpoint.labels)
    untested = untested_names(variants)
    drawn = [case.photo for case in (*drawn_cases(checkpoint.frame), *map(extra_case, range(MAX_EXTRA)))]
    tested = len(variants) - len(untested)
    check_golden((*drawn, *golden_photos), checkpoint.frame, len(checkpoint.labels), tested)
    with working_folder(out, "export") as folder:
        try:
            progress("write network", 0, 2)
            source = load_source(
                checkpoint, dataset, progress, specs, Workspace(folder), error_rate, unknown_rate
            )
            progress("write golden cases", 1, 2)
            cases, defects = choose_cases(checkpoint.frame, open_model(source.onnx), PIXEL_TOLERANCE)
            photos = (*(case.photo for case in cases), *golden_photos)
            frames = np.stack([read_pixels(photo, checkpoint.frame) for photo in photos])
            entries, files = _write_untested(untested, source)
            judged, left_out = _judge_all(variants, untested, may_fail, source, frames)
            costs = {} if budget is None else _costs(judged, frames[:1], budget)
            judged = {name: judged[name] for name in costs or judged}
            variants = tuple(name for name in variants if name in judged or name in entries)
            versions = checkpoint.versions | tool_versions(variants)
            head = {
                "name": name_of(out),
                "made_from": export_fingerprint(
                    checkpoint, asked if left_out else variants, golden_photos, about, operating_points,
                    error_rate, unknown_rate,
                ),
                "about": about,
                "labels": list(checkpoint.labels),
                "frame": checkpoint.frame.to_json(),
                "input": {"name": INPUT, "dtype": "uint8", "layout": "NHWC"},
                "output": {"name": OUTPUT, "dtype": "float32"},
                "default_variant": next(iter(judged)),
                "variants": {name: one.entry for name, one in judged.items()},
                "prior": checkpoint.prior,
                "golden": {
                    "file": GOLDEN, "cases": len(photos), "pixel_tolerance": PIXEL_TOLERANCE,
                    "defects": defects,
                },
                "ancestors": {**checkpoint.ancestors, "checkpoint": checkpoint.sha256},
                "licences": checkpoint.licences,
                "versions": versions | {"catflap": VERSION, "onnxruntime": ONNXRUNTIME},
                "training": {
                    "backbone": checkpoint.backbone, "recipe": checkpoint.recipe, "roles": dataset.roles,
                },
                **({"untested": entries} if entries else {}),
            }  # fmt: skip
            for one in judged.values():
                files |= one.files
            golden = Golden(photos, frames, {name: one.logits for name, one in judged.items()})
            sha256 = write_verified(out, head, files, golden)
        except CatflapError:  # not a kill: the same run would end in the same way
            shutil.rmtree(folder, ignore_errors=True)
            raise
    answer = _answer(out, sha256, next(iter(judged)), judged, untested)
    return {
        **answer, **({"costs": costs} if costs else {}), **({"left_out": left_out} if left_out else {})
    }  # fmt: skip


def default_variants(backbone: str) -> tuple[str, ...]:
    """int8 and fp32, and litert-int8 where LiteRT is installed and its writer knows the backbone."""
    mobile = backbone.startswith(WRITTEN_FOR_MOBILE) and find_spec("ai_edge_litert") is not None
    return (*VARIANTS, MOBILE) if mobile else VARIANTS


def _judge_all(
    variants: tuple[str, ...],
    untested: tuple[str, ...],
    may_fail: tuple[str, ...],
    source: ExportSource,
    frames: Pixels,
) -> tuple[dict[str, Judged], dict[str, str]]:
    """The judged variants by name, and of those that may fail and did, why."""
    judged: dict[str, Judged] = {}
    left_out: dict[str, str] = {}
    for name in variants:
        if name in untested:
            continue
        try:
            judged[name] = _kept_or_judged(name, source, frames)
        except (Refused, UnknownOperator) as error:
            if name not in may_fail:
                raise
            left_out[name] = str(error)
    return judged, left_out


def export_fingerprint(
    checkpoint: Checkpoint,
    variants: tuple[str, ...] = (),
    golden_photos: tuple[bytes, ...] = (),
    about: str = "",
    operating_points: tuple[str, ...] = (),
    error_rate: float | None = None,
    unknown_rate: float | None = None,
) -> str:
    """A digest of everything that a Bundle would be made from."""
    variants = variants or default_variants(checkpoint.backbone)
    photos = [hashlib.sha256(photo).hexdigest() for photo in golden_photos]
    made_by = [VERSION, ONNXRUNTIME, tool_versions(variant_names((), variants))]
    specs = [spec.name for spec in parse_point_specs(operating_points)]
    return digest(
        [checkpoint.sha256, list(variants), photos, about, made_by, *specs, error_rate, unknown_rate]
    )


def add_variants(
    bundle: Bundle,
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    variants: tuple[str, ...],
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a new Bundle with more variants of the Checkpoint that it was made from.

    Each is measured and gated as in `export`, and gets the operating points of the Bundle's default variant.
    `diff` in the answer says whether it may replace that one.
    Raises Refused when the gate fails, and CatflapError when it is another Checkpoint.
    """
    forms: dict[str, tuple[Form, dict[str, bytes] | None]] = {
        name: (form_of(name), None) for name in variants
    }
    return _add(bundle, checkpoint, dataset, out, forms, tool_versions(variants), progress)


def add_file(
    bundle: Bundle,
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    model: Path,
    name: str,
    *,
    precision: str = "fp32",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a new Bundle with a model file of another toolchain as a variant, judged like our own.

    The file's suffix names its runtime; `precision` says what it may lose: fp32 nothing.
    """
    return _add(
        bundle, checkpoint, dataset, out, {name: read_model_file(model, name, precision)}, {}, progress
    )


def write_and_judge(
    name: str,
    form: Form,
    source: ExportSource,
    frames: Pixels,
    files: dict[str, bytes] | None = None,
    output: str = OUTPUT,
) -> Judged:
    """Write a variant, or take its files, run it on its real runtime, and judge it; Refused when it lost.

    `output` names the logits of an ONNX graph.
    """
    source.progress(f"write {name}", 0, 1)
    files = convert(name, source) if files is None else files
    source.progress(f"write {name}", 1, 1)
    variant = form.as_variant(name)
    model = open_members(files, variant, output=output)
    logits = model(frames)
    tolerance = golden_tolerance(GATE_LIMITS[form.precision], variant, files, logits, frames, output)
    step = f"{name} on calibration"
    if variant.runtime == "onnxruntime":
        answers = source.calibration_answers(files[variant.file], step, model)
    else:
        answers = source.run_on_calibration(model, step, whole=variant.takes_photos)
    if variant.takes_photos:  # its graph has the temperature inside
        temperature = source.temperature(answers.logits)
        files = {variant.file: with_temperature(files[variant.file], temperature)}
    try:
        entry = judge(variant, model, source, answers)
    except Refused as error:
        layer = None
        if variant.runtime == "onnxruntime":
            layer = worst_layer(source.onnx, files[variant.file], source.frames)
        if layer is None:
            raise
        raise Refused(f"{error.what} The layer that loses most: {layer}.", error.fix) from error
    right = answers.logits.argmax(1) == source.calibration.labels
    return Judged({"tolerance": tolerance, **entry}, files, logits, float(right.mean()))


def _kept_or_judged(name: str, source: ExportSource, frames: Pixels) -> Judged:
    """A variant that a stopped export of the same inputs had finished; else it is written and judged."""
    form, specs = form_of(name), [spec.name for spec in source.specs]
    parts = [
        source.key,
        vars(form),
        specs,
        source.error_rate,
        source.unknown_rate,
        hashlib.sha256(frames.tobytes()).hexdigest(),
        tool_versions((name,)),
    ]
    kept = source.workspace.arrays(
        f"{name}-{digest(parts)[:24]}", lambda: write_and_judge(name, form, source, frames).to_arrays()
    )
    return Judged.from_arrays(kept)


def _write_untested(
    names: tuple[str, ...], source: ExportSource
) -> tuple[dict[str, dict[str, str]], dict[str, bytes]]:
    """The entries of `untested` in bundle.json and the files of variants that no engine here can run."""
    entries: dict[str, dict[str, str]] = {}
    files: dict[str, bytes] = {}
    for name in names:
        form = form_of(name)
        source.progress(f"write {name}", 0, 1)
        files |= convert(name, source)
        source.progress(f"write {name}", 1, 1)
        entries[name] = {"file": form.file, "runtime": form.runtime, "precision": form.precision}
    return entries, files


def _costs(judged: Mapping[str, Judged], frame: Pixels, budget: Budget) -> dict[str, dict[str, float]]:
    """The costs of the variants within a budget, best first; Refused when none is."""
    clock = LatencyMeter(budget)
    costs = {
        name: {
            "mb": sum(map(len, one.files.values())) / 1e6,
            "ms": clock.ms(open_members(one.files, form_of(name).as_variant(name), clock.threads), frame),
            "accuracy": one.entry["metrics"]["accuracy"]["value"],
            "calibration_accuracy": one.calibration_accuracy,
        }
        for name, one in judged.items()
    }
    return {name: costs[name] for name in choose_variants(costs, clock)}


def _answer(
    out: Path, sha256: str, default: str, judged: Mapping[str, Judged], untested: tuple[str, ...]
) -> dict[str, Any]:
    """The machine answer of `catflap export` and `catflap bundle add`."""
    return {
        "bundle": str(out),
        "verdict": "pass",
        "sha256": sha256,
        "bytes": out.stat().st_size,
        "default_variant": default,
        "variants": {name: one.to_json() for name, one in judged.items()},
        **({"untested": list(untested)} if untested else {}),
    }


def check_roles(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raise CatflapError unless the Checkpoint was trained on this Dataset and its roles have two labels."""
    if checkpoint.ancestors.get("dataset") != dataset.sha256:
        raise CatflapError(
            f"{checkpoint.path} was not trained on {dataset.path}.",
            "Name the dataset that it was trained on.",
        )
    for role in ("calibration", "test"):
        photos = dataset.photos(role)
        if len(np.unique(photos.labels)) < 2:
            raise CatflapError(
                f"The {role} role has photos of fewer than two labels.",
                "Prepare the dataset from more photos.",
            )


def _add(
    bundle: Bundle,
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    forms: Mapping[str, tuple[Form, dict[str, bytes] | None]],
    versions: dict[str, str],
    progress: Progress,
) -> dict[str, Any]:
    """Write a Bundle with more variants; those without files are converted first."""
    check_new(bundle, out)
    if bundle.head["ancestors"].get("checkpoint") != checkpoint.sha256:
        raise CatflapError(
            f"{bundle.path.name} was not made from {checkpoint.path}.",
            "Name the checkpoint it was made from.",
        )
    for name, (form, given) in forms.items():
        _check_form(bundle, name, form, given)
    check_roles(checkpoint, dataset)
    golden = read_golden(bundle)
    untested = untested_names(name for name, (_, given) in forms.items() if given is None)
    tested = len(golden.logits) + len(forms) - len(untested)
    fix = "Add fewer variants, or strip one first."
    check_golden(golden.photos, bundle.frame, len(bundle.labels), tested, fix)
    decision = bundle.variant().decision
    error_rate = decision["error_rate"] if "curve" in decision else None
    unknown_rate = (bundle.variant().unknown or {"rate": 0.0})["rate"]
    source = load_source(
        checkpoint, dataset, progress, point_specs(bundle.variant()), error_rate=error_rate,
        unknown_rate=unknown_rate,
    )  # fmt: skip
    output = bundle.head["output"]["name"]
    judged = {
        name: write_and_judge(name, form, source, golden.frames, given, output)
        for name, (form, given) in forms.items()
        if name not in untested
    }
    entries, files = _write_untested(untested, source)
    head = derived_head(bundle, ["add", *forms])
    head["variants"] = {**head["variants"], **{name: one.entry for name, one in judged.items()}}
    head["versions"] = {**head["versions"], **versions}
    if entries:
        head["untested"] = {**head.get("untested", {}), **entries}
    files = {**other_files(bundle), **files}
    for one in judged.values():
        files |= one.files
    logits = {**golden.logits, **{name: one.logits for name, one in judged.items()}}
    sha256 = write_verified(out, head, files, replace(golden, logits=logits))
    answer = _answer(out, sha256, bundle.default_variant, judged, untested)
    return {**answer, "diff": _may_replace(load_bundle(out), tuple(judged), source)}


def _may_replace(bundle: Bundle, names: tuple[str, ...], source: ExportSource) -> dict[str, dict[str, Any]]:
    """For each of these variants: may it replace the default one? As `diff` says, on the test photos."""
    photos = source.test.take(np.arange(min(len(source.test), MAX_REFERENCE_PHOTOS)))
    truth = [source.labels[number] for number in photos.labels.tolist()]

    def decided(name: str) -> list[str]:
        classifier, step = Classifier(bundle, name), f"decisions of {name}"
        places = track(range(len(photos)), step, len(photos), source.progress)
        return [classifier(photos[place]).decision for place in places]

    if engine_error(bundle.variant()) is not None:
        return {}
    before = decided(bundle.default_variant)
    return {
        name: compare_decisions(before, decided(name), truth, photos.groups, source.labels, {})
        for name in names
        if engine_error(bundle.variant(name)) is None
    }


def _check_form(bundle: Bundle, name: str, form: Form, files: dict[str, bytes] | None) -> None:
    """Raise CatflapError when the Bundle has such a variant or file, or other names for inputs and outputs.

    MissingExtra when a package that writes or runs it is missing.
    """
    if name in bundle.variants or name in bundle.untested:
        raise CatflapError(
            f"{bundle.path.name} has a variant {name!r}.", "Add another one, or strip it first."
        )
    taken = [member for member in form.members if member in bundle.members]
    if taken:
        raise CatflapError(
            f"{bundle.path.name} has a file {taken[0]} of another variant, which {name} would replace.",
            "Strip that variant first.",
        )
    if files is None:
        check_tools(name)
    elif (why := engine_error(form.as_variant(name))) is not None:
        raise why
    if form.runtime != "onnxruntime":
        return
    inputs, outputs = ([INPUT], [OUTPUT]) if files is None else _ends(files[form.file])
    source, target = bundle.head["input"]["name"], bundle.head["output"]["name"]
    if inputs != [source] or target not in outputs:
        raise CatflapError(
            f"The graph of {name} takes {', '.join(inputs)!r:.100} and gives {', '.join(outputs)!r:.100}; "
            f"the graphs of {bundle.path.name} take {source!r:.100} and give {target!r:.100}.",
            "Rename the input and the output of the graph, and add it again.",
        )


def _ends(graph: bytes) -> tuple[list[str], list[str]]:
    """The names of an ONNX graph's inputs and outputs."""
    session = open_session(graph, threads=1)
    return [end.name for end in session.get_inputs()], [end.name for end in session.get_outputs()]
