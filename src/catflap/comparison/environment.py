"""What an environment brings with it: the versions, licences and known vulnerabilities of its packages."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from catflap.errors import BadArtifact, system_reason
from catflap.machine import versions

MAX_ADVISORY = 4 << 20  # bytes of one JSON file
UNSTATED = "not stated"
KNOWN = (  # how packages write the same licence; the first that fits counts
    ("Apache-2.0 OR BSD", "Apache-2.0 or BSD"), ("Apache", "Apache-2.0"), ("MPL", "MPL-2.0"),
    ("Mozilla", "MPL-2.0"), ("BSD", "BSD"), ("MIT", "MIT"), ("ISC", "ISC"), ("HPND", "HPND"),
    ("Python Software Foundation", "PSF-2.0"), ("PSF", "PSF-2.0"), ("LGPL", "LGPL"), ("GPL", "GPL"),
    ("Unlicense", "Unlicense"), ("Zlib", "Zlib"), ("NVIDIA", "NVIDIA proprietary"),
)  # fmt: skip


def licences(packages: Iterable[str]) -> dict[str, int]:
    """How many of the installed packages state which licence, the most frequent first."""
    counted = Counter(licence_of(package) for package in packages)
    return dict(sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])))


def licence_of(package: str) -> str:
    """The licence that an installed package states, under its usual name; "not stated" without one."""
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return UNSTATED
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    expression, text = ("".join(about.get_all(key) or ()) for key in ("License-Expression", "License"))
    stated = (expression or " ".join(classifiers) or text.strip().partition("\n")[0]).strip()
    if not stated or stated == "UNKNOWN":
        return UNSTATED
    return next((name for sign, name in KNOWN if sign.lower() in stated.lower()), stated[:40])


def vulnerabilities(packages: Iterable[str], database: Path) -> list[dict[str, str]]:
    """The advisories of an OSV database that hold for the installed versions of packages.

    `database` is a zip or a folder of OSV files (https://ossf.github.io/osv-schema), such as PyPI/all.zip of
    osv.dev. Withdrawn advisories do not count. Raises BadArtifact when it holds no advisory.
    """
    from packaging.utils import canonicalize_name

    installed = {canonicalize_name(name): version for name, version in versions(packages).items()}
    found, count = [], 0
    for advisory in _advisories(database):
        count += 1
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            name = canonicalize_name(str(package.get("name", "")))
            if package.get("ecosystem") != "PyPI" or name not in installed or "withdrawn" in advisory:
                continue
            if _is_affected(installed[name], affected):
                about = {"package": name, "version": installed[name], "id": str(advisory.get("id", ""))}
                found.append({**about, "summary": str(advisory.get("summary", ""))[:200]})
    if not count:
        raise BadArtifact(
            f"{database} holds no OSV advisory.", "Download PyPI/all.zip of osv.dev and name that file."
        )
    return sorted(found, key=lambda row: (row["package"], row["id"]))


def _is_affected(version: str, affected: Mapping[str, Any]) -> bool:
    """Whether a version is listed, or lies in a range of versions, as the OSV schema says."""
    from packaging.version import InvalidVersion, Version

    if version in affected.get("versions", ()):
        return True
    try:
        here = Version(version)
        for span in affected.get("ranges", ()):
            if span.get("type") != "ECOSYSTEM":
                continue
            inside = False
            events = [(Version(at), kind) for event in span.get("events", ()) for kind, at in event.items()]
            for at, kind in sorted(events, key=lambda event: (event[0], event[1] != "fixed")):
                if kind == "introduced" and here >= at:
                    inside = True
                elif (kind == "fixed" and here >= at) or (kind == "last_affected" and here > at):
                    inside = False
            if inside:
                return True
    except InvalidVersion:
        return False
    return False


def _advisories(database: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects with an `id` in a zip or folder; other files are left out."""
    try:
        if database.is_dir():
            texts = (path.read_bytes() for path in sorted(database.rglob("*.json")))
            yield from _parsed(texts)
            return
        with zipfile.ZipFile(database) as archive:
            names = [each for each in archive.infolist() if re.search(r"\.json$", each.filename)]
            yield from _parsed(archive.read(each) for each in names if each.file_size <= MAX_ADVISORY)
    except (OSError, zipfile.BadZipFile) as error:
        why = system_reason(error)
        raise BadArtifact(
            f"{database} cannot be read: {why}.", "Name a zip or folder of OSV advisories."
        ) from error


def _parsed(texts: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for text in texts:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict) and "id" in value:
            yield value
