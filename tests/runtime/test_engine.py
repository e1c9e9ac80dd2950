"""Engines are found by name: Catflap's own and those of other installed packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.errors import CatflapError
from catflap.runtime.engine import engine_error, open_variant

PLUGIN = """\
import numpy as np
from catflap.runtime.engine import Engine

ENGINE = Engine("constant_engine:open_model", needs="constant_engine")
NOT_ONE = "open_model"


def open_model(file, threads=None):
    return lambda frames: np.full((len(frames), len(bytes(file))), 7, np.float32)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third-party package with an engine, installed on the path."""
    (tmp_path / "constant_engine.py").write_text(PLUGIN)
    info = tmp_path / "constant_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: constant-engine\nVersion: 1.0\n")
    points = "[catflap.engines]\nconstant = constant_engine:ENGINE\nbroken = constant_engine:NOT_ONE\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_another_package_can_add_an_engine(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    variant = replace(bundle.variant(), runtime="constant")
    assert engine_error(variant) is None
    logits = open_variant(bundle, variant)(np.zeros((2, 8, 8, 3), np.uint8))
    assert logits.shape == (2, len(bundle.members[variant.file]))
    assert (logits == 7).all()


@pytest.mark.usefixtures("plugin")
def test_an_entry_point_that_is_not_an_engine_is_named(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    with pytest.raises(CatflapError, match="constant_engine:NOT_ONE"):
        engine_error(replace(bundle.variant(), runtime="broken"))


def test_an_unknown_runtime_is_named(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    error = engine_error(replace(bundle.variant(), runtime="constant"))
    assert error is not None
    assert "'constant'" in error.what
