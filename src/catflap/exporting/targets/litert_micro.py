"""For LiteRT Micro on microcontrollers: the model of litert.py with 8-bit ends, in the smallest file."""

from __future__ import annotations

import numpy as np

from catflap.exporting.forms import ExportSource
from catflap.exporting.targets.litert import write_int8

ROOM = 1.1  # times the largest logit of the calibration photos: what an answer can say


def convert(precision: str, source: ExportSource) -> tuple[bytes, ...]:
    """The .tflite file: int8 pixels less 128 in, int8 logits out, only integer arithmetic between.

    The range of the answer holds every logit of the calibration role, with a tenth to spare.
    """
    return write_int8(source, ROOM * float(np.abs(source.answers).max()))
