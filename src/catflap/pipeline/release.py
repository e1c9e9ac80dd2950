"""Export, then verify, and only then give the Bundle its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import SUFFIX
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.artifacts.folder import sweep, unwritable
from catflap.errors import CatflapError, Refused
from catflap.exporting.export import export
from catflap.progress import Progress, silent
from catflap.verification.verify import verify


def release(
    checkpoint: Checkpoint,
    out: Path,
    *,
    dataset: Dataset | None = None,
    variants: tuple[str, ...] = ("int8", "fp32"),
    golden_photos: tuple[bytes, ...] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a verified Bundle, or nothing: Refused when a variant or the Verdict says no.

    Without `dataset` it is the one that the Checkpoint was trained on, where that still lies.
    """
    out = Path(out)
    if not out.name.endswith(SUFFIX):
        raise CatflapError(f"A bundle's name ends with {SUFFIX}.", f"Use: -o {out.stem}{SUFFIX}")
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out)
        answer = export(
            checkpoint,
            dataset or load_dataset(checkpoint.path / checkpoint.dataset),
            partial,
            name=out.name.removesuffix(SUFFIX),
            variants=variants,
            golden_photos=golden_photos,
            progress=progress,
        )
        verdict = verify(partial, progress=progress)
        if not verdict.passed:
            failed = ", ".join(check.name for check in verdict.checks if not check.passed)
            raise Refused(
                f"The new bundle does not pass: {failed}.", "Report this with the output of catflap doctor."
            )
        partial.replace(out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return {**answer, "bundle": str(out), "verdict": verdict.to_json()["verdict"]}
