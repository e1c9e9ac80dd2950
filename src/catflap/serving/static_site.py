"""The camera page: where it lies, and `web`, which writes it with a Bundle as a static site. Base install."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.folder import atomic_folder
from catflap.artifacts.schema import write_json
from catflap.errors import CatflapError

PAGE = Path(__file__).parent / "static"  # built from web/
MARKER = "site.json"  # in a folder that write_site made, which only then may be replaced
MEMBERS = "bundle"  # the folder of a site with the files of its bundle


def write_site(
    bundle: str | os.PathLike[str], out: str | os.PathLike[str], page: Path = PAGE
) -> dict[str, Any]:
    """Write the camera page and the files of a Bundle into a folder, for any web server; whole or not at all.

    `bundle` is a path or the name of a shipped bundle. Raises BadArtifact when it is damaged and
    CatflapError when this Catflap was installed without the page.
    """
    if not (page / "index.html").is_file():
        raise CatflapError(
            "This installation has no camera page, because Node was missing when it was built.",
            "Install Node 20.19 or newer and run: npm --prefix web ci && npm --prefix web run build",
        )
    opened = load_bundle(bundle)
    target = Path(out)
    with atomic_folder(target, MARKER) as folder:
        shutil.copytree(page, folder, ignore=shutil.ignore_patterns("sources.sha256"), dirs_exist_ok=True)
        for name, data in opened.members.items():
            path = folder / MEMBERS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        answer = {"bundle": opened.name, "sha256": opened.sha256}
        write_json(folder / MARKER, {"catflap": "site", "version": 1, **answer})
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    return {"site": str(target), **answer, "files": len(sizes), "bytes": sum(sizes)}
