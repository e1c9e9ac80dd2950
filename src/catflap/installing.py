"""Install commands that work where this Catflap is: from a clone, a wheel file, a repository or the index."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def install_extra(extra: str) -> str:
    """The command that adds an extra to this installation, with the pip of this Python."""
    return install(*_requirement(extra))


def install(*words: str) -> str:
    """A pip command of this Python as one line that a shell of this system takes apart again."""
    quoted = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return f"{_pip()} install {quoted}"


def _requirement(extra: str) -> list[str]:
    """What pip is to install, by the record of where this installation came from (PEP 610)."""
    from urllib.request import url2pathname  # here, for every command starts with this file

    origin = _origin()
    url = origin.get("url", "")
    if "dir_info" in origin:
        editable = ["-e"] if origin["dir_info"].get("editable") else []
        return [*editable, f"{url2pathname(unquote(urlsplit(url).path))}[{extra}]"]
    if "vcs_info" in origin:
        revision = origin["vcs_info"].get("requested_revision")
        at = f"@{revision}" if revision else ""
        return [f"catflap[{extra}] @ {origin['vcs_info'].get('vcs', 'git')}+{url}{at}"]
    if "archive_info" in origin:
        return [f"catflap[{extra}] @ {url}"]
    return [f"catflap[{extra}]"]


def _origin() -> dict[str, Any]:
    """The direct_url.json of this installation; of a clone that was never installed, what it would be."""
    from importlib.metadata import PackageNotFoundError, distribution

    clone = Path(__file__).resolve().parents[2]
    if (clone / "pyproject.toml").is_file():
        return {"url": clone.as_uri(), "dir_info": {"editable": True}}
    try:
        text = distribution("catflap").read_text("direct_url.json")
        origin = json.loads(text or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return origin if isinstance(origin, dict) else {}


def _pip() -> str:
    """How a person here calls the pip that installs for this Python."""
    mine, named = Path(sys.executable).parent, shutil.which("pip")
    if named is not None and Path(named).parent == mine:
        return "pip"
    if find_spec("pip") is None and shutil.which("uv"):
        return "uv pip"
    return f"{shlex.quote(sys.executable)} -m pip"
