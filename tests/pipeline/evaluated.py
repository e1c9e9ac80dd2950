"""A process that evaluates, and may be killed by itself when so many batches are scored."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from catflap.pipeline.evaluate import evaluate

if __name__ == "__main__":
    model, photos, out, step, batches = sys.argv[1:]

    def killed(reported: str, done: int, total: int) -> None:
        if (reported, done) == (step, int(batches)):
            os.kill(os.getpid(), signal.SIGKILL)

    evaluate(Path(model), Path(photos), Path(out), role="train", part=16, progress=killed)
