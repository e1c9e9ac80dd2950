"""Path to answer beside its bare parts, on one thread: what Catflap itself costs.

    python benchmarks/latency.py
    python benchmarks/latency.py --bundle mine.catflap --variant fp32
    git worktree add ../before COMMIT; python benchmarks/latency.py --against ../before/src

The bare parts are Pillow's decode and resize and ONNX Runtime's session.run, written out here.
`compare` is the figure of `catflap compare` for the same answer, measured in a process of its own beside
a plain loop in another, in turns: the two should agree within 5 %. `--against` runs that loop with the code
of another commit, too: how much slower this one answers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from machine import header, in_turns
from PIL import Image
from pixels import grainy

import catflap
from catflap import Classifier
from catflap.runtime.engine_onnx import int8_sums_saturate

SRC = Path(catflap.__file__).parents[1]
LOOP = """
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
import catflap
from catflap import Classifier
classifier, data = Classifier(sys.argv[1], sys.argv[3], threads=1), Path(sys.argv[2]).read_bytes()
classifier(data)
times = []
for _ in range(50):
    start = perf_counter()
    classifier(data)
    times.append((perf_counter() - start) * 1e3)
print(median(times))
"""
PROBE = """
import sys
from catflap.comparison.probe import probe
print(probe("inference", *sys.argv[1:])["milliseconds"])
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="cat")
    parser.add_argument("--variant")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--turns", type=int, default=7, help="processes of each kind for `compare`")
    parser.add_argument("--against", type=Path, metavar="SRC", help="the src folder of another commit")
    args = parser.parse_args()
    header(
        rounds=args.rounds, bundle=args.bundle, photo="500 × 375 px", x64quantprecision=int8_sums_saturate()
    )
    classifier = Classifier(args.bundle, args.variant, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(grainy(500, 375))
        bare = bare_parts(classifier, path)
        timed = in_turns({"path to answer": lambda: classifier(path), "bare parts": bare}, args.rounds)
        compared = beside_compare(classifier, path, args.turns)
        if args.against:
            compared |= {"against": beside_commit(classifier, path, args.turns, args.against)}
    ratio = timed["path to answer"]["p50"] / timed["bare parts"]["p50"]
    print(json.dumps({"ms": timed, "ratio": round(ratio, 3), "compare": compared}))


def beside_compare(classifier: Classifier, photo: Path, turns: int) -> dict[str, Any]:
    """The least median, in milliseconds, of a loop's processes and of those of `catflap compare`."""
    found = least_medians({"loop_ms": (LOOP, SRC), "compare_ms": (PROBE, SRC)}, classifier, photo, turns)
    return {**found, "ratio": round(found["compare_ms"] / found["loop_ms"], 3), "n": turns}


def beside_commit(classifier: Classifier, photo: Path, turns: int, source: Path) -> dict[str, Any]:
    """The least median of an answer's processor time with this code and with that of another commit.

    Milliseconds; other work on the machine hardly changes them.
    """
    loop = LOOP.replace("perf_counter", "process_time")
    programs = {"this_ms": (loop, SRC), "other_ms": (loop, source)}
    found = least_medians(programs, classifier, photo, turns)
    return {**found, "ratio": round(found["this_ms"] / found["other_ms"], 3), "n": turns}


def least_medians(
    programs: Mapping[str, tuple[str, Path]], classifier: Classifier, photo: Path, turns: int
) -> dict[str, float]:
    """The least answer, in milliseconds, of each program's processes, run in turns with its code."""
    arguments = [str(classifier.bundle.path), str(photo), classifier.variant.name]
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(turns):
        for name, (program, source) in programs.items():
            done = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                env={**os.environ, "PYTHONPATH": str(source.resolve())},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            taken[name].append(float(done.stdout))
    return {name: round(min(times), 3) for name, times in taken.items()}


def bare_parts(classifier: Classifier, path: Path) -> Callable[[], np.ndarray]:
    """Decode, resize and run with the libraries alone, in the same bundle's sizes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1" if int8_sums_saturate() else "0")
    model = bytes(classifier.bundle.members[classifier.variant.file])
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    size = (classifier.frame.width, classifier.frame.height)
    name = session.get_inputs()[0].name

    def run() -> np.ndarray:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        return np.asarray(session.run(None, {name: pixels[None]})[0])

    return run


if __name__ == "__main__":
    main()
