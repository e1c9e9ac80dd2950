"""Models for LiteRT Micro, int8 from end to end, run here by LiteRT: both read the same file."""

from catflap.runtime.engines.litert import open_micro as open_model

__all__ = ["open_model"]
