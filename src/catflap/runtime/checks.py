"""Does a Bundle give here the pixels and the answers that were recorded when it was exported?"""

from __future__ import annotations

import numpy as np

from catflap.artifacts.bundle import Bundle, Variant
from catflap.artifacts.golden import Golden, read_golden
from catflap.artifacts.results import Check
from catflap.errors import BadArtifact, BadPhoto
from catflap.image import read_pixels
from catflap.progress import Progress, silent, track
from catflap.runtime.engines.onnx import run_with_embedding
from catflap.runtime.engines.opening import open_in, runnable
from catflap.runtime.strangeness import check_width


def check_bundle(
    bundle: Bundle,
    *,
    variants: tuple[str, ...] = (),
    threads: int | None = None,
    progress: Progress = silent,
) -> tuple[Check, ...]:
    """The golden cases of an opened Bundle, run on this machine: its pixels, then each variant's answers.

    Without `variants` all that can run here. Raises BadArtifact when the golden cases themselves are
    damaged, and MissingExtra when a named variant cannot run, or none can.
    """
    golden = read_golden(bundle)
    run = [bundle.variant(name) for name in variants or runnable(bundle)]
    return (
        check_pixels(bundle, golden),
        *(
            check_answers(bundle, golden, variant, threads)
            for variant in track(run, "verify", len(run), progress)
        ),
    )


def check_pixels(bundle: Bundle, golden: Golden) -> Check:
    """The largest difference, in grey levels, between golden frames and what image.py makes of them here."""
    limit = bundle.head["golden"]["pixel_tolerance"]
    worst = 0
    for photo, expected in zip(golden.photos, golden.frames, strict=True):
        try:
            pixels = read_pixels(photo, bundle.frame)
        except BadPhoto as error:
            return Check("pixels", False, error.what, limit)
        worst = max(worst, int(np.abs(pixels.astype(np.int16) - expected).max()))
    return Check("pixels", worst <= limit, worst, limit)


def check_answers(bundle: Bundle, golden: Golden, variant: Variant, threads: int | None = None) -> Check:
    """The largest difference between a variant's golden logits and those that it gives here.

    Fails, too, when its embeddings are not finite, or not those that its baseline describes.
    """
    name = f"golden:{variant.name}"
    expected = golden.logits[variant.name]
    try:
        answers, embeddings = run_with_embedding(open_in(bundle, variant, threads), golden.frames)
        check_width(variant, None if embeddings is None else embeddings.shape[1])
    except BadArtifact as error:
        return Check(name, False, error.what, variant.tolerance)
    if answers.shape != expected.shape or not np.isfinite(answers).all():
        return Check(name, False, f"answers of the shape {answers.shape}", variant.tolerance)
    if embeddings is not None and not np.isfinite(embeddings).all():
        return Check(name, False, "an embedding that is not a number", variant.tolerance)
    worst = float(np.abs(answers - expected).max())
    return Check(name, worst <= variant.tolerance, worst, variant.tolerance)
