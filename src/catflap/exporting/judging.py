"""Measure a variant against the Checkpoint, calibrate it, set its logits' tolerance: for bundle.json."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Variant
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.folder import write_atomically
from catflap.artifacts.results import UNKNOWN
from catflap.artifacts.schema import digest
from catflap.errors import Refused
from catflap.evaluation.calibration import (
    fit_temperature,
    operating_point,
    rates_at,
    threshold_steps,
)
from catflap.evaluation.conformal import (
    ERROR_RATES,
    choose_error_rate,
    risk_curve,
    set_threshold,
    unknown_threshold,
)
from catflap.evaluation.decision_rates import flagged_share, set_rates, shipped_decisions
from catflap.evaluation.drift_baseline import MAX_EMBEDDED_LABELS, make_baseline
from catflap.evaluation.gate import GATE_LIMITS, GateLimits, calibration_checks, fidelity, furthest, gate
from catflap.evaluation.intervals import Flags, Floats
from catflap.evaluation.metrics import measure, separation
from catflap.evaluation.slices import Slices, judge_slices, make_slices, photo_facts
from catflap.exporting.onnx_edits import with_embedding, with_side_outputs
from catflap.exporting.rounding import round_weights
from catflap.image import NO_STATISTICS, ImageStatistics, Pixels, image_statistics
from catflap.machine import versions
from catflap.progress import Progress, silent, track
from catflap.runtime.decisions import (
    TOP,
    PointSpec,
    Probabilities,
    decide,
    decision_rule,
    point_cutoff,
    softmax,
)
from catflap.runtime.engine import Embeddings, Logits, Model, run_with_embedding
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.ood import EmbeddingModel, are_unknown, embedding_models, ood_scores
from catflap.runtime.scoring import BATCH, frames_of, score
from catflap.training.network import load_network, open_checkpoint
from catflap.training.onnx_graph import to_onnx
from catflap.version import VERSION

MAX_PHOTOS = 20_000  # of a role, sampled; more would not change a printed digit
MAX_REFERENCE_PHOTOS = 2_000  # test photos that the Checkpoint itself scores: torch is slow on a CPU
MAX_BASELINE_PHOTOS = 2_000  # calibration photos with image statistics and embeddings
UNEMULATED = 3  # times the tolerance of runtimes whose int8 cannot be emulated here
NAMED_PHOTOS = 3  # in a refusal
MAX_FITTED_PHOTOS = 1_000  # train photos whose embeddings the OOD score is fitted on
UNKNOWN_RATE = 0.05  # of photos like the calibration photos that may be called unknown
MIN_LABELS_UNKNOWN = 3  # of two labels one mostly stands for everything else
EARNED = 2.0  # times the rate: the share of left-out labels' photos that must be refused, or it stays off
FIGURES = ("recall", "false_positive_rate", "precision", "positives", "negatives")
PROOF = ("confidence", "groups", "proven", "missing")


@dataclass(frozen=True)
class CalibrationAnswers:
    """A model's logits (n, labels) on the calibration photos, and its embeddings (≤ 2,000, width) if any.

    The logits are as if the head had not learnt from the photo (`Checkpoint.held_out`).
    """

    logits: Logits
    embeddings: Embeddings | None


@dataclass(frozen=True)
class Workspace:
    """Finished steps of a stopped export: arrays by name in a folder; without a folder nothing is kept."""

    folder: Path | None = None

    def arrays(
        self, name: str, make: Callable[[], dict[str, npt.NDArray[Any]]]
    ) -> dict[str, npt.NDArray[Any]]:
        """The arrays that an earlier run kept under this name, else those of `make`, which are kept."""
        path = None if self.folder is None else self.folder / f"{name}.npz"
        if path is not None and path.is_file():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    return {entry: kept[entry] for entry in kept.files}
            except Exception:  # damaged: zip, zlib and NumPy raise many types; it is made again
                path.unlink(missing_ok=True)
        made = make()
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **made)  # type: ignore[arg-type]
            write_atomically(path, buffer.getvalue())
        return made


@dataclass(frozen=True)
class ExportSource:
    """What variants are written from and judged by: the Checkpoint, photos of two roles, the float graph.

    `specs` are the operating points that each variant gets, and `error_rate` is what it promises; None lets
    the calibration photos choose. `unknown_rate` is the share of photos like these that may be called
    unknown, 0 for none; None decides by what it gains.
    """

    checkpoint: Checkpoint
    dataset_sha256: str
    labels: tuple[str, ...]
    calibration: Photos
    test: Photos
    specs: tuple[PointSpec, ...] = ()
    error_rate: float | None = None
    progress: Progress = silent
    workspace: Workspace = field(default_factory=Workspace)
    unknown_rate: float | None = 0.0
    train: Photos | None = None
    _answers: dict[bytes, CalibrationAnswers] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def key(self) -> str:
        """A digest of all that every variant depends on."""
        packages = ("numpy", "pillow", "simplejpeg", "torch", "onnx", "onnxruntime")
        return digest([self.checkpoint.sha256, self.dataset_sha256, VERSION, versions(packages)])[:24]

    @cached_property
    def onnx(self) -> bytes:
        """The float graph as ONNX bytes."""
        frame = self.checkpoint.frame

        def export() -> dict[str, npt.NDArray[Any]]:
            graph = to_onnx(load_network(self.checkpoint), frame.height, frame.width)
            return {"graph": np.frombuffer(graph, np.uint8)}

        return self.workspace.arrays(f"graph-{self.key}", export)["graph"].tobytes()

    @cached_property
    def frames(self) -> Pixels:
        """Calibration frames for quantisers, uint8 (n, height, width, 3), n ≤ CALIBRATION_FRAMES."""
        from catflap.exporting.quantise import CALIBRATION_FRAMES

        chosen = self.calibration.take(np.arange(min(CALIBRATION_FRAMES, len(self.calibration))))
        return np.concatenate(list(frames_of(chosen, self.checkpoint.frame)))

    @cached_property
    def rounded(self) -> bytes:
        """The float graph with its convolution weights on the int8 grid, as ONNX bytes."""
        return round_weights(self.onnx, self.frames)

    @cached_property
    def _first_test_photos(self) -> dict[str, npt.NDArray[Any]]:
        """Of the first 2,000 test photos the Checkpoint's `logits` and the image `statistics` (n, 3)."""
        photos = self.test.take(np.arange(min(len(self.test), MAX_REFERENCE_PHOTOS)))

        def run() -> dict[str, npt.NDArray[Any]]:
            model, statistics = open_checkpoint(self.checkpoint), list[ImageStatistics]()

            def measured(frames: Pixels) -> Logits:
                statistics.extend(image_statistics(pixels) for pixels in frames)
                return model(frames)

            logits = score(measured, photos, self.checkpoint.frame, "checkpoint on test", self.progress)
            return {"logits": logits, "statistics": np.array(statistics)}

        return self.workspace.arrays(f"test-{self.key}", run)

    @cached_property
    def reference(self) -> Logits:
        """The Checkpoint's own logits on the first 2,000 test photos."""
        return self._first_test_photos["logits"]

    @cached_property
    def test_slices(self) -> Slices:
        """The first 2,000 test photos by size, shape, light and sharpness."""
        statistics = self._first_test_photos["statistics"]
        photos = self.test.take(np.arange(len(statistics)))
        return make_slices(photo_facts(photos, statistics, self.checkpoint.frame))

    @cached_property
    def image_statistics(self) -> npt.NDArray[np.float64]:
        """Image statistics (n, 3) of the calibration photos; NaN after the first 2,000."""
        first = self.calibration.take(np.arange(min(len(self.calibration), MAX_BASELINE_PHOTOS)))
        batches, step = -(-len(first) // BATCH), "image statistics"
        frames = track(frames_of(first, self.checkpoint.frame), step, batches, self.progress)
        rows = [image_statistics(pixels) for batch in frames for pixels in batch]
        return np.array(rows + [NO_STATISTICS] * (len(self.calibration) - len(rows)))

    @property
    def onnx_for_ood(self) -> bytes:
        """The float graph; with the embedding as an output where photos may be unknown."""
        return with_embedding(self.onnx) if self.may_be_unknown else self.onnx

    @property
    def may_be_unknown(self) -> bool:
        """Whether variants get an OOD score above which photos are unknown, if that earns it."""
        if self.train is None or UNKNOWN in self.labels or len(self.labels) > MAX_EMBEDDED_LABELS:
            return False
        wanted = self.unknown_rate
        return len(self.labels) >= MIN_LABELS_UNKNOWN if wanted is None else wanted > 0

    @cached_property
    def fitted(self) -> dict[int, Embeddings]:
        """The float graph's embeddings of train photos by label number; empty where not needed."""
        if self.train is None or not self.may_be_unknown:
            return {}
        train = self.train

        def run() -> dict[str, npt.NDArray[Any]]:
            model, kept = open_model(with_embedding(self.onnx)), list[Embeddings]()
            if not model.has_embedding:
                return {"embeddings": np.zeros((0, 0), np.float32)}
            step, batches = "embeddings of train", -(-len(train) // BATCH)
            frames = frames_of(train, self.checkpoint.frame)
            for batch in track(frames, step, batches, self.progress):
                kept.append(model.with_embedding(batch)[1])
            return {"embeddings": np.concatenate(kept)}

        rows = self.workspace.arrays(f"fitted-{self.key}", run)["embeddings"]
        labels = train.labels[: len(rows)]
        return {number: rows[labels == number] for number in np.unique(labels).tolist()}

    @cached_property
    def logits(self) -> Logits:
        """The float graph's logits on the calibration photos, float32 (n, labels)."""
        return self.calibration_answers(with_side_outputs(self.onnx)).logits

    @cached_property
    def reference_temperature(self) -> float:
        """The temperature of the float graph, which is that of the Checkpoint."""
        return self.temperature(self.logits)

    def temperature(self, logits: Logits) -> float:
        """The temperature of a model with these logits on the calibration photos."""
        photos = self.calibration
        calibrated = self.checkpoint.is_calibrated
        return fit_temperature(logits, photos.labels, photos.groups, calibrated=calibrated)

    def calibration_answers(
        self, graph: bytes, step: str = "calibration", model: Model | None = None
    ) -> CalibrationAnswers:
        """The answers of an ONNX graph, or of the model opened from it; each graph is run once."""
        if graph not in self._answers:
            self._answers[graph] = self.run_on_calibration(model or open_model(graph), step)
        return self._answers[graph]

    def run_on_calibration(self, model: Model, step: str, *, whole: bool = False) -> CalibrationAnswers:
        """A model's answers to the calibration photos, read from their bytes; `whole` as in `score`."""
        kept: list[Embeddings] = []

        def run(frames: Pixels) -> Logits:
            if sum(map(len, kept)) >= MAX_BASELINE_PHOTOS:
                return model(frames)
            logits, embeddings = run_with_embedding(model, frames)
            if embeddings is not None:
                kept.append(embeddings)
            return logits

        logits = score(run, self.calibration, self.checkpoint.frame, step, self.progress, whole=whole)
        logits = logits + self.checkpoint.held_out(self.calibration.ids)
        return CalibrationAnswers(logits, np.concatenate(kept) if kept else None)


def load_source(
    checkpoint: Checkpoint,
    dataset: Dataset,
    progress: Progress = silent,
    specs: tuple[PointSpec, ...] = (),
    workspace: Workspace | None = None,
    error_rate: float | None = None,
    unknown_rate: float | None = None,
) -> ExportSource:
    """The ExportSource of a Checkpoint and its Dataset; of a large role a fixed sample of 20,000 photos."""
    learnt = dataset.photos("train")
    chosen = np.random.default_rng(0).permutation(len(learnt))[:MAX_FITTED_PHOTOS]
    calibration, test = (
        photos.take(np.random.default_rng(0).permutation(len(photos))[:MAX_PHOTOS])
        for photos in (dataset.photos("calibration"), dataset.photos("test"))
    )
    return ExportSource(
        checkpoint,
        dataset.sha256,
        dataset.labels,
        calibration,
        test,
        specs,
        error_rate,
        progress,
        workspace or Workspace(),
        unknown_rate,
        learnt.take(np.sort(chosen)),
    )


def golden_tolerance(
    limits: GateLimits,
    variant: Variant,
    files: Mapping[str, bytes],
    logits: Logits,
    frames: Pixels,
    output: str,
) -> float:
    """How much a golden logit may differ elsewhere: a share of the largest, or twice the effect of emulation.

    Runtimes and GPUs without int8 kernels emulate int8 in float and round differently; only ONNX Runtime can
    do that here (`output` names the logits). CPUs do not differ: `open_session` uses exact sums on those
    without VNNI.
    """
    least = limits.tolerance * float(np.abs(logits).max())
    if variant.runtime != "onnxruntime":
        return UNEMULATED * least
    emulated = open_model(files[variant.file], optimise=False, output=output)(frames)
    return max(least, 2 * float(np.abs(logits - emulated).max()))


def judge(
    variant: Variant, model: Model, source: ExportSource, answers: CalibrationAnswers
) -> dict[str, Any]:
    """A variant's entry in bundle.json, measured from photo bytes; Refused when the gate fails.

    `answers` are those to the calibration photos. Each model has its own temperature, the Checkpoint too.
    """
    test, calibration = source.test, source.calibration
    step = f"{variant.name} on test"
    embeddings = list[Embeddings]()

    def run(frames: Pixels) -> Logits:
        rows, embedded = run_with_embedding(model, frames) if source.fitted else (model(frames), None)
        if embedded is not None:
            embeddings.append(embedded)
        return rows

    logits = score(run, test, source.checkpoint.frame, step, source.progress, whole=variant.takes_photos)
    temperature = source.temperature(answers.logits)
    calibrated, probabilities = softmax(answers.logits, temperature), softmax(logits, temperature)
    lost = _gate(variant, source, logits, temperature)
    decision = _decision(variant.name, calibrated, calibration, source.error_rate)
    points = [
        choose_point(spec, variant.name, source.labels, (calibrated, calibration), (probabilities, test))
        for spec in source.specs
    ]
    truth = (test.labels, test.groups, source.labels)
    fitted = source.fitted if answers.embeddings is not None and embeddings else {}
    baseline = make_baseline(
        calibrated, source.labels, calibration.groups, source.image_statistics, answers.embeddings, fitted
    )
    unknown, are = None, None
    if fitted and answers.embeddings is not None:
        models = embedding_models(baseline, source.labels)
        ood = ood_scores(np.concatenate(embeddings), probabilities.argmax(axis=1), models)
        unknown = _unknown(variant.name, source, models, calibrated, answers.embeddings, ood)
        are = None if unknown is None else are_unknown(ood, unknown["threshold"])
    return {
        "file": variant.file,
        **({"weights": variant.weights} if variant.weights else {}),
        "runtime": variant.runtime,
        "precision": variant.precision,
        "temperature": temperature,
        "metrics": measure(probabilities, *truth),
        "fidelity": lost,
        "decision": decision,
        "decisions": shipped_decisions(decision, points, probabilities, *truth, are),
        **_sets(decision, calibrated, source, probabilities),
        **_limits(decision, probabilities, are, source),
        **({"unknown": unknown} if unknown else {}),
        **({"operating_points": points} if points else {}),
        "baseline": baseline,
    }


def _unknown(
    name: str,
    source: ExportSource,
    models: Sequence[EmbeddingModel | None],
    calibrated: Probabilities,
    embeddings: Embeddings,
    ood: npt.NDArray[np.float32],
) -> dict[str, Any] | None:
    """The entry `unknown` of bundle.json: a threshold of the OOD score, and what it was measured to do.

    `calibrated` (n, labels) and `embeddings` (k ≤ n, width) are those of the calibration photos, `ood` the
    scores of the test photos. `left_out` estimates what it does to photos of a label that it never learnt:
    each label's calibration photos are scored as if that label were not there. None, by default, where it
    does not earn being on or the test photos contradict the rate. Refused where a stated rate cannot be
    promised.
    """
    rate = UNKNOWN_RATE if source.unknown_rate is None else source.unknown_rate
    first = len(embeddings)
    photos = source.calibration.take(np.arange(first))
    scores = ood_scores(embeddings, calibrated[:first].argmax(axis=1), models)
    threshold = unknown_threshold(scores, photos.groups, rate)
    if threshold is None:
        if source.unknown_rate is None:
            return None
        raise Refused(
            f"{name} cannot promise that only {rate:g} of photos are unknown: there are "
            f"{len(np.unique(photos.groups)):,} independent calibration photos.",
            f"Use --unknown-rate {1 / (len(np.unique(photos.groups)) + 1):.2g} or more, or more photos.",
        )
    without = calibrated[:first].copy()
    without[np.arange(first), photos.labels] = -1
    left_out = ood_scores(embeddings, without.argmax(axis=1), models)
    refused = flagged_share(are_unknown(left_out, threshold), photos.groups)
    accepted = flagged_share(~are_unknown(ood, threshold), source.test.groups)
    keeps_its_rate = accepted["high"] >= 1 - rate
    if source.unknown_rate is None and (refused["value"] < EARNED * rate or not keeps_its_rate):
        return None
    return {
        "rate": rate,
        "threshold": threshold,
        "photos": first,
        "groups": len(np.unique(photos.groups)),
        "accepted": accepted,
        "left_out": {"refused": refused, "auroc": round(separation(scores, left_out), 6)},
    }


def _error_share(checkpoint: Checkpoint, mistaken: npt.NDArray[np.bool_]) -> float:
    """The Checkpoint's share of mistakes on test photos, (n,), and on validation photos.

    Of 50 test photos alone, chance may find few mistakes; then a variant may flip hardly any.
    """
    validation, photos = checkpoint.metrics["accuracy"]["value"], checkpoint.metrics["photos"]
    if validation is None:
        return float(mistaken.mean())
    return float((mistaken.sum() + (1 - validation) * photos) / (len(mistaken) + photos))


def _sets(
    decision: Mapping[str, Any], calibrated: Probabilities, source: ExportSource, probabilities: Probabilities
) -> dict[str, Any]:
    """The entry `sets` of bundle.json for more than two labels, at the error rate of the decision."""
    rate, calibration, test = decision["error_rate"], source.calibration, source.test
    if len(source.labels) <= 2 or not 0 < rate < 1:
        return {}
    threshold = set_threshold(calibrated, calibration.labels, rate, calibration.groups)
    if threshold is None:
        return {}
    measured = set_rates(threshold, probabilities, test.labels, test.groups)
    return {"sets": {"error_rate": rate, "threshold": threshold, **measured}}


def _limits(
    decision: Mapping[str, Any],
    probabilities: Probabilities,
    unknown: npt.NDArray[np.bool_] | None,
    source: ExportSource,
) -> dict[str, Any]:
    """The entry `limits` of bundle.json: slices of test photos that are decided right significantly less."""
    slices, first = source.test_slices, len(source.reference)
    if not slices:
        return {}
    truth = source.test.labels[:first]
    decided = decide(
        probabilities[:first],
        source.labels,
        decision_rule(decision),
        None if unknown is None else unknown[:first],
    )
    right = [word == source.labels[number] for word, number in zip(decided, truth.tolist(), strict=True)]
    found = judge_slices(right, truth, source.test.groups[:first], source.labels, slices)
    return {"limits": {"photos": first, "tests": found["tests"], "sentences": found["limits"]}}


def _gate(variant: Variant, source: ExportSource, logits: Logits, temperature: float) -> dict[str, Any]:
    """The fidelity of a variant; Refused when it lost too much, or is not calibrated."""
    compared = len(source.reference)
    labels, groups = source.test.labels[:compared], source.test.groups[:compared]
    reference = softmax(source.reference, source.reference_temperature)
    probabilities = softmax(logits[:compared], temperature)
    lost = fidelity(reference, probabilities, labels, groups)
    stated = GATE_LIMITS["frame" if variant.takes_photos else variant.precision]
    errors = _error_share(source.checkpoint, source.reference.argmax(1) != labels)
    free = stated.free / compared
    failed = [
        check
        for check in gate(
            lost,
            max_flip_rate=max(stated.max_flip_rate, stated.of_errors[0] * errors, free),
            max_probability_difference=stated.max_probability_difference,
            max_accuracy_drop=max(stated.max_accuracy_drop, stated.of_errors[1] * errors, free),
        )
        if not check.passed
    ]
    if failed:
        changed = ", ".join(
            f"photo {source.test.ids[row][:12]} {source.labels[label]} "
            f"{reference[row, label]:.3f} → {probabilities[row, label]:.3f}"
            for row, label in furthest(reference, probabilities, NAMED_PHOTOS)
        )
        limits = ", ".join(f"{check.name} {check.value:.4g} > {check.limit:.4g}" for check in failed)
        raise Refused(
            f"The variant {variant.name} differs too much from the checkpoint: {limits}. "
            f"Most changed: {changed}.",
            "Export it without this variant (--variants), or give it more calibration photos.",
        )
    failed = [
        check
        for check in calibration_checks(
            logits[:compared], source.reference, temperature, source.reference_temperature, labels, groups
        )
        if not check.passed
    ]
    if failed:
        limits = ", ".join(f"{check.name} {check.value:.4g}, limit {check.limit:.4g}" for check in failed)
        raise Refused(
            f"The variant {variant.name} is not calibrated on test photos: {limits}.",
            "Check the labels of the calibration photos: catflap audit.",
        )
    return lost


def _decision(
    name: str, probabilities: Probabilities, calibration: Photos, error_rate: float | None
) -> dict[str, Any]:
    """The entry `decision` of bundle.json: a threshold for this error rate, and the curve of others.

    Raises Refused when the calibration photos cannot promise it; None chooses a rate, `choose_error_rate`.
    """
    groups = len(np.unique(calibration.groups))
    about = {"photos": len(calibration), "groups": groups, "rule": TOP}
    rates = ERROR_RATES if error_rate is None else (*ERROR_RATES, error_rate)
    curve = risk_curve(probabilities, calibration.labels, calibration.groups, rates)
    chosen = choose_error_rate(curve) if error_rate is None else error_rate
    if chosen is None:  # so few photos promise nothing: the likeliest label is always decided
        return {"threshold": 0.0, "error_rate": 1.0, **about}
    for point in curve:
        if point["error_rate"] == chosen:
            return {"threshold": point["threshold"], "error_rate": chosen, **about, "curve": curve}
    least = f"--error-rate {curve[0]['error_rate']:g} or more" if curve else "no --error-rate"
    raise Refused(
        f"{name} cannot promise an error rate of {chosen:g} from {groups:,} independent calibration photos.",
        f"Use {least}, or more photos.",
    )


def choose_point(
    spec: PointSpec,
    variant: str,
    labels: Sequence[str],
    calibration: tuple[Probabilities, Photos],
    test: tuple[Probabilities, Photos],
) -> dict[str, Any]:
    """An entry of `operating_points` in bundle.json, chosen on calibration and measured on test photos.

    Raises Refused when no threshold meets the goal on the calibration photos. Where they are too few to prove
    it with 95 % confidence, `note` says how many are missing.
    """
    position = labels.index(spec.label)
    (calibrated, photos), (probabilities, others) = calibration, test
    scores, is_it = calibrated[:, position], photos.labels == position
    point = operating_point(scores, is_it, groups=photos.groups, **{spec.kind: spec.value})
    threshold = point["threshold"]
    if threshold is None or not is_it.any():
        raise _unmet(spec, variant, scores, is_it)
    reached = rates_at(
        point_cutoff(threshold), probabilities[:, position], others.labels == position, groups=others.groups
    )
    return {
        "label": spec.label,
        "wish": point["wish"],
        "threshold": threshold,
        **{name: point[name] for name in PROOF if name in point},
        "calibration": {name: point[name] for name in FIGURES},
        "test": {name: reached[name] for name in FIGURES},
        **_note(spec, point),
    }


def _unmet(spec: PointSpec, variant: str, scores: Floats, is_it: Flags) -> Refused:
    what = f"No threshold of {variant} meets {spec.name} on the calibration photos"
    if not is_it.any():
        return Refused(f"{what}: none of them is {spec.label}.", "Prepare the dataset from more photos.")
    what = f"{what}, except by never deciding {spec.label}"
    if spec.kind != "max_fpr":
        return Refused(f"{what}.", f"State a greater {spec.kind}.")
    _, _, alarms = threshold_steps(scores, is_it)
    least = math.ceil(1e6 * alarms[1] / alarms[-1]) / 1e6
    return Refused(
        f"{what}: {alarms[1]} of {alarms[-1]} others score highest.",
        f"Check their labels, or allow more: {spec.label}:max_fpr={least:.6g}.",
    )


def _note(spec: PointSpec, point: Mapping[str, Any]) -> dict[str, str]:
    """How many photos are missing to prove the goal."""
    if point.get("proven", True):
        return {}
    who = spec.label if spec.kind == "min_recall" else f"labels other than {spec.label}"
    if point["missing"] is None:
        return {"note": f"not proven: no number of photos proves {spec.kind}={spec.value:.12g}"}
    return {
        "note": f"not proven with 95 % confidence: {point['groups']:,} independent calibration photos of "
        f"{who}, {point['missing']:,} more are needed"
    }


@dataclass(frozen=True)
class Judged:
    """A variant that passed: bundle.json entry, files, golden logits, accuracy on calibration photos."""

    entry: dict[str, Any]
    files: dict[str, bytes]
    logits: Logits
    calibration_accuracy: float

    def to_json(self) -> dict[str, Any]:
        """The variant in the machine answer of `catflap export`."""
        return {"bytes": sum(map(len, self.files.values())), **self.entry}

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The variant for a Workspace."""
        files = {f"file.{name}": np.frombuffer(data, np.uint8) for name, data in self.files.items()}
        about = json.dumps([self.entry, self.calibration_accuracy]).encode()
        return {"about": np.frombuffer(about, np.uint8), "logits": self.logits, **files}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Judged:
        """The variant that `to_arrays` wrote."""
        entry, accuracy = json.loads(arrays["about"].tobytes())
        files = {
            name.removeprefix("file."): data.tobytes()
            for name, data in arrays.items()
            if name.startswith("file.")
        }
        return cls(entry, files, arrays["logits"], accuracy)
