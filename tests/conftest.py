"""What several rooms' tests share: where things are, and what may be missing here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def photos_root() -> Path:
    """The real photos, a class folder: CATFLAP_PHOTOS, or ../shared/data/photos."""
    root = Path(os.environ.get("CATFLAP_PHOTOS") or REPO.parent / "shared" / "data" / "photos")
    if not root.is_dir():
        pytest.skip(f"there are no photos in {root}; set CATFLAP_PHOTOS to a class folder")
    return root


@pytest.fixture(scope="session")
def base_python() -> Path:
    """The Python of an environment that has the base dependencies and nothing else."""
    python = REPO / ".venv-base" / "bin" / "python"
    if not python.exists():
        pytest.skip("there is no .venv-base; run: make .venv-base/ready")
    return python
