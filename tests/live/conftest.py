"""One bundle that all watches use: the redder, the more a cat."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="OpenCV is not installed; pip install 'catflap[live]'")


@pytest.fixture(scope="session")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.serving.bundles import make_bundle

    return make_bundle(tmp_path_factory.mktemp("red") / "cat.catflap")
