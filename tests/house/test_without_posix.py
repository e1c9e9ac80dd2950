"""No command needs `fcntl` or `resource`, which Windows lacks: photos to a bundle to an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import TINY, draw_photos

# Python imports it at its start, also in worker processes.
BLOCKED = """
import sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
"""
END = "=== end of a command\n"
# In one process, because each command of its own would load torch again.
PROGRAM = f"""
import sys
import tests.tiny
from catflap.cli.main import main
for words in sys.argv[1:]:
    if code := main([*words.split(), "--json"]):
        sys.exit(code)
    print({END!r}, end="")
"""


@pytest.fixture
def without_posix(tmp_path: Path, repo: Path) -> dict[str, str]:
    """The environment of a process in which neither module can be imported."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKED)
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def test_the_modules_are_blocked(without_posix: dict[str, str]) -> None:
    for name in ("fcntl", "resource"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], env=without_posix, capture_output=True, check=False
        )
        assert b"ModuleNotFoundError" in done.stderr


@pytest.mark.slow
def test_photos_become_answers(tmp_path: Path, without_posix: dict[str, str]) -> None:
    draw_photos(tmp_path / "photos", count=12)
    steps = [
        "scan photos -o manifest",
        "prepare manifest -o dataset --size 64",
        f"train dataset -o checkpoint --backbone {TINY}",
        "export checkpoint -o new.catflap",
        "verify new.catflap",
        "predict new.catflap photos/cat --log field.log",
        "review queue field.log -o queue",
        "evaluate new.catflap dataset -o report",
        "doctor",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *steps], cwd=tmp_path, env=without_posix,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [[json.loads(line) for line in part.splitlines()] for part in done.stdout.split(END)]
    assert answers[4][0]["verdict"] == "pass"
    assert {answer["label"] for answer in answers[5]} <= {"cat", "other"}
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))
    assert left == []
