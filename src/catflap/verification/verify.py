"""The verb `verify`: does a Bundle work on this machine as it was tested at export?"""

from __future__ import annotations

import os
from pathlib import Path

from catflap.artifacts.bundle import SHIPPED, SUFFIX, Bundle, load_bundle
from catflap.artifacts.results import Check, Verdict
from catflap.errors import BadArtifact, CatflapError, Refused
from catflap.progress import Progress, silent
from catflap.runtime.engine import engine_error
from catflap.runtime.golden_checks import check_bundle
from catflap.runtime.signature import Signer, check_signature

LISTED = "every file as its bundle.json lists it"


def verify(
    path: str | os.PathLike[str],
    *,
    variants: tuple[str, ...] = (),
    signer: Signer | None = None,
    signature: Path | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Check a Bundle on this machine: its files, pixels and the answers of its variants.

    With a `signer` also its signature. Without `variants` all whose runtime is installed.
    A damaged bundle gets a failed Verdict; CatflapError only when there is no such file, and
    MissingExtra when a named variant cannot run, or none can.
    """
    if not _is_there(path):
        raise CatflapError(f"There is no bundle {str(path)!r}.", "Name a .catflap file.")
    try:
        bundle = load_bundle(path)
        if unknown := [name for name in variants if name not in bundle.variants]:
            raise CatflapError(
                f"The bundle has no variant {unknown[0]!r}.", f"Use: {', '.join(bundle.variants)}."
            )
        signed = () if signer is None else (_signed(bundle, signer, signature),)
        checks = check_bundle(bundle, variants=variants, threads=threads, progress=progress)
    except BadArtifact as error:
        return Verdict(os.fspath(path), (Check("integrity", False, error.what, LISTED),))
    absent = {} if variants else {name: engine_error(one) for name, one in bundle.variants.items()}
    unrun = {} if variants else {name: _converted(one["runtime"]) for name, one in bundle.untested.items()}
    return Verdict(
        os.fspath(path),
        (Check("integrity", True, bundle.sha256, LISTED), *signed, *checks),
        {name: str(why) for name, why in absent.items() if why is not None} | unrun,
    )


def _converted(runtime: str) -> str:
    return f"It was converted for {runtime}, which Catflap cannot run here."


def _signed(bundle: Bundle, signer: Signer, signature: Path | None) -> Check:
    limit = f"signed by {signer}"
    try:
        check_signature(bundle, signer, signature)
    except Refused as error:
        return Check("signature", False, error.what, limit)
    return Check("signature", True, bundle.sha256, limit)


def _is_there(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_file() or (SHIPPED / f"{path}{SUFFIX}").is_file()
    except (OSError, TypeError, ValueError):  # names that no file can have
        return False
