"""Forms that nothing here can run: converted, checked by their target, carried by a Bundle, not judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from catflap.exporting.forms import FORMS, ExportSource, make
from catflap.progress import Progress


def write_untested(
    names: Iterable[str], source: ExportSource, progress: Progress
) -> tuple[dict[str, dict[str, str]], dict[str, bytes]]:
    """The entries of `untested` in bundle.json, and their files by name."""
    entries: dict[str, dict[str, str]] = {}
    files: dict[str, bytes] = {}
    for name in names:
        form = FORMS[name]
        progress(f"write {name}", 0, 1)
        files |= make(form, source)
        progress(f"write {name}", 1, 1)
        entries[name] = {"file": form.file, "runtime": form.runtime, "precision": form.precision}
    return entries, files


def with_untested(head: dict[str, Any], entries: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A bundle.json that names these, too."""
    every = {**head.get("untested", {}), **entries}
    return {**head, "untested": every} if every else head
