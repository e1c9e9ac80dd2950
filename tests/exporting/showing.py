"""A converter that converts nothing: it writes what it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def work(folder: Path) -> None:
    words, file = (folder / "words").read_text("utf-8"), (folder / "folder" / "file").read_text("utf-8")
    (folder / "shown").write_text(f"{words} {file} {np.load(folder / 'frames.npy').tolist()}", "utf-8")
