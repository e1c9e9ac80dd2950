"""Converters run in a process of their own, which imports nothing that happens to lie about."""

from __future__ import annotations

from pathlib import Path

import pytest

from catflap.errors import CatflapError
from catflap.exporting.apart import convert_apart


def test_what_lies_where_somebody_works_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("random", "json"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nwork = print\n")
    with pytest.raises(CatflapError, match="no attribute 'work'"):
        convert_apart("json", {}, (), ())
    assert not (tmp_path / "ran").exists()
