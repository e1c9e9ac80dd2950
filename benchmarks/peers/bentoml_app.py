"""The same Classifier behind BentoML, as its guide for files says, with one worker a core.

Run by benchmarks/serve.py in an environment of its own: pip install bentoml onnxruntime pillow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from catflap.runtime.classifier import Classifier


@bentoml.service(workers=len(os.sched_getaffinity(0)))
class Judge:
    """One Classifier a worker."""

    def __init__(self) -> None:
        self.classifier = Classifier(os.environ["BUNDLE"], os.environ["VARIANT"] or None, threads=1)

    @bentoml.api(route="/predict")
    def predict(self, photo: Path) -> dict[str, Any]:
        return self.classifier(photo).to_json()


if __name__ == "__main__":
    here = Path(__file__)
    os.chdir(here.parent)
    bentoml.serve(f"{here.stem}:Judge", host="127.0.0.1", port=int(sys.argv[1]), blocking=True)
