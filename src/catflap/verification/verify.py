"""Does this Bundle do here what was tested when it was exported?"""

from __future__ import annotations

import os
from pathlib import Path

from catflap.artifacts.bundle import SHIPPED, SUFFIX, read_bundle
from catflap.artifacts.results import Check, Verdict
from catflap.errors import BadArtifact, CatflapError
from catflap.progress import Progress, silent
from catflap.runtime.checks import check_bundle


def verify(
    path: str | os.PathLike[str], *, threads: int | None = None, progress: Progress = silent
) -> Verdict:
    """The Verdict on a Bundle on this machine: its bytes, its pixels and every variant's answers.

    A damaged bundle gets a failed Verdict; CatflapError only when there is no file to judge.
    """
    if not _is_there(path):
        raise CatflapError(f"There is no bundle {os.fspath(path)!r}.", "Name a .catflap file.")
    try:
        bundle = read_bundle(path)
        checks = check_bundle(bundle, threads=threads, progress=progress)
    except BadArtifact as error:
        return Verdict(os.fspath(path), (Check("integrity", False, error.what, "every byte as exported"),))
    return Verdict(
        os.fspath(path), (Check("integrity", True, bundle.sha256, "every byte as exported"), *checks)
    )


def _is_there(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_file() or (SHIPPED / f"{path}{SUFFIX}").is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
