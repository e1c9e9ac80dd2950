"""Drift: how often undisturbed windows of 200 photos alarm, and how far disturbed ones are.

    python benchmarks/drift.py
    python benchmarks/drift.py --photos PHOTOS --bundle mine.catflap

Photos: class folders, CATFLAP_PHOTOS or ../shared/data/photos. Their test and calibration roles are judged.
To count false alarms these are dealt anew into two halves, by near-duplicate group: one gives the baseline,
windows of the other are measured.
A score above 1 alarms.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import header
from PIL import Image, ImageFilter

from catflap.artifacts.dataset import Photos
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.evaluation.drift import WINDOW, make_baseline, measure_drift
from catflap.exporting.drawings import scene
from catflap.image import encode
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import softmax
from catflap.runtime.scoring import PhotoBytes, score


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("CATFLAP_PHOTOS") or Path(__file__).parents[2] / "shared" / "data" / "photos"
    parser.add_argument("--photos", type=Path, default=Path(default), help="a class folder")
    parser.add_argument("--bundle", default="cat")
    parser.add_argument("--deals", type=int, default=300, help="into two halves, five windows each")
    args = parser.parse_args()
    classifier = Classifier(args.bundle)

    def judged(photos: PhotoBytes) -> np.ndarray:
        return softmax(score(classifier.model, photos, classifier.frame), classifier.variant.temperature)

    with tempfile.TemporaryDirectory() as folder:
        manifest = scan(args.photos, Path(folder) / "manifest")
        dataset = prepare(manifest, Path(folder) / "dataset", frame=classifier.frame)
        calibration, test = dataset.photos("calibration"), dataset.photos("test")
        header(window=WINDOW, calibration=len(calibration), test=len(test), deals=args.deals)
        answers = [judged(calibration), judged(test)]
        groups = np.concatenate([calibration.groups, test.groups + calibration.groups.max() + 1])
        print(
            json.dumps({"undisturbed": undisturbed(np.concatenate(answers), groups, classifier, args.deals)})
        )
        baseline = make_baseline(answers[0], classifier.labels, calibration.groups)
        for name, change in CHANGES.items():
            drift = measure_drift(judged(changed(test, change)), classifier.labels, baseline)
            print(json.dumps({name: drift.to_json()}))
        drawn = [encode(scene(seed, 500, 375), "JPEG") for seed in range(WINDOW)]
        print(json.dumps({"drawings": measure_drift(judged(drawn), classifier.labels, baseline).to_json()}))


def undisturbed(
    answers: np.ndarray, groups: np.ndarray, classifier: Classifier, deals: int
) -> dict[str, float]:
    """The share of windows that alarm though nothing was changed, and the greatest score."""
    random = np.random.default_rng(0)
    every = np.unique(groups)
    scores = []
    for _ in range(deals):
        random.shuffle(every)
        first = np.isin(groups, every[: len(every) // 2])
        baseline = make_baseline(answers[first], classifier.labels, groups[first])
        rest = np.flatnonzero(~first)
        for _ in range(5):
            window = answers[random.permutation(rest)[:WINDOW]]
            scores.append(measure_drift(window, classifier.labels, baseline).score)
    alarms = float(np.mean(np.array(scores) > 1))
    return {"windows": len(scores), "alarms": round(alarms, 4), "greatest_score": round(max(scores), 3)}


def blur(strength: float) -> Callable[[Image.Image], Image.Image]:
    """A Gaussian blur of this radius on a photo of 500 px."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(strength * max(image.size) / 500))


def night(light: float) -> Callable[[Image.Image], Image.Image]:
    """This share of the light, with the noise of a sensor."""

    def change(image: Image.Image) -> Image.Image:
        levels = np.asarray(image, np.float32) * light
        noise = np.random.default_rng(0).normal(0, 6, levels.shape)
        return Image.fromarray(np.clip(levels + noise, 0, 255).astype(np.uint8))

    return change


CHANGES = {
    "unchanged, saved again": lambda image: image,
    "blur, radius 2 of 500 px": blur(2),
    "blur, radius 5 of 500 px": blur(5),
    "a quarter of the light": night(0.25),
    "a tenth of the light": night(0.1),
}


def changed(photos: Photos, change: Callable[[Image.Image], Image.Image]) -> list[bytes]:
    """A window of photos, each changed and saved as JPEG."""
    found = []
    for position in np.random.default_rng(1).permutation(len(photos))[:WINDOW]:
        image = change(Image.open(io.BytesIO(photos[int(position)])).convert("RGB"))
        found.append(encode(np.asarray(image), "JPEG", quality=92))
    return found


if __name__ == "__main__":
    main()
