"""Class folders: the folder under the source is the label, whatever lies deeper."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from catflap.artifacts.folder import is_ours
from catflap.data.sources.listing import (
    PHOTO_SUFFIXES,
    ROLE_NAMES,
    Listing,
    Reference,
    hidden,
    printable,
    reference,
)
from catflap.errors import CatflapError, system_reason

Entry = os.DirEntry[str]
Identity = tuple[int, int]  # device and inode


def list_folders(root: Path) -> Listing:
    """All files under class folders, in the order of their paths, without what Catflap wrote there.

    A single folder around all others is looked into. Folders that are all named train, test,
    validation … state roles; their children are labels.
    """
    folder = str(root.absolute())
    tops = child_folders(folder)
    while len(tops) == 1 and len(inner := child_folders(tops[0].path)) > 1:
        folder, tops = tops[0].path, inner
    classes = [("", top) for top in tops]
    if tops and all(top.name.lower() in ROLE_NAMES for top in tops):
        classes = [(ROLE_NAMES[top.name.lower()], label) for top in tops for label in child_folders(top.path)]
    labels = sorted({printable(label.name) for _, label in classes})
    nested: dict[str, set[str]] = {label: set() for label in labels}
    return Listing(_photos(folder, classes, nested), labels, nested)


def child_folders(folder: str) -> list[Entry]:
    """The folders in a folder, in the order of their bytes, without hidden ones and our own artefacts."""
    try:
        found = [entry for entry in os.scandir(folder) if not hidden(entry.name) and _is_dir(entry)]
        found = [entry for entry in found if not is_ours(entry.path)]
    except OSError as error:
        raise CatflapError(
            f"{printable(folder)} cannot be listed: {system_reason(error)}.", "Name a folder of photos."
        ) from error
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _photos(
    root: str, classes: list[tuple[str, Entry]], nested: Mapping[str, set[str]]
) -> Iterator[Reference]:
    for name in _names(root):
        path = Path(root, name)
        if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
            yield reference(printable(str(path)), "", fault="no_label")
    above = tuple(_identity(folder) for folder in (Path(root).resolve(), *Path(root).resolve().parents))
    for role, folder in classes:
        label, start = printable(folder.name), len(printable(folder.path)) + 1
        for found in _walk(folder.path, label, above):
            inner, is_nested, inner_path = found["uri"][start:].partition("/")
            if is_nested and Path(inner_path).suffix.lower() in PHOTO_SUFFIXES:
                nested[label].add(inner)
            yield {**found, "role": role}


def _walk(folder: str, label: str, above: tuple[Identity, ...]) -> Iterator[Reference]:
    """The files of a folder and of those in it; a link that leads back to a folder around it is a fault."""
    try:
        here = _identity(folder)
        if here in above:
            yield reference(printable(folder), label, fault="symlink_loop")
            return
        names = _names(folder)
    except OSError:
        yield reference(printable(folder), label, fault="unreadable_folder")
        return
    for name in names:
        path = f"{folder}/{name}"
        uri = printable(path)
        try:
            status = Path(path).stat()
        except OSError:
            yield reference(uri, label, fault="unreadable")
            continue
        if stat.S_ISDIR(status.st_mode):
            if is_ours(path):
                continue
            yield from _walk(path, label, (*above, here))
        elif uri != path:
            yield reference(uri, label, fault="name_not_utf8")
        else:
            yield reference(uri, label, bytes=status.st_size, modified=status.st_mtime_ns)


def _identity(folder: str | Path) -> Identity:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _names(folder: str) -> list[str]:
    """The names in a folder in the order of their bytes; only names, because folders can be huge."""
    return sorted((entry.name for entry in os.scandir(folder) if not hidden(entry.name)), key=os.fsencode)


def _is_dir(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
