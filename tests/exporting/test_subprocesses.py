"""Converters run in a process of their own, get files, and import nothing that happens to lie about."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.exporting.target import Argument, run_converter


def test_what_lies_where_somebody_works_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("random", "json"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nwork = print\n")
    with pytest.raises(CatflapError, match="no attribute 'work'"):
        run_converter("json", {}, ())
    assert not (tmp_path / "ran").exists()


def test_arguments_are_files_and_results_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("bytes", "utf-8")
    frames = np.arange(4, dtype=np.uint8).reshape(2, 2)
    given: dict[str, Argument] = {"words": "größer", "folder": Path("here"), "frames.npy": frames}
    assert run_converter("tests.exporting.showing", given, ("shown",)) == (
        "größer bytes [[0, 1], [2, 3]]".encode(),
    )
    assert (tmp_path / "here" / "file").exists()
    with pytest.raises(CatflapError, match=r"The conversion for showing failed: it wrote no lost\.bin\."):
        run_converter("tests.exporting.showing", given, ("shown", "lost.bin"))
