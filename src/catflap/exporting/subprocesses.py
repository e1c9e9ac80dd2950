"""Foreign converters in a process of their own, so that a crash of one is an error that people can read."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from catflap.errors import CatflapError
from catflap.image import Pixels

Argument: TypeAlias = bytes | str | Pixels | Path
MOST_SECONDS = 1200


def convert_apart(
    module: str, arguments: Mapping[str, Argument], results: tuple[str, ...]
) -> tuple[bytes, ...]:
    """The files that `module.work(folder)` writes in a new process, which finds the arguments there as files.

    Pixels are a .npy file there, a path is a link to it. Raises CatflapError with the last line of what the
    converter said when it fails or crashes, and when it does not write them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for argument, value in arguments.items():
            _put(value, folder / argument)
        # -P: a random.py or numpy.py in the folder where somebody works is not ours to import
        command = [sys.executable, "-P", "-m", "catflap.exporting.subprocesses", module, name]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise _failed(module, f"it took more than {MOST_SECONDS} s") from error
        if ended.returncode < 0:
            raise _failed(module, f"it crashed ({signal.Signals(-ended.returncode).name})")
        if ended.returncode:
            lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _failed(module, lines[-1][:300] if lines else f"exit code {ended.returncode}")
        missing = [result for result in results if not (folder / result).exists()]
        if missing:
            raise _failed(module, f"it wrote no {missing[0]}")
        return tuple((folder / result).read_bytes() for result in results)


def _put(value: Argument, place: Path) -> None:
    if isinstance(value, Path):
        place.symlink_to(value.resolve())
    elif isinstance(value, np.ndarray):
        with place.open("wb") as file:
            np.save(file, value)
    else:
        place.write_bytes(value if isinstance(value, bytes) else value.encode("utf-8"))


def _failed(module: str, why: str) -> CatflapError:
    target = module.rpartition(".")[2]
    return CatflapError(
        f"The model cannot be converted for {target}: {why}.", "Export it without that target."
    )


def main(module: str, folder: str) -> None:
    """Do the work of a target in this process, which exists only for it."""
    importlib.import_module(module).work(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
