"""Path to answer beside its bare parts, on one thread: what Catflap itself costs.

    python benchmarks/latency.py
    python benchmarks/latency.py --bundle mine.catflap --variant fp32

The bare parts are Pillow's decode and resize and ONNX Runtime's session.run, written out here.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from machine import header, in_turns
from PIL import Image
from pixels import grainy

from catflap import Classifier
from catflap.runtime.engine_onnx import int8_sums_saturate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="cat")
    parser.add_argument("--variant")
    parser.add_argument("--rounds", type=int, default=300)
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
    ratio = timed["path to answer"]["p50"] / timed["bare parts"]["p50"]
    print(json.dumps({"ms": timed, "ratio": round(ratio, 3)}))


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
