"""A Bundle takes its name only when its golden cases pass here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import SUFFIX, encode_bundle, load_bundle, refuse_foreign_file
from catflap.artifacts.folder import atomic_path, check_place, write_bytes
from catflap.artifacts.golden import Golden, encode_golden
from catflap.errors import CatflapError, Refused
from catflap.exporting.card import card
from catflap.runtime.golden_checks import check_bundle

CARD = "card.md"


def check_out(out: Path) -> None:
    """Raise CatflapError when a Bundle may not be written there: before any work is done."""
    if not out.name.endswith(SUFFIX):
        raise CatflapError(f"A bundle's name ends with {SUFFIX}.", f"Use: -o {out.name}{SUFFIX}")
    check_place(out)
    refuse_foreign_file(out)


def name_of(out: Path) -> str:
    """The file's name without its suffix, in the letters that a bundle's name may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", out.name.removesuffix(SUFFIX)).strip("-.")[:100] or "bundle"


def write_verified(out: Path, head: dict[str, Any], files: Mapping[str, bytes], golden: Golden) -> str:
    """Write a Bundle with its card and its golden cases, and return its sha256.

    Raises Refused, and leaves nothing behind, when a golden case fails on this machine.
    """
    members = {**files, head["golden"]["file"]: encode_golden(golden)}
    if "training" in head:
        members[CARD] = card(head).encode("utf-8")
    data = encode_bundle(out, head, members)
    with atomic_path(out) as partial:
        write_bytes(partial, data)
        failed = [check.name for check in check_bundle(load_bundle(partial)) if not check.passed]
        if failed:
            raise Refused(f"The new bundle does not pass: {', '.join(failed)}.", "Run: catflap doctor")
    return hashlib.sha256(data).hexdigest()
