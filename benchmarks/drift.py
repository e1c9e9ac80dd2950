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
from time import perf_counter

import numpy as np
from machine import header
from PIL import Image, ImageFilter

from catflap.artifacts.dataset import Photos
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.evaluation.drift import WINDOW, make_baseline, measure_drift
from catflap.exporting.drawings import scene
from catflap.image import encode, read_pixels
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import softmax
from catflap.runtime.looks import look_of
from catflap.runtime.scoring import PhotoBytes, frames_of


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

    def judged(photos: PhotoBytes) -> tuple[np.ndarray, np.ndarray]:
        """The answers (n, labels) and the looks (n, 3)."""
        logits, looks = [], []
        for frames in frames_of(photos, classifier.frame):
            logits.append(classifier.model(frames))
            looks += [look_of(frame) for frame in frames]
        return softmax(np.concatenate(logits), classifier.variant.temperature), np.array(looks)

    with tempfile.TemporaryDirectory() as folder:
        manifest = scan(args.photos, Path(folder) / "manifest")
        dataset = prepare(manifest, Path(folder) / "dataset", frame=classifier.frame)
        calibration, test = dataset.photos("calibration"), dataset.photos("test")
        header(window=WINDOW, calibration=len(calibration), test=len(test), deals=args.deals)
        given, seen = judged(calibration)
        more, seen_too = judged(test)
        groups = np.concatenate([calibration.groups, test.groups + calibration.groups.max() + 1])
        every = (np.concatenate([given, more]), np.concatenate([seen, seen_too]))
        print(json.dumps({"undisturbed": undisturbed(*every, groups, classifier, args.deals)}))
        baseline = make_baseline(given, classifier.labels, calibration.groups, seen)
        drawn = [encode(scene(seed, 500, 375), "JPEG") for seed in range(WINDOW)]
        windows = {name: changed(test, change) for name, change in CHANGES.items()} | {"drawings": drawn}
        for name, photos in windows.items():
            answers, looks = judged(photos)
            drift = measure_drift(answers, classifier.labels, baseline, looks)
            print(json.dumps({name: drift.to_json()}))
        print(json.dumps({"cost": cost(classifier, test[0])}))


def cost(classifier: Classifier, photo: bytes, times: int = 200) -> dict[str, float]:
    """What looking at a frame takes, in turns with a whole answer."""
    frame = read_pixels(photo, classifier.frame)
    answer_ms, look_ms = [], []
    for _ in range(times):
        begun = perf_counter()
        classifier(photo)
        between = perf_counter()
        look_of(frame)
        look_ms.append((perf_counter() - between) * 1e3)
        answer_ms.append((between - begun) * 1e3)
    answer, look = float(np.median(answer_ms)), float(np.median(look_ms))
    return {
        "answer_ms": round(answer, 3),
        "look_ms": round(look, 3),
        "share": round(look / answer, 4),
        "n": times,
    }


def undisturbed(
    answers: np.ndarray, looks: np.ndarray, groups: np.ndarray, classifier: Classifier, deals: int
) -> dict[str, float]:
    """The share of windows that alarm though nothing was changed, and the greatest score."""
    random = np.random.default_rng(0)
    every = np.unique(groups)
    scores = []
    for _ in range(deals):
        random.shuffle(every)
        first = np.isin(groups, every[: len(every) // 2])
        baseline = make_baseline(answers[first], classifier.labels, groups[first], looks[first])
        rest = np.flatnonzero(~first)
        for _ in range(5):
            window = random.permutation(rest)[:WINDOW]
            drift = measure_drift(answers[window], classifier.labels, baseline, looks[window])
            scores.append(drift.score)
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
    "blur, radius 1 of 500 px": blur(1),
    "blur, radius 2 of 500 px": blur(2),
    "blur, radius 5 of 500 px": blur(5),
    "half of the light": night(0.5),
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
