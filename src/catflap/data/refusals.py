"""Why photos of a Manifest are not used: by kind, with the fix, and the first of their names."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import pyarrow.compute as pc

from catflap.artifacts.manifest import TABLE, Manifest
from catflap.artifacts.tables import iter_table
from catflap.installing import install, install_extra

NAMED = 3  # photos of a kind in a sentence
LISTED = 100  # photos of a kind in JSON
HEIC = (".heic", ".heif", ".hif")
COPY_AGAIN = "copy them again"
KINDS = {  # the reason in a row: what one photo is, what several are, and the fix
    "exact_duplicate": ("is a copy of another", "are copies of others", ""),
    "two_labels": ("lies under two labels", "lie under two labels", "keep each under one"),
    "review": ("was dropped by a review", "were dropped by a review", ""),
    "no_label": ("lies in no label's folder", "lie in no label's folder", "move them into a label's folder"),
    "archive_truncated": ("is an archive cut short", "are archives cut short", COPY_AGAIN),
    "symlink_loop": ("links to a folder around it", "link to folders around them", "delete the link"),
    "name_not_utf8": ("has a name that is not UTF-8", "have names that are not UTF-8", "rename them"),
    "unreadable": ("cannot be read", "cannot be read", "check that the files exist and may be read"),
    "unreadable_folder": ("is an unreadable folder", "are unreadable folders", "check their permissions"),
    "empty": ("has no bytes", "have no bytes", COPY_AGAIN),
    "truncated": ("is broken", "are broken", COPY_AGAIN),
    "damaged": ("is broken", "are broken", COPY_AGAIN),
    "not_a_photo": ("is a web page", "are web pages", "download the photo instead"),
    "unknown_format": ("has an unknown format", "have an unknown format", "save them as JPEG or PNG"),
    "unsupported_format": ("has an unread format", "have an unread format", "save them as JPEG or PNG"),
    "heic": ("is HEIC", "are HEIC", ""),
    "avif": ("is AVIF", "are AVIF", ""),
    "unsupported_mode": ("has no agreed colours", "have no agreed colours", "save them as RGB"),
    "too_many_bytes": ("is too large", "are too large", "save them smaller"),
    "too_many_pixels": (
        "is too large (80 megapixels at most)", "are too large (80 megapixels at most)", "save them smaller"
    ),
    "too_slow": ("takes too long to decode", "take too long to decode", "save them again as JPEG"),
    "decoder_timeout": ("takes too long to decode", "take too long to decode", "save them again as JPEG"),
    "decoder_crashed": ("crashes the decoder", "crash the decoder", "save them again as JPEG"),
}  # fmt: skip


def refusals(manifest: Manifest) -> list[dict[str, Any]]:
    """The kinds of photos that are not used, the most frequent first.

    Each has `photos`, their number, `what` and `fix` for people (the fix may be empty), and the names of the
    first LISTED `files`. Kinds that read the same are one.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    counts: dict[tuple[str, str, str], int] = {}
    for rows in iter_table(manifest.path / TABLE, ["uri", "status", "reason"]):
        refused = rows.filter(pc.not_equal(rows["status"], "ok"))
        for uri, reason in zip(refused["uri"].to_pylist(), refused["reason"].to_pylist(), strict=True):
            kind = _kind(uri, reason)
            counts[kind] = counts.get(kind, 0) + 1
            if len(names := found.setdefault(kind, [])) < LISTED:
                names.append(uri)
    return [
        {
            "photos": counts[kind],
            "what": kind[0] if counts[kind] == 1 else kind[1],
            "fix": kind[2],
            "files": found[kind],
        }
        for kind in sorted(counts, key=lambda kind: (-counts[kind], kind))
    ]


def refusal_sentence(refusal: dict[str, Any]) -> str:
    """A kind in words: "3 are broken: copy them again (IMG_0412.jpg, …)"."""
    names = [PurePath(name).name for name in refusal["files"][:NAMED]]
    more = ", …" if refusal["photos"] > len(names) else ""
    fix = re.sub(r"\bthem\b", "it", refusal["fix"]) if refusal["photos"] == 1 else refusal["fix"]
    return f"{refusal['photos']:,} {refusal['what']}{': ' if fix else ''}{fix} ({', '.join(names)}{more})"


def _kind(uri: str, reason: str) -> tuple[str, str, str]:
    word = reason.partition(":")[0].partition(";")[0].strip() or "unreadable"
    suffix = PurePath(uri.partition("::")[0]).suffix.lower()
    if word == "unsupported_format" and ("HEIC" in reason or suffix in HEIC):
        return (*KINDS["heic"][:2], install_extra("heif"))
    if word == "unsupported_format" and ("AVIF" in reason or suffix == ".avif"):
        return (*KINDS["avif"][:2], install("--force-reinstall", "--only-binary", ":all:", "pillow"))
    return KINDS.get(word, (f"is refused ({word})", f"are refused ({word})", ""))
