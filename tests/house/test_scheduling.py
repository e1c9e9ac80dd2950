"""The tests' own scheduler: a worker that dies costs one test, and the run ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("dies_in", [0, 7])
def test_a_worker_that_dies_costs_one_test(dies_in: int, repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    for number in range(8):
        body = "import os; os._exit(1)" if number == dies_in else "pass"
        lines = ["def test_before(): pass", f"def test_one(): {body}", "def test_after(): pass"]
        (tmp_path / f"test_{number}.py").write_text("\n".join(lines[number % 2 :]) + "\n")
    for number in range(4):
        (tmp_path / f"test_single_{number}.py").write_text("def test_one(): pass\n")
    workers = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.scheduling", *workers, tmp_path],
        cwd=tmp_path, env={"PYTHONPATH": str(repo)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "1 failed, 23 passed" in done.stdout
    assert done.returncode == 1
