"""Class folders: the folder under the source is the label, whatever lies deeper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catflap.data.listing import ROLE_NAMES, printable, reference
from catflap.errors import CatflapError

SKIPPED = ("thumbs.db", "desktop.ini")


def list_folders(root: Path) -> tuple[Iterator[dict[str, Any]], list[str]]:
    """References to all files under class folders in the order of their paths, and all label names.

    A folder whose only children are train, test, validation … states roles; their children are labels.
    """
    root = Path(os.path.abspath(root))
    tops = _children(root)
    if len(tops) == 1 and len(_children(Path(tops[0].path))) > 1:
        root, tops = Path(tops[0].path), _children(Path(tops[0].path))
    if tops and all(top.name.lower() in ROLE_NAMES for top in tops):
        classes = [
            (ROLE_NAMES[top.name.lower()], label) for top in tops for label in _children(Path(top.path))
        ]
    else:
        classes = [("", top) for top in tops]
    labels = sorted({printable(label.name) for _, label in classes})
    return _photos(classes), labels


def _photos(classes: list[tuple[str, os.DirEntry[str]]]) -> Iterator[dict[str, Any]]:
    for role, folder in classes:
        for found in _walk(folder.path, printable(folder.name), ()):
            yield {**found, "role": role}


def _children(folder: Path) -> list[os.DirEntry[str]]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".") and _is_dir(entry)]
    except OSError as error:
        raise CatflapError(
            f"{printable(str(folder))} cannot be listed: {error.strerror}.", "Name a folder of photos."
        ) from error
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _walk(folder: str, label: str, above: tuple[tuple[int, int], ...]) -> Iterator[dict[str, Any]]:
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            yield reference(printable(folder), label, fault="symlink_loop")
            return
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError:
        yield reference(printable(folder), label, fault="unreadable_folder")
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in SKIPPED:
            continue
        if _is_dir(entry):
            yield from _walk(entry.path, label, (*above, here))
        else:
            yield _file(entry, label)


def _file(entry: os.DirEntry[str], label: str) -> dict[str, Any]:
    uri = printable(entry.path)
    if uri != entry.path:
        return reference(uri, label, fault="name_not_utf8")
    try:
        status = entry.stat()
    except OSError:
        return reference(uri, label, fault="unreadable")
    return reference(uri, label, bytes=status.st_size, modified=status.st_mtime_ns)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
