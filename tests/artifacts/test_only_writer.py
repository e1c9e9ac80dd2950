"""One process at a time writes an artefact; what a killed one held is free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from catflap.artifacts.folder import only_writer
from catflap.errors import CatflapError

HOLDER = """
import sys
from pathlib import Path
from catflap.artifacts.folder import only_writer
with only_writer(Path(sys.argv[1]), "train"):
    print("held", flush=True)
    input()
"""
# Takes 60 turns, in each of which it makes and removes a folder: two at once would be an error.
TURNS = """
import sys
from pathlib import Path
from catflap.artifacts.folder import only_writer
from catflap.errors import CatflapError
target, turns = Path(sys.argv[1]), 0
while turns < 60:
    try:
        with only_writer(target, "train"):
            target.mkdir()
            target.rmdir()
            turns += 1
    except CatflapError:
        pass
print("alone")
"""


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    """A second one is refused at once, also in the same process; a killed one holds nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "thing")], stdin=-1, stdout=-1
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(CatflapError, match=r"Another train is writing .*thing\. Wait for it"),
            only_writer(tmp_path / "thing", "train"),
        ):
            raise AssertionError("both write")
        with only_writer(tmp_path / "other", "train"):
            other.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".thing.train"]
    with (
        only_writer(tmp_path / "thing", "train"),
        pytest.raises(CatflapError, match="Another train"),
        only_writer(tmp_path / "thing", "train"),
    ):
        raise AssertionError("both write")
    assert list(tmp_path.iterdir()) == []


def test_many_writers_take_turns(tmp_path: Path) -> None:
    """Each removes what it held just when the next one opens it."""
    turns = [
        subprocess.Popen([sys.executable, "-c", TURNS, str(tmp_path / "thing")], stdout=-1, text=True)
        for _ in range(3)
    ]
    assert [one.communicate()[0] for one in turns] == ["alone\n"] * 3
    assert list(tmp_path.iterdir()) == []
