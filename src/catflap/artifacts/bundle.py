"""The Bundle: one file that a device can run, check and explain without anything else; schema, encoding.

The encoding is a zip of stored members with fixed headers (APPNOTE.TXT 6.3 of PKWARE, the subset that
docs/reference/bundle.md describes). A set of members has exactly one encoding, so the reader rebuilds the
headers and compares: a flipped bit anywhere, a gap, a comment, an extra field or a trailing byte is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from catflap.artifacts.schema import faults, is_text, load_schema
from catflap.errors import BadArtifact, CatflapError, nearest, system_reason
from catflap.image import Frame

FORMAT = "1.1"
HEAD = "bundle.json"
SUFFIX = ".catflap"
MAX_HEAD = 16 << 20  # bytes of bundle.json
ROUNDED = 2e-6  # what six decimals may lose of an interval
DEEPEST = 64  # objects and lists in bundle.json within each other; ours have 8
SHIPPED = Path(__file__).parent / "shipped"

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}){0,3}")
MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 1000
MAX_BYTES = (1 << 31) - 1  # no zip64

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_DATE = (1 << 5) | 1  # 1980-01-01, 00:00


@dataclass(frozen=True)
class Variant:
    """One executable form of the model, with what was measured on it from raw photo bytes.

    `temperature` divides its logits; `tolerance` is the largest allowed difference of a golden logit on
    another machine; `decision` has the threshold that a label has to reach, else the answer is "unsure", and
    the thresholds for other error rates (runtime/decisions.py). `weights` is a second file, for runtimes that
    keep the graph and its weights apart. `baseline` describes its answers on the calibration role, for
    `catflap drift`; None in Bundles that do not have it. `operating_points` are thresholds on the probability
    of one label, for `Classifier(operating_point=…)`. `decisions` is how often the test photos got a right, a
    wrong or no decision; empty in Bundles that do not state it. `unknown` has the OOD score above which a
    photo is "unknown"; None where that is switched off. `sets` has the probability from which a label is in
    the prediction set; None for two labels, or where nothing can be promised.
    """

    name: str
    file: str
    runtime: str
    precision: str
    temperature: float
    tolerance: float
    metrics: dict[str, Any]
    fidelity: dict[str, Any]
    decision: dict[str, Any]
    weights: str = ""
    baseline: dict[str, Any] | None = None
    operating_points: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[str, Any] = field(default_factory=dict)
    unknown: dict[str, Any] | None = None
    sets: dict[str, Any] | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its files in the Bundle: one, or the graph and its weights."""
        return (self.file, self.weights) if self.weights else (self.file,)

    @property
    def takes_photos(self) -> bool:
        """True when the Frame's crop and resize are inside the graph, which then takes a whole photo."""
        return self.runtime == "onnxruntime-frame"


@dataclass(frozen=True)
class Bundle:
    """An opened Bundle: every byte was checked when it was read.

    `head` is bundle.json; `members` maps each file in it to its bytes.
    """

    path: Path
    name: str
    labels: tuple[str, ...]
    frame: Frame
    variants: dict[str, Variant]
    default_variant: str
    prior: dict[str, float]
    sha256: str
    head: dict[str, Any]
    members: Mapping[str, memoryview]

    @property
    def untested(self) -> dict[str, dict[str, str]]:
        """Variants that were converted but never run: name to `file`, `runtime`, `precision`."""
        return self.head.get("untested", {})  # type: ignore[no-any-return]

    def variant(self, name: str | None = None) -> Variant:
        """The named variant, or the default one without a name; BadArtifact when there is no such variant."""
        name = name or self.default_variant
        if name not in self.variants:
            raise BadArtifact(
                f"{self.path.name} has no variant {name!r}.", f"Use one of: {', '.join(self.variants)}."
            )
        return self.variants[name]

    def hash_of(self, name: str) -> str:
        """The SHA-256 of a member, which was checked when the Bundle was opened."""
        return _sha256(self.members[HEAD]) if name == HEAD else str(self.head["files"][name]["sha256"])

    def size_of(self, variant: Variant) -> int:
        """The total size of a variant's files in bytes."""
        return sum(len(self.members[name]) for name in variant.members)


def as_variant(name: str, entry: Mapping[str, Any]) -> Variant:
    """The Variant that an entry of bundle.json describes, without members that only a later version knows."""
    fields = set(Variant.__dataclass_fields__) - {"name"}
    return Variant(name, **{known: entry[known] for known in fields & set(entry)})


def encode_bundle(path: Path, head: dict[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The bytes of a Bundle that will be written to `path`; `files` of the head is filled here.

    Raises CatflapError where it could not be read again.
    """
    listed = {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in files.items()}
    head = {"catflap_bundle": FORMAT, **head, "files": listed}
    _check_head(head, str(path))
    text = json.dumps(head, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    first = text.encode("utf-8")
    if len(first) > MAX_HEAD:
        raise CatflapError(
            f"{path} would have a {HEAD} of {len(first) / 2**20:.1f} MiB, {MAX_HEAD >> 20} at most.",
            "Export it with fewer variants or labels.",
        )
    return encode_members({HEAD: first, **files})


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open and check a Bundle: form, schema and every hash; BadArtifact when anything is off.

    `path` may be the name of a bundle that ships with Catflap, such as "cat".
    """
    try:
        path = Path(path)
    except TypeError as error:
        raise BadArtifact(f"A {type(path).__name__} is not a bundle.", "Name a .catflap file.") from error
    data = _read(path)
    members = decode_members(data, str(path))
    head = _parse_head(members, str(path))
    listed = head["files"]
    if set(listed) != set(members) - {HEAD}:
        raise BadArtifact(f"{path} contains other files than {HEAD} lists.", "Export it again.")
    for name, entry in listed.items():
        if len(members[name]) != entry["bytes"] or _sha256(members[name]) != entry["sha256"]:
            raise BadArtifact(
                f"{name} in {path} does not have the size and hash that {HEAD} lists.",
                "Copy or export it again.",
            )
    return Bundle(
        path=path,
        name=head["name"],
        labels=tuple(head["labels"]),
        frame=Frame.from_json(head["frame"]),
        variants={name: as_variant(name, entry) for name, entry in head["variants"].items()},
        default_variant=head["default_variant"],
        prior=head["prior"],
        sha256=_sha256(data),
        head=head,
        members=members,
    )


def _read(path: Path) -> bytes:
    """The bytes of a bundle file, or of the shipped bundle of that name; pipes and devices are refused."""
    try:
        if not path.is_file() and (SHIPPED / f"{path}{SUFFIX}").is_file():
            path = SHIPPED / f"{path}{SUFFIX}"
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadArtifact(f"{path} is not a file.", "Name a .catflap file.")
        if status.st_size > MAX_BYTES:
            raise BadArtifact(f"{path} is larger than a bundle can be.", "Name a .catflap file.")
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
            return start + file.read(MAX_BYTES) if start == MAGIC else start
    except (OSError, ValueError) as error:
        why = system_reason(error)
        raise BadArtifact(f"{path} cannot be read: {why}.", _meant(path)) from error


def _meant(path: Path) -> str:
    """What to do about a bundle that is not there: take the one of nearly this name, if there is one."""
    with suppress(OSError, ValueError):
        if near := nearest(path.stem, [each.stem for each in path.parent.glob(f"*{SUFFIX}")]):
            return f"Did you mean: {path.with_name(near + SUFFIX)}"
    return f"Name a {SUFFIX} file."


def refuse_foreign_file(path: Path) -> None:
    """Raise CatflapError when the file to replace is not a bundle: it may be a photo of the user."""
    if (path.exists() or path.is_symlink()) and HEAD.encode() not in _read(path)[:64]:
        raise CatflapError(f"{path} exists and is not a bundle.", "Choose another output name.")


def _parse_head(members: Mapping[str, memoryview], path: str) -> dict[str, Any]:
    if next(iter(members)) != HEAD:
        raise BadArtifact(f"{path} does not begin with {HEAD}.", "Name a .catflap file.")
    if len(members[HEAD]) > MAX_HEAD:
        raise BadArtifact(
            f"{HEAD} in {path} has more than {MAX_HEAD >> 20} MiB.",
            "Export it with fewer variants or labels.",
        )
    try:
        text = bytes(members[HEAD]).decode("utf-8")
        head = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_whole, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{HEAD} in {path} is not JSON.", "Export it again.") from error
    _check_head(head, path)
    return head  # type: ignore[no-any-return]


def _check_head(head: Any, path: str) -> None:
    """Raise BadArtifact for an unknown major version, a violation of the schema, or a contradiction."""
    version = head.get("catflap_bundle") if isinstance(head, dict) else None
    if not isinstance(version, str) or version.split(".")[0] != FORMAT.split(".")[0]:
        raise BadArtifact(
            f"{path} has the bundle format {version!r}; this Catflap reads {FORMAT}.",
            "Update Catflap or export it again.",
        )
    found = [] if _is_shallow(head) else [f"it is nested more than {DEEPEST} levels deep"]
    found = found or faults(head, load_schema("bundle"))
    if not found and not is_text(head):
        found.append("a string contains an unpaired surrogate")
    if not found:
        variants, untested = head["variants"].values(), head.get("untested", {})
        files = {head["golden"]["file"], *(entry["file"] for entry in (*variants, *untested.values()))}
        files |= {entry["weights"] for entry in variants if "weights" in entry}
        if not files <= set(head["files"]):
            found.append(f"variants name files that are not listed: {sorted(files - set(head['files']))}")
        if head["default_variant"] not in head["variants"]:
            found.append("the default variant does not exist")
        if not all(NAME.fullmatch(name) and "/" not in name for name in (*head["variants"], *untested)):
            found.append("a variant has a name that is not allowed")
        if set(untested) & set(head["variants"]):
            found.append("a variant is both tested and untested")
        if set(head["prior"]) != set(head["labels"]):
            found.append("the prior does not name every label")
        if abs(sum(head["prior"].values()) - 1) > 1e-3:
            found.append("the prior does not add up to 1")
        found += [
            fault for name, entry in head["variants"].items() for fault in _metric_faults(name, entry, head)
        ]
        if not all(_is_risk_curve(entry["decision"]) for entry in variants):
            found.append("a curve of error rates is not ascending, or does not hold the decision's own")
        if any("unknown" in entry and "baseline" not in entry for entry in variants):
            found.append("a variant refuses unknown photos without a baseline to measure them by")
        if not all(_same_width(entry) for entry in variants):
            found.append("the means and axes of a baseline differ in their width")
        if not all(_are_points(entry.get("operating_points", []), head["labels"]) for entry in variants):
            found.append("an operating point has an unknown label, not exactly one target, or a duplicate")
    if found:
        raise BadArtifact(f"{HEAD} in {path} is not valid: {found[0]}.", "Export it again.")


def _metric_faults(name: str, variant: dict[str, Any], head: dict[str, Any]) -> list[str]:
    """What contradicts itself in the measured figures of a variant; types and ranges are the schema's."""
    metrics, labels = variant["metrics"], set(head["labels"])
    place = f"$.variants.{name}"
    found = [f"{place}.{one}" for one in _wrong_intervals(metrics, "metrics")]
    for number, point in enumerate(variant.get("operating_points", [])):
        for role in ("calibration", "test"):
            found += [
                f"{place}.{one}"
                for one in _wrong_intervals(point[role], f"operating_points[{number}].{role}")
            ]
    named = {*metrics.get("labels", ()), *metrics.get("per_class", ())}
    named |= {one[key] for one in metrics.get("confusions", ()) for key in ("true", "predicted")}
    if not named <= labels:
        found.append(
            f"{place}.metrics names the label {min(named - labels)!r}, which the bundle does not have"
        )
    photos = metrics.get("photos")
    if photos is not None:
        if metrics.get("groups", 0) > photos:
            found.append(f"{place}.metrics has more groups than photos")
        per_class = metrics.get("per_class")
        if per_class and sum(one["support"] for one in per_class.values()) != photos:
            found.append(f"{place}.metrics.per_class does not add up to {photos} photos")
    matrix = metrics.get("confusion_matrix")
    if matrix:
        sides = {len(matrix[part]) for part in ("photos", "value", "low", "high")}
        sides |= {
            len(row) for part in ("photos", "value", "low", "high") for row in matrix[part] if row is not None
        }
        if sides != {len(labels)}:
            found.append(f"{place}.metrics.confusion_matrix does not have a row and a column a label")
        elif photos is not None and sum(map(sum, matrix["photos"])) != photos:
            found.append(f"{place}.metrics.confusion_matrix does not add up to {photos} photos")
    fidelity = variant["fidelity"]
    if fidelity["flips"] > fidelity["photos"] or fidelity.get("groups", 0) > fidelity["photos"]:
        found.append(f"{place}.fidelity has more flips or groups than photos")
    low, high = fidelity.get("flip_rate_low", 0), fidelity.get("flip_rate_high", 1)
    if not low - ROUNDED <= fidelity["flip_rate"] <= high + ROUNDED:
        found.append(f"{place}.fidelity.flip_rate lies outside of its interval")
    return found


def _wrong_intervals(value: Any, place: str) -> Iterator[str]:
    """The measured numbers that lie outside of their interval, or are null without a reason."""
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from _wrong_intervals(item, f"{place}[{position}]")
    if not isinstance(value, dict):
        return
    if {"value", "low", "high"} <= value.keys() and not isinstance(value["value"], list):
        ends = value["low"], value["value"], value["high"]
        if None in ends:
            if not value.get("reason"):
                yield f"{place} is null without a reason"
        elif not ends[0] - ROUNDED <= ends[1] <= ends[2] + ROUNDED:
            yield f"{place}.value lies outside of its interval"
    for key, item in value.items():
        yield from _wrong_intervals(item, f"{place}.{key}")


def _is_risk_curve(decision: dict[str, Any]) -> bool:
    """Whether a decision's curve ascends in its rates, descends in its thresholds, and holds its own."""
    points = [(point["error_rate"], point["threshold"]) for point in decision.get("curve", [])]
    ascends = all(low[0] < high[0] and low[1] >= high[1] for low, high in pairwise(points))
    return ascends and (not points or (decision["error_rate"], decision["threshold"]) in points)


def _same_width(variant: dict[str, Any]) -> bool:
    """Whether the embeddings that a variant's baseline describes are all of one width."""
    entries = variant.get("baseline", {}).get("labels", {}).values()
    described = [entry["embedding"] for entry in entries if "embedding" in entry]
    widths = {_decoded_length(entry["mean"]) for entry in described}
    return len(widths) <= 1 and all(_decoded_length(entry["axes"]) % max(widths) == 0 for entry in described)


def _are_points(points: list[dict[str, Any]], labels: list[str]) -> bool:
    """Whether operating points have known labels and one target each, without duplicates."""
    targets = {(point["label"], *point["wish"].items()) for point in points}
    known = set(labels)
    return len(targets) == len(points) and all(len(one) == 2 and one[0] in known for one in targets)


def _decoded_length(base64: str) -> int:
    return len(base64) // 4 * 3 - base64.count("=")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a duplicate key, of which two readers might use different values."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("an object has a duplicate key")
    return fields


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    """Refuse 1e999, which would be infinite."""
    return _no_constant(number) if math.isinf(value := float(number)) else value


def _whole(number: str) -> int:
    """Refuse an integer that no double can hold: arithmetic with floats would fail."""
    _finite(number)
    return int(number)


def _is_shallow(value: Any) -> bool:
    """Whether a value is nested at most DEEPEST levels, which recursive parsers can handle."""
    level = [value]
    for _ in range(DEEPEST):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [one for items in inner for one in items if isinstance(one, dict | list)]
        if not level:
            return True
    return False


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


# --- The encoding


def encode_members(members: Mapping[str, bytes | memoryview]) -> bytes:
    """The bytes of a Bundle that holds these members in this order; CatflapError when none can."""
    bad = [name for name in members if not NAME.fullmatch(name)] + _also_folders(members)
    if bad or not 0 < len(members) <= MAX_MEMBERS or sum(map(len, members.values())) > MAX_BYTES - (1 << 20):
        raise CatflapError(
            f"A bundle cannot hold these {len(members)} files{f': {bad[0]!r}' if bad else ''}.",
            "Use at most 1000 files of 2 GB in all, with plain names.",
        )
    return b"".join(_chunks(members))


def decode_members(data: bytes | memoryview, file: str = "The file") -> Mapping[str, memoryview]:
    """The members of a Bundle as views into its bytes, in their order; BadArtifact when not exact.

    `file` is what an error calls it.
    """
    try:
        return _decoded(memoryview(data))
    except _NotWhole as error:
        is_other = Path(file).suffix not in ("", SUFFIX)  # a photo, say, in the place of the bundle
        fix = f"Name a {SUFFIX} file: it comes before the photos." if is_other else "Copy or export it again."
        raise BadArtifact(f"{file} is not a whole Catflap bundle: {error}.", fix) from error


class _NotWhole(Exception):
    """The reason why some bytes are not exactly a Bundle."""


def _decoded(view: memoryview) -> Mapping[str, memoryview]:
    members = _walk(view)
    position = 0
    for chunk in _chunks(members):
        if view[position : position + len(chunk)] != chunk:
            raise _NotWhole(f"bytes differ near offset {position}")
        position += len(chunk)
    if position != len(view):
        raise _NotWhole("it has bytes after its end")
    return MappingProxyType(members)


def _walk(view: memoryview) -> dict[str, memoryview]:
    """Follow the local headers from the first byte; decode_members checks everything else."""
    members: dict[str, memoryview] = {}
    position = 0
    while bytes(view[position : position + 4]) == MAGIC:
        if position + _LOCAL.size > len(view):
            raise _NotWhole("it is cut short")
        fields = _LOCAL.unpack_from(view, position)
        size, name_length = fields[8], fields[9]
        start = position + _LOCAL.size + name_length
        name = bytes(view[position + _LOCAL.size : start]).decode("ascii", "replace")
        if not NAME.fullmatch(name):
            raise _NotWhole(f"the member name {name[:40]!r} is not allowed")
        if name in members or len(members) >= MAX_MEMBERS:
            raise _NotWhole(f"the member {name!r} is there twice or one too many")
        if start + size > len(view):
            raise _NotWhole("it is cut short")
        members[name] = view[start : start + size]
        position = start + size
    if not members:
        raise _NotWhole("it does not begin like one")
    if both := _also_folders(members):
        raise _NotWhole(f"the member {both[0]!r} is a folder of others too")
    return members


def _also_folders(members: Iterable[str]) -> list[str]:
    """The names that are also folders of other members, so that they cannot be unpacked."""
    parts = [name.split("/") for name in members]
    folders = {"/".join(part[:depth]) for part in parts for depth in range(1, len(part))}
    return [name for name in members if name in folders]


def _chunks(members: Mapping[str, bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Local header and data of each member, then the central directory and its end record."""
    central = b""
    offset = 0
    for name, data in members.items():
        path = name.encode("ascii")
        common = (20, 0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(path), 0)
        local = _LOCAL.pack(MAGIC, *common) + path
        central += _CENTRAL.pack(b"PK\x01\x02", 20, *common, 0, 0, 0, 0, offset) + path
        offset += len(local) + len(data)
        yield local
        yield data
    yield central
    yield _END.pack(b"PK\x05\x06", 0, 0, len(members), len(members), len(central), offset, 0)
