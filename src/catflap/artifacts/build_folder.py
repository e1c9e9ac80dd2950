"""What `build` leaves in NAME.build beside NAME.catflap, by which later verbs find it."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".build"
BUNDLE = ".catflap"
DECISIONS = "decisions.json"  # a person's, which the next build applies
REVIEWED = "reviewed"  # the Manifest with those decisions
AUDIT = "audit"


def build_folder(path: Path | str) -> Path | None:
    """The folder of the build that a path names, NAME.build or NAME.catflap; None where there is none."""
    path = Path(path)
    folder = path.with_suffix(SUFFIX) if path.name.endswith(BUNDLE) else path
    return folder if folder.name.endswith(SUFFIX) and folder.is_dir() else None


def part_of_build(path: Path, name: str) -> Path:
    """The artifact `name`, such as dataset, of the build that a path names, or the path."""
    folder = build_folder(path)
    return path if folder is None else folder / name
