"""Resizing in the training environment, where torch has vector instructions for it."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

from catflap.image import Frame, Pixels


def resize(part: Pixels, frame: Frame, *, mirror: bool = False) -> Pixels:
    """What image.resize gives, within two levels and in a third of its time, for parts drawn by chance."""
    planes = torch.from_numpy(np.array(part)).unsqueeze(0).permute(0, 3, 1, 2)
    planes = interpolate(planes, (frame.height, frame.width), mode=frame.filter, antialias=True)
    pixels: Pixels = planes.permute(0, 2, 3, 1)[0].numpy()
    return pixels[:, ::-1] if mirror else pixels
