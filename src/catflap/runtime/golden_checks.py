"""Golden checks: does a Bundle give the same pixels and logits on this machine as when it was exported?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle, Variant
from catflap.artifacts.golden import Golden, read_golden
from catflap.artifacts.results import Check
from catflap.errors import BadArtifact, BadPhoto
from catflap.image import Pixels, read_pixels
from catflap.progress import Progress, silent, track
from catflap.runtime.decisions import decide, decision_rule, softmax
from catflap.runtime.engine import Model, open_variant, run_with_embedding, runnable_variants
from catflap.runtime.ood import (
    are_unknown,
    check_width,
    embedding_models,
    ood_scores,
    wrong_embedding,
)

PROBE_MARGIN = 0.01  # in log odds: beyond the error of float32, and near to the threshold
LEAST_MARGIN = 1e-4  # in log odds: still beyond the error of float32
OOD_TOLERANCE = 0.1  # of an OOD score: 1 is the 99 % quantile of calibration photos
PROBABILITY_TOLERANCE = 1e-4  # what float32 and other machines may differ by


def check_bundle(
    bundle: Bundle,
    *,
    variants: tuple[str, ...] = (),
    threads: int | None = None,
    progress: Progress = silent,
) -> tuple[Check, ...]:
    """Run an open Bundle's golden cases on this machine: check its pixels, then each variant's logits.

    Without `variants`, all that can run here. Raises BadArtifact when the golden cases themselves are
    damaged, and MissingExtra when a named variant, or every variant, cannot run.
    """
    golden = read_golden(bundle)
    chosen = [bundle.variant(name) for name in variants or runnable_variants(bundle)]
    checks = [check_pixels(bundle, golden)]
    for variant in track(chosen, "verify", len(chosen), progress):
        checks.append(check_logits(bundle, golden, variant, threads))
        if variant.unknown is not None:
            checks.append(check_unknown(bundle, golden, variant, threads))
        if variant.name in golden.decisions:
            checks.append(check_decisions(bundle, golden, variant))
    return tuple(checks)


def check_pixels(bundle: Bundle, golden: Golden) -> Check:
    """The largest difference, in grey levels, between the golden frames and image.py's result here."""
    limit = bundle.head["golden"]["pixel_tolerance"]
    worst = 0
    for photo, expected in zip(golden.photos, golden.frames, strict=True):
        try:
            pixels = read_pixels(photo, bundle.frame)
        except BadPhoto as error:
            return Check("pixels", False, error.what, limit)
        worst = max(worst, int(np.abs(pixels.astype(np.int16) - expected).max()))
    return Check("pixels", worst <= limit, worst, limit)


def golden_decisions(
    logits: npt.NDArray[np.float32], labels: Sequence[str], temperature: float, decision: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Probabilities (n, labels) and decisions (n,) of logits: the label's number, or -1 for no label."""
    probabilities = softmax(logits, temperature)
    numbers = {label: number for number, label in enumerate(labels)}
    decisions = [numbers.get(word, -1) for word in decide(probabilities, labels, decision_rule(decision))]
    return probabilities.astype(np.float32), np.array(decisions, np.int32)


def threshold_probes(labels: int, temperature: float, decision: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Logits (2, labels) whose highest probability is just above the decision threshold, and just below it.

    A threshold that every answer reaches, or none, has both on its one side. The highest probability cannot
    be below 1 / labels, so of a threshold close above that the lower one lies half way.
    """
    threshold = min(max(decision_rule(decision).threshold, 1e-6), 1 - 1e-6)
    odds = math.log(threshold / (1 - threshold)) + math.log(max(labels - 1, 1))
    below = odds - PROBE_MARGIN if odds > 2 * PROBE_MARGIN else odds / 2
    tops = [max(odds, 0.0) + PROBE_MARGIN, below if below > LEAST_MARGIN else PROBE_MARGIN]
    rows = np.zeros((len(tops), labels), np.float32)
    rows[:, 0] = np.array(tops) * temperature
    return rows


def check_decisions(bundle: Bundle, golden: Golden, variant: Variant) -> Check:
    """The largest difference between recorded golden probabilities and those of bundle.json's temperature.

    Fails, too, when a decision is another one than was recorded: the threshold, the temperature or the rule
    is not the exported one.
    """
    name = f"decisions:{variant.name}"
    logits = np.concatenate([golden.logits[variant.name], golden.probes[variant.name]])
    probabilities, decisions = golden_decisions(logits, bundle.labels, variant.temperature, variant.decision)
    changed = int((decisions != golden.decisions[variant.name]).sum())
    if changed:
        return Check(name, False, f"{changed} of {len(decisions)} decisions differ", PROBABILITY_TOLERANCE)
    worst = float(np.abs(probabilities - golden.probabilities[variant.name]).max())
    return Check(name, worst <= PROBABILITY_TOLERANCE, worst, PROBABILITY_TOLERANCE)


def golden_ood_scores(
    variant: Variant, labels: Sequence[str], model: Model, frames: Pixels, logits: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The OOD scores (n + 2,) of golden frames (n, …), then two numbers around the threshold.

    The likeliest labels are those of the recorded `logits` (n, labels). NaN, of a label without a model, is
    0. Raises BadArtifact where the model gives no embedding that fits the baseline.
    """
    assert variant.unknown is not None
    _, embeddings = run_with_embedding(model, frames)
    if embeddings is None or not np.isfinite(embeddings).all():
        raise wrong_embedding(variant)
    check_width(variant, embeddings.shape[1])
    scores = ood_scores(embeddings, logits.argmax(axis=1), embedding_models(variant.baseline, labels))
    limit = variant.unknown["threshold"]
    return np.append(np.nan_to_num(scores, nan=0.0), [limit * 1.001, limit * 0.999]).astype(np.float32)


def check_unknown(bundle: Bundle, golden: Golden, variant: Variant, threads: int | None = None) -> Check:
    """The largest difference between recorded golden OOD scores and those here.

    Fails, too, where the threshold refuses others than were refused at export, or nothing was recorded.
    """
    name = f"unknown:{variant.name}"
    assert variant.unknown is not None
    if variant.name not in golden.unknown:
        return Check(name, False, "no golden OOD scores were recorded", OOD_TOLERANCE)
    recorded = golden.ood[variant.name]
    changed = int((are_unknown(recorded, variant.unknown["threshold"]) != golden.unknown[variant.name]).sum())
    if changed:
        return Check(name, False, f"{changed} of {len(recorded)} refusals differ", OOD_TOLERANCE)
    try:
        model = open_variant(bundle, variant, threads)
        here = golden_ood_scores(variant, bundle.labels, model, golden.frames, golden.logits[variant.name])
    except BadArtifact as error:
        return Check(name, False, error.what, OOD_TOLERANCE)
    worst = float(np.abs(here[:-2] - recorded[:-2]).max())
    return Check(name, worst <= OOD_TOLERANCE, worst, OOD_TOLERANCE)


def check_logits(bundle: Bundle, golden: Golden, variant: Variant, threads: int | None = None) -> Check:
    """The largest difference between a variant's golden logits and its logits here.

    Fails, too, when its embeddings are not finite or do not fit its baseline.
    """
    name = f"golden:{variant.name}"
    expected = golden.logits[variant.name]
    try:
        logits, embeddings = run_with_embedding(open_variant(bundle, variant, threads), golden.frames)
        check_width(variant, None if embeddings is None else embeddings.shape[1])
    except BadArtifact as error:
        return Check(name, False, error.what, variant.tolerance)
    if logits.shape != expected.shape or not np.isfinite(logits).all():
        found = f"logits of shape {logits.shape}, finite: {bool(np.isfinite(logits).all())}"
        return Check(name, False, found, variant.tolerance)
    if embeddings is not None and not np.isfinite(embeddings).all():
        return Check(name, False, "embeddings that are not finite", variant.tolerance)
    worst = float(np.abs(logits - expected).max())
    return Check(name, worst <= variant.tolerance, worst, variant.tolerance)
