"""The verb `demo`: the shipped bundle on free photos, then a build from scikit-learn's digits."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.bundle import SHIPPED, SUFFIX
from catflap.comparison.compare import compare
from catflap.errors import MissingExtra, Refused
from catflap.image import Frame, encode
from catflap.installing import install_extra
from catflap.pipeline.build import build
from catflap.progress import Progress, silent
from catflap.runtime.classifier import Classifier
from catflap.verification.verify import verify

CAT = SHIPPED / f"cat{SUFFIX}"
SAMPLES = (
    "chelsea.png",
    "astronaut.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
)  # the first is a cat
DIGIT_PX = 64


def demo(out: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Classify free photos with the shipped cat Bundle, then build, verify and compare one from digits.

    Writes scikit-learn's digits as PNGs, their artefacts and the Bundle into the folder `out`.
    Raises MissingExtra without scikit-image and scikit-learn, Refused when an answer is wrong.
    """
    return {"samples": judge_samples(), **build_digits(Path(out), progress)}


def judge_samples() -> list[dict[str, Any]]:
    """The shipped cat Bundle's answers on photos of scikit-image, after verifying the bundle."""
    try:
        folder = files("skimage.data")
    except ModuleNotFoundError as error:
        raise MissingExtra("The demo needs scikit-image.", f"Run: {install_extra('train')}") from error
    if not verify(CAT).passed:
        raise Refused("The shipped cat bundle does not pass on this machine.", "Run: catflap verify cat")
    classifier = Classifier(CAT)
    rows = []
    for name in SAMPLES:
        prediction = classifier(folder.joinpath(name).read_bytes())
        rows.append({"photo": name, "label": prediction.label, "probability": prediction.probability})
    if [row["label"] == "cat" for row in rows] != [number == 0 for number in range(len(rows))]:
        raise Refused(
            "The shipped cat bundle classified a sample photo wrongly.", "Report this with catflap doctor."
        )
    return rows


def build_digits(out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Ten digits: from a folder of PNGs to a verified Bundle, an answer, and the comparison."""
    photos = write_digits(out / "photos")
    summary = build(photos, out / "digits.catflap", frame=Frame(DIGIT_PX, DIGIT_PX), progress=progress)
    first = sorted((photos / "7").iterdir())[0]
    prediction = Classifier(out / "digits.catflap")(first)
    return {
        "digits": summary,
        "prediction": {"photo": str(first), **prediction.to_json()},
        "comparison": compare(out / "digits.build" / "checkpoint", out / "digits.catflap", progress=progress),
    }


def write_digits(folder: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits as 8 × 8 PNGs, one folder a digit; written once."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtra("The demo needs scikit-learn.", f"Run: {install_extra('train')}") from error
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode((pixels * 255 / 16).astype(np.uint8), "PNG"))
    return folder
