"""A Bundle has one temporary name: what is accepted can be written, and what a kill leaves is swept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.golden import read_golden
from catflap.errors import CatflapError
from catflap.exporting.repack import check_out, write_verified
from tests.artifacts.samples import runnable_bundle

# Writes the Bundle again, and is killed when its bytes are to be put on disk.
KILLED = """
import os, signal, sys
from pathlib import Path
from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.golden import read_golden
from catflap.exporting import repack
bundle = load_bundle(sys.argv[1])
head = {name: value for name, value in bundle.head.items() if name != "files"}
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
repack.write_verified(Path(sys.argv[2]), head, {"fp32.onnx": bytes(bundle.members["fp32.onnx"])},
                       read_golden(bundle))
"""


def written_again(bundle_file: Path, out: Path) -> str:
    bundle = load_bundle(bundle_file)
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    files = {name: bytes(data) for name, data in bundle.members.items() if name not in (HEAD, "golden.npz")}
    return write_verified(out, head, files, read_golden(bundle))


def test_a_name_that_is_accepted_can_be_written(tmp_path: Path) -> None:
    bundle, folder = runnable_bundle(tmp_path), tmp_path / "out"
    for letters in (200, 213, 240, 300):
        out = folder / f"{'a' * letters}.catflap"
        if letters > 213:
            with pytest.raises(CatflapError, match="Choose a shorter name"):
                check_out(out)
            continue
        check_out(out)
        assert written_again(bundle, out) == load_bundle(out).sha256
    assert len(list(folder.iterdir())) == 2


def test_what_a_kill_leaves_is_swept(tmp_path: Path) -> None:
    bundle, folder = runnable_bundle(tmp_path), tmp_path / "out"
    out = folder / "x.catflap"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(bundle), str(out)], check=False)
    assert killed.returncode < 0
    (left,) = folder.iterdir()
    assert left.name.startswith(".x.catflap.partial-")
    written_again(bundle, out)
    assert list(folder.iterdir()) == [out]
