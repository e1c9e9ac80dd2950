"""What a variant loses against the Checkpoint, measured from raw photo bytes, and when that is too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Variant
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.errors import Refused
from catflap.evaluation.calibration import conformal_threshold, fit_temperature
from catflap.evaluation.drift_baseline import make_baseline
from catflap.evaluation.gate import fidelity, furthest, gate
from catflap.evaluation.metrics import measure
from catflap.exporting.points import choose_point
from catflap.image import Frame, Pixels
from catflap.progress import Progress, silent, track
from catflap.runtime.decisions import PointSpec, Probabilities, softmax
from catflap.runtime.engine import Embeddings, Logits, Model
from catflap.runtime.engine_onnx import open_model, run_with_embedding
from catflap.runtime.image_statistics import NO_STATISTICS, image_statistics
from catflap.runtime.scoring import BATCH, frames_of, score
from catflap.training.networks.answer import open_checkpoint

MOST_PHOTOS = 20_000  # of a role, drawn; more would not change a digit that is printed
REFERENCE_PHOTOS = 2_000  # of the test role, that the Checkpoint itself answers: torch is slow on a CPU
ERROR_RATE = 0.01
NAMED = 3  # photos in a refusal
LOOKED_AT = 2_000  # calibration photos, for the baseline of looks and embeddings


@dataclass(frozen=True)
class Precision:
    """What a variant may lose against the Checkpoint before export refuses it.

    `spread` is the share of the largest golden logit by which another machine may always differ.
    Flips live among the photos that a model hardly decides, and a weak model has more of those:
    so half of the Checkpoint's own errors may flip and a quarter be added (`of_errors`), and at
    least the stated rates. `free` photos are always allowed, because so few cannot tell.
    """

    spread: float
    max_flip_rate: float
    max_probability_difference: float
    max_accuracy_drop: float
    of_errors: tuple[float, float]
    free: int


PRECISIONS: Mapping[str, Precision] = {
    "int8": Precision(0.03, 0.005, 0.5, 0.005, (0.5, 0.25), 2),
    "fp16": Precision(0.01, 0.001, 0.05, 0.001, (0.1, 0.05), 1),
    "frame": Precision(0.001, 0.002, 0.05, 0.002, (0.1, 0.05), 1),  # float, but other pixels by a level
    "fp32": Precision(0.001, 0.0, 1e-3, 0.0, (0.0, 0.0), 0),
}


@dataclass(frozen=True)
class EvaluationSet:
    """The photos that judge a variant, and what the Checkpoint answers on the first of the test role.

    `looks` are how the calibration photos look, (n, 3), not a number beyond the first 2,000. Whether the
    Checkpoint's answers are as sure as other photos have shown is `calibrated`. `wishes` are the operating
    points that each variant is to have.
    """

    calibration: Photos
    test: Photos
    frame: Frame
    labels: tuple[str, ...]
    reference: Logits
    looks: npt.NDArray[np.float64]
    calibrated: bool
    wishes: tuple[PointSpec, ...] = ()

    def temperature(self, answers: Logits) -> float:
        """That of a model which answers this to the calibration photos."""
        photos = self.calibration
        return fit_temperature(answers, photos.labels, photos.groups, calibrated=self.calibrated)


@dataclass(frozen=True)
class CalibrationAnswers:
    """What a model answers to the calibration photos: logits (n, labels), and embeddings where it has them.

    These, (≤ 2,000, width), are of the first photos.
    """

    logits: Logits
    embeddings: Embeddings | None


def load_evaluation_set(
    checkpoint: Checkpoint, dataset: Dataset, progress: Progress, wishes: tuple[PointSpec, ...] = ()
) -> EvaluationSet:
    """The calibration and test photos of a Dataset, with what the Checkpoint answers on the latter."""
    calibration, test = (_sample(dataset.photos(role)) for role in ("calibration", "test"))
    compared = test.take(np.arange(min(len(test), REFERENCE_PHOTOS)))
    reference = score(open_checkpoint(checkpoint), compared, checkpoint.frame, "checkpoint on test", progress)
    looks = _looks(calibration, checkpoint.frame, progress)
    calibrated = checkpoint.is_calibrated
    return EvaluationSet(
        calibration, test, checkpoint.frame, dataset.labels, reference, looks, calibrated, wishes
    )


def _looks(photos: Photos, frame: Frame, progress: Progress) -> npt.NDArray[np.float64]:
    """How the first of the photos look as frames, (n, 3); the others are not a number."""
    first = photos.take(np.arange(min(len(photos), LOOKED_AT)))
    batches = track(frames_of(first, frame), "looks of calibration", -(-len(first) // BATCH), progress)
    found = [image_statistics(pixels) for frames in batches for pixels in frames]
    return np.array(found + [NO_STATISTICS] * (len(photos) - len(found)))


def _sample(photos: Photos) -> Photos:
    """At most MOST_PHOTOS of a role, in an order that mixes the labels, the same every time."""
    order = np.random.default_rng(0).permutation(len(photos))
    return photos.take(order[:MOST_PHOTOS])


def golden_tolerance(
    precision: Precision,
    variant: Variant,
    files: Mapping[str, bytes],
    logits: Logits,
    frames: Pixels,
    output: str,
) -> float:
    """By how much a golden logit may differ elsewhere: a share, or twice what plain arithmetic changes here.

    Runtimes and cards without int8 emulate it in float, and then round otherwise; only ONNX Runtime can be
    told to do so here, whose graphs call their logits `output`. Processors do not differ: what those without
    VNNI would cut off, `open_session` has them sum exactly.
    """
    least = precision.spread * float(np.abs(logits).max())
    if variant.runtime != "onnxruntime":
        return least
    emulated = open_model(files[variant.file], optimise=False, output=output)(frames)
    return max(least, 2 * float(np.abs(logits - emulated).max()))


def answer_calibration(
    model: Model,
    evaluation: EvaluationSet,
    step: str = "calibration",
    progress: Progress = silent,
    *,
    whole: bool = False,
) -> CalibrationAnswers:
    """What a model answers to the calibration photos, read from their bytes; `whole` as `score` has it."""
    kept = list[Embeddings]()
    logits = score(
        _keeping(model, kept), evaluation.calibration, evaluation.frame, step, progress, whole=whole
    )
    return CalibrationAnswers(logits, np.concatenate(kept) if kept else None)


def judge(
    variant: Variant,
    model: Model,
    evaluation: EvaluationSet,
    answered: CalibrationAnswers,
    progress: Progress,
) -> dict[str, Any]:
    """A variant's entry in bundle.json, measured from raw bytes; Refused when it lost too much.

    `answered` is what it answers to the calibration photos.
    """
    name, whole = variant.name, variant.takes_photos
    test = score(model, evaluation.test, evaluation.frame, f"{name} on test", progress, whole=whole)
    temperature = evaluation.temperature(answered.logits)
    calibration, probabilities = softmax(answered.logits, temperature), softmax(test, temperature)
    compared = len(evaluation.reference)
    reference = softmax(evaluation.reference, temperature)
    lost = fidelity(
        reference,
        probabilities[:compared],
        evaluation.test.labels[:compared],
        evaluation.test.groups[:compared],
    )
    precision = PRECISIONS["frame" if variant.takes_photos else variant.precision]
    errors = float(np.mean(evaluation.reference.argmax(1) != evaluation.test.labels[:compared]))
    free = precision.free / compared
    checks = gate(
        lost,
        max_flip_rate=max(precision.max_flip_rate, precision.of_errors[0] * errors, free),
        max_probability_difference=precision.max_probability_difference,
        max_accuracy_drop=max(precision.max_accuracy_drop, precision.of_errors[1] * errors, free),
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        told = ", ".join(f"{check.name} {check.value:.4g} > {check.limit:.4g}" for check in failed)
        raise Refused(
            f"The variant {name} differs too much from the checkpoint: {told}. "
            f"Most changed: {_changed(reference, probabilities[:compared], evaluation)}.",
            "Export it without this variant (--variants), or give it more calibration photos.",
        )
    return {
        "file": variant.file,
        **({"weights": variant.weights} if variant.weights else {}),
        "runtime": variant.runtime,
        "precision": variant.precision,
        "temperature": temperature,
        "metrics": measure(probabilities, evaluation.test.labels, evaluation.test.groups, evaluation.labels),
        "fidelity": lost,
        "decision": _decision(calibration, evaluation.calibration),
        **_points(name, calibration, probabilities, evaluation),
        "baseline": make_baseline(
            calibration,
            evaluation.labels,
            evaluation.calibration.groups,
            evaluation.looks,
            answered.embeddings,
        ),
    }


def _points(
    name: str, calibration: Probabilities, test: Probabilities, evaluation: EvaluationSet
) -> dict[str, Any]:
    """The field of a variant's operating points, where some are wished for."""
    roles = (calibration, evaluation.calibration), (test, evaluation.test)
    points = [choose_point(wish, name, evaluation.labels, *roles) for wish in evaluation.wishes]
    return {"operating_points": points} if points else {}


def _keeping(model: Model, kept: list[Embeddings]) -> Model:
    """The model, which also keeps the embeddings of the first photos where it has such an output."""

    def run(frames: Pixels) -> Logits:
        if sum(map(len, kept)) >= LOOKED_AT:
            return model(frames)
        logits, found = run_with_embedding(model, frames)
        if found is not None:
            kept.append(found)
        return logits

    return run


def _changed(
    reference: npt.NDArray[np.float64], probabilities: npt.NDArray[np.float64], evaluation: EvaluationSet
) -> str:
    """The photos that differ most, by the first 12 letters of their ids, with both probabilities."""
    return ", ".join(
        f"photo {evaluation.test.ids[row][:12]} {evaluation.labels[label]} "
        f"{reference[row, label]:.3f} → {probabilities[row, label]:.3f}"
        for row, label in furthest(reference, probabilities, NAMED)
    )


def _decision(probabilities: npt.NDArray[np.float64], calibration: Photos) -> dict[str, Any]:
    """The conformal threshold for the least error rate, from ERROR_RATE up, that the groups can promise."""
    groups = len(np.unique(calibration.groups))
    rate = max(ERROR_RATE, 1.0 / (groups + 1))
    threshold = conformal_threshold(probabilities, calibration.labels, rate, calibration.groups)
    return {"threshold": threshold, "error_rate": rate, "photos": len(calibration), "groups": groups}
