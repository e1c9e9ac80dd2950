"""Foreign converters in a process of their own: when one crashes, a sentence is left of it and not a hole."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from catflap.errors import CatflapError, need

MOST_SECONDS = 1200


def convert_apart(
    module: str, arguments: Mapping[str, bytes | str], results: tuple[str, ...], needs: tuple[str, ...]
) -> tuple[bytes, ...]:
    """The files that `module.work(folder)` writes in a new process, which finds the arguments there as files.

    Raises MissingExtra when a module of `needs` is not installed, and CatflapError with the last line of
    what the converter said when it fails or crashes.
    """
    for tool in needs:
        need(tool)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for argument, value in arguments.items():
            (folder / argument).write_bytes(value if isinstance(value, bytes) else value.encode("utf-8"))
        # -P: a random.py or numpy.py in the folder where somebody works is not ours to import
        command = [sys.executable, "-P", "-m", "catflap.exporting.apart", module, name]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise _failed(module, f"it took more than {MOST_SECONDS} s") from error
        if ended.returncode < 0:
            raise _failed(module, f"it crashed ({signal.Signals(-ended.returncode).name})")
        if ended.returncode:
            lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _failed(module, lines[-1][:300] if lines else f"exit code {ended.returncode}")
        return tuple((folder / result).read_bytes() for result in results)


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
