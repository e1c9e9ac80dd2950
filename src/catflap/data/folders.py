"""Class folders: the folder under the source is the label, whatever lies deeper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from catflap.data.listing import PHOTO_SUFFIXES, ROLE_NAMES, Listing, Reference, hidden, printable, reference
from catflap.errors import CatflapError

Entry = os.DirEntry[str]


def list_folders(root: Path) -> Listing:
    """All files under class folders, in the order of their paths.

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
    return Listing(_photos(folder, classes), labels)


def child_folders(folder: str) -> list[Entry]:
    """The folders in a folder, in the order of their bytes, without hidden ones."""
    try:
        found = [entry for entry in os.scandir(folder) if not hidden(entry.name) and _is_dir(entry)]
    except OSError as error:
        raise CatflapError(
            f"{printable(folder)} cannot be listed: {error.strerror}.", "Name a folder of photos."
        ) from error
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _photos(root: str, classes: list[tuple[str, Entry]]) -> Iterator[Reference]:
    for entry in sorted(os.scandir(root), key=lambda entry: os.fsencode(entry.name)):
        if (
            Path(entry.name).suffix.lower() in PHOTO_SUFFIXES
            and not hidden(entry.name)
            and not _is_dir(entry)
        ):
            yield reference(printable(entry.path), "", fault="no_label")
    above = tuple(map(_identity, (Path(root), *Path(root).resolve().parents)))
    for role, folder in classes:
        for found in _walk(folder.path, printable(folder.name), above):
            yield {**found, "role": role}


def _walk(folder: str, label: str, above: tuple[tuple[int, int], ...]) -> Iterator[Reference]:
    try:
        here = _identity(folder)
        if here in above:
            yield reference(printable(folder), label, fault="symlink_loop")
            return
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError:
        yield reference(printable(folder), label, fault="unreadable_folder")
        return
    for entry in entries:
        if hidden(entry.name):
            continue
        if _is_dir(entry):
            yield from _walk(entry.path, label, (*above, here))
        else:
            yield _file(entry, label)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _file(entry: Entry, label: str) -> Reference:
    uri = printable(entry.path)
    if uri != entry.path:
        return reference(uri, label, fault="name_not_utf8")
    try:
        status = entry.stat()
    except OSError:
        return reference(uri, label, fault="unreadable")
    return reference(uri, label, bytes=status.st_size, modified=status.st_mtime_ns)


def _is_dir(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
