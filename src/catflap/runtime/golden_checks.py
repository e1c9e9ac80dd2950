"""Golden checks: does a Bundle give the same pixels and logits on this machine as when it was exported?"""

from __future__ import annotations

import numpy as np

from catflap.artifacts.bundle import Bundle, Variant
from catflap.artifacts.golden import Golden, read_golden
from catflap.artifacts.results import Check
from catflap.errors import BadArtifact, BadPhoto
from catflap.image import read_pixels
from catflap.progress import Progress, silent, track
from catflap.runtime.engine import open_variant, runnable_variants
from catflap.runtime.engine_onnx import run_with_embedding
from catflap.runtime.ood import check_width


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
