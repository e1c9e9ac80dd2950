"""Catflap: a folder of photos to a verified image classifier on the device at the edge."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from catflap.errors import missing_extra
from catflap.version import VERSION as __version__

if TYPE_CHECKING:
    from catflap.artifacts.results import Prediction as Prediction
    from catflap.artifacts.results import Verdict as Verdict
    from catflap.errors import BadArtifact as BadArtifact
    from catflap.errors import BadPhoto as BadPhoto
    from catflap.errors import CatflapError as CatflapError
    from catflap.image import Frame as Frame

_HOME = {
    "BadArtifact": "catflap.errors",
    "BadPhoto": "catflap.errors",
    "CatflapError": "catflap.errors",
    "Frame": "catflap.image",
    "Prediction": "catflap.artifacts.results",
    "Verdict": "catflap.artifacts.results",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'catflap' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error


def __dir__() -> list[str]:
    return __all__
