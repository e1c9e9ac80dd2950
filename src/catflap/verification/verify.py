"""Does this Bundle do here what was tested when it was exported?"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from catflap.artifacts.bundle import SHIPPED, SUFFIX, Bundle, Variant, read_bundle
from catflap.artifacts.golden import Golden, read_golden
from catflap.artifacts.results import Check, Verdict
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.image import read_pixels
from catflap.progress import Progress, silent, told
from catflap.runtime.session import open_model


def verify(
    path: str | os.PathLike[str], *, threads: int | None = None, progress: Progress = silent
) -> Verdict:
    """The Verdict on a Bundle on this machine: its bytes, its pixels and every variant's answers.

    A damaged bundle gets a failed Verdict; CatflapError only when there is no file to judge.
    """
    if not Path(path).is_file() and not (SHIPPED / f"{path}{SUFFIX}").is_file():
        raise CatflapError(f"There is no bundle {os.fspath(path)!r}.", "Name a .catflap file.")
    try:
        bundle = read_bundle(path)
        golden = read_golden(bundle)
    except BadArtifact as error:
        return Verdict(os.fspath(path), (Check("integrity", False, error.what, "every byte as exported"),))
    checks = [Check("integrity", True, bundle.sha256, "every byte as exported"), check_pixels(bundle, golden)]
    variants = bundle.variants.values()
    checks += [
        check_answers(bundle, golden, variant, threads)
        for variant in told(variants, "verify", len(variants), progress)
    ]
    return Verdict(os.fspath(path), tuple(checks))


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
    """The largest difference between a variant's golden logits and those that it gives here."""
    name = f"golden:{variant.name}"
    expected = golden.logits[variant.name]
    try:
        answers = open_model(bundle.members[variant.file], threads)(golden.frames)
    except BadArtifact as error:
        return Check(name, False, error.what, variant.tolerance)
    if answers.shape != expected.shape or not np.isfinite(answers).all():
        return Check(name, False, f"answers of the shape {answers.shape}", variant.tolerance)
    worst = float(np.abs(answers - expected).max())
    return Check(name, worst <= variant.tolerance, worst, variant.tolerance)
