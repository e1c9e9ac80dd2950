"""A converter that takes its process down, as foreign ones do."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def work(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
