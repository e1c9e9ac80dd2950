"""What every engine gives and takes: a function from frames to logits, and a number of threads."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError
from catflap.image import Pixels

Logits: TypeAlias = npt.NDArray[np.float32]
Embeddings: TypeAlias = npt.NDArray[np.float32]
Model: TypeAlias = Callable[[Pixels], Logits]
MOST_THREADS = 1024  # each is started, and has a stack


def check_threads(threads: int | None) -> int:
    """The number of threads that was asked for, 0 for every core; CatflapError when it is none or absurd."""
    if threads is not None and not (isinstance(threads, Integral) and 1 <= threads <= MOST_THREADS):
        raise CatflapError(f"{threads} threads are not possible.", f"Use 1 to {MOST_THREADS}.")
    return threads or 0
