"""What has to be installed for a part of Catflap, and how large it is."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def installed(extras: tuple[str, ...] = ()) -> dict[str, float]:
    """The packages that catflap with these extras pulls in here, each with its size in MB."""
    sizes: dict[str, float] = {}
    waiting = [("catflap", frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        sizes[name] = sum(_size(Path(str(found.locate_file(file)))) for file in found.files or ()) / 1e6
        waiting += [need for line in found.requires or () if (need := _needed(line, wanted)) is not None]
    return sizes


def _needed(line: str, wanted: frozenset[str]) -> tuple[str, frozenset[str]] | None:
    """The package that a requirement line names, or None when it belongs to an extra not wanted."""
    extra = _EXTRA.search(line)
    if extra is not None and extra[1] not in wanted:
        return None
    match = _NAME.match(line)
    if match is None:
        return None
    brackets = re.match(r"\s*\[([^\]]*)\]", line[match.end() :])
    extras = frozenset(part.strip() for part in brackets[1].split(",")) if brackets else frozenset()
    return re.sub(r"[-_.]+", "-", match[0]).lower(), extras


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
