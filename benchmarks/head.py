"""The linear head on features of very many photos: seconds and memory, beside scikit-learn.

    python benchmarks/head.py --photos 100000 300000
    python benchmarks/head.py --photos 15000 --labels 10
    python benchmarks/head.py --photos 6000000 --alone     # more than memory holds: 31 GB of disk

Features are drawn (positive, correlated, as a backbone's are; the labels a noisy linear rule; of two a
sixth are cats), in a file that is mapped into memory, as `train` has them where they are many. Each fit is a
process of its own. Its memory is what it alone holds, without the pages of that file, which the system takes
back when it wants them; for scikit-learn that holds the float64 copy that it is given, scaled as the head's
features are. `agree` is how far the probabilities of 10,000 photos are from scikit-learn's, at most.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import header
from sklearn.linear_model import LogisticRegression

from catflap.runtime.decisions import softmax
from catflap.training.head import Head, fit_head

WIDTH, FACTORS, ROWS = 1280, 64, 10_000
STRENGTH = 3e-3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[100_000])
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without scikit-learn, which wants the memory")
    parser.add_argument("--fit", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fit:
        measure(args.fit[0], Path(args.fit[1]), args.labels)
        return
    header(photos=args.photos, labels=args.labels, width=WIDTH, strength=STRENGTH)
    for count in args.photos:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), count, args.labels)
            answers = {}
            for who in ("catflap",) if args.alone else ("catflap", "scikit-learn"):
                words = [sys.executable, __file__, "--fit", who, folder, "--labels", str(args.labels)]
                fit = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
                figures = json.loads(fit.stdout) if fit.returncode == 0 else {"ended_with": fit.returncode}
                print(json.dumps({"photos": count, "what": who, **figures}), flush=True)
                if fit.returncode == 0:
                    answers[who] = np.load(Path(folder) / f"{who}.npy")
            if len(answers) == 2:
                one, other = answers.values()
                print(json.dumps({"photos": count, "agree": float(np.abs(one - other).max())}), flush=True)


def draw(folder: Path, count: int, classes: int) -> None:
    """Features, float32 (count, 1280), and labels of as many photos."""
    dice = np.random.default_rng(0)
    mixes = dice.normal(size=(FACTORS, WIDTH)).astype(np.float32) / np.sqrt(FACTORS)
    rule = dice.normal(size=(WIDTH, 1 if classes == 2 else classes)).astype(np.float32)
    features = np.memmap(folder / "features", np.float32, "w+", shape=(count, WIDTH))
    labels = np.empty(count, np.int64)
    for begin in range(0, count, ROWS):
        rows = slice(begin, min(count, begin + ROWS))
        size = rows.stop - begin
        hidden = dice.normal(size=(size, FACTORS)).astype(np.float32)
        noise = dice.standard_normal((size, WIDTH), np.float32)
        features[rows] = np.maximum(hidden @ mixes + 0.5 * noise, 0)
        scores = (features[rows] - features[rows].mean(0)) @ rule
        scores = scores / scores.std() + 0.1 * dice.normal(size=scores.shape)
        labels[rows] = scores[:, 0] > 0.97 if classes == 2 else scores.argmax(1)
    np.save(folder / "labels.npy", labels)


def measure(who: str, folder: Path, classes: int) -> None:
    """Fit, and print what it took."""
    labels = np.load(folder / "labels.npy")
    features = np.memmap(folder / "features", np.float32, "r", shape=(len(labels), WIDTH))
    most, ended = [0.0], threading.Event()
    watcher = threading.Thread(target=watch, args=(most, ended))
    watcher.start()
    start, spent = time.perf_counter(), time.process_time()
    if who == "catflap":
        head = fit_head([(features, labels)], classes, STRENGTH, True)
    else:
        head = theirs(features, labels)
    taken = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - spent}
    ended.set()
    watcher.join()
    np.save(folder / f"{who}.npy", softmax(head.logits(features[:ROWS]), 1.0))
    print(json.dumps({**{name: round(value, 1) for name, value in taken.items()}, "peak_mb": round(most[0])}))


def theirs(features: np.memmap[Any, Any], labels: np.ndarray) -> Head:
    """scikit-learn's fit of the same problem."""
    centre, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = spread + 1e-3 * spread.max()
    scaled = features.astype(np.float64)
    scaled -= centre
    scaled /= scale
    model = LogisticRegression(C=STRENGTH, max_iter=500).fit(scaled, labels)
    weights, bias = model.coef_ / scale, model.intercept_
    if len(model.classes_) == 2:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    bias = bias - weights @ centre
    zero = np.zeros(len(bias), np.float32)
    return Head(weights.astype(np.float32), bias.astype(np.float32), zero)


def watch(most: list[float], ended: threading.Event) -> None:
    """The most memory of this process alone, in MB, until it has ended."""
    while not ended.wait(0.05):
        found = re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())
        assert found is not None  # Linux has it
        most[0] = max(most[0], int(found[1]) / 1e3)


if __name__ == "__main__":
    main()
