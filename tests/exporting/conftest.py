"""What several tests of this room look at."""

from __future__ import annotations

import pytest

from catflap.artifacts.bundle import Bundle, load_bundle
from tests.tiny import Exported


@pytest.fixture(scope="module")
def bundle(drawn_bundle: Exported) -> Bundle:
    """The drawn Bundle, opened."""
    return load_bundle(drawn_bundle.path)
