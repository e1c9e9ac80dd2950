"""JSON files of the artifacts: read, write, hash, and check against the schemas that lie beside this file.

The checker covers the subset of JSON Schema 2020-12 that these schemas use; the base installation has no
jsonschema.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from catflap.artifacts.folder import recover
from catflap.errors import BadArtifact

Json = dict[str, Any]
WRITERS = {"manifest": "scan", "dataset": "prepare", "checkpoint": "train", "report": "evaluate"}
SCHEMAS = ("manifest", "dataset", "checkpoint")
MOST_FAULTS = 100  # of an array; a hostile one could have millions

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def write_json(path: Path, fields: Json) -> None:
    """Write a JSON object: sorted keys, two-space indent, UTF-8, so that equal content is equal bytes."""
    path.write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path, kind: str) -> Json:
    """Read an artifact's JSON object; BadArtifact when it is absent, damaged or of another kind.

    An artifact whose replacement was killed half-way is put back first.
    """
    try:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if not recover(path.parent):
                raise
            data = path.read_bytes()
        fields = json.loads(data)
        if not is_text(fields):
            raise ValueError("a string contains an unpaired surrogate")
    except (FileNotFoundError, NotADirectoryError) as error:
        if not path.parent.exists():
            raise BadArtifact(f"{path.parent} does not exist.", f"Name a {kind}.") from error
        verb = WRITERS.get(kind)
        raise BadArtifact(
            f"{path.parent} is not a {kind}: {path.name} is missing.",
            f"Name a {kind}{f', which `catflap {verb}` writes' if verb else ''}.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", f"Make the {kind} again.") from error
    if not isinstance(fields, dict) or fields.get("catflap") != kind or fields.get("version") != 1:
        raise BadArtifact(
            f"{path} is not a {kind} of version 1.", f"Make the {kind} again with this Catflap."
        )
    found = faults(fields, load_schema(kind)) if kind in SCHEMAS else []
    if found:
        raise BadArtifact(f"{path} is not valid: {found[0]}.", f"Make the {kind} again with this Catflap.")
    return fields


def digest(value: Any) -> str:
    """The sha256 of a JSON value in canonical form, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """The sha256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_text(value: Any) -> bool:
    """Whether a JSON value can be encoded as UTF-8: an unpaired surrogate such as \\ud800 cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=8)
def load_schema(name: str) -> Json:
    """A schema that lies beside this file, by the name of its artifact."""
    path = Path(__file__).with_name(f"{name}.schema.json")
    schema: Json = json.loads(path.read_text("utf-8"))
    return schema


def faults(value: Any, schema: Json, place: str = "$", root: Json | None = None) -> list[str]:
    """What violates the schema, one sentence a fault, each with its JSON path; empty when nothing does.

    `root` is the schema whose `$defs` a `$ref` names.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    kind = schema.get("type")
    if kind is not None and not any(_is(value, one) for one in ([kind] if isinstance(kind, str) else kind)):
        return [f"{place} is not of the type {kind if isinstance(kind, str) else ' or '.join(kind)}"]
    found: list[str] = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place} is not one of {schema['enum']}")
    if isinstance(value, str) and not _matches(schema.get("pattern", ""), value):
        found.append(f"{place} does not match {schema['pattern']}")
    if _is(value, "number"):
        found += _number_faults(value, schema, place)
    if isinstance(value, list):
        found += _array_faults(value, schema, place, root)
    if isinstance(value, dict):
        found += _object_faults(value, schema, place, root)
    return found


def _matches(pattern: str, value: str) -> bool:
    """As in JSON Schema, where $ is the end of the text; in Python a line break may follow it."""
    return re.search(re.sub(r"\$$", r"\\Z", pattern), value) is not None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _number_faults(value: float, schema: Json, place: str) -> list[str]:
    outside = value < schema.get("minimum", -math.inf) or value > schema.get("maximum", math.inf)
    outside |= value <= schema.get("exclusiveMinimum", -math.inf)
    double = abs(value) <= sys.float_info.max  # neither of infinity, NaN, and whole numbers of 309 digits
    return [f"{place} is out of range"] if outside or not double else []


def _array_faults(value: list[Any], schema: Json, place: str, root: Json) -> list[str]:
    found: list[str] = []
    for position, item in enumerate(value):
        found += faults(item, schema.get("items", {}), f"{place}[{position}]", root)
        if len(found) >= MOST_FAULTS:
            return found
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        found.append(f"{place} has {len(value)} items")
    if schema.get("uniqueItems") and len({json.dumps(item) for item in value}) < len(value):
        found.append(f"{place} has an item twice")
    return found


def _object_faults(value: Json, schema: Json, place: str, root: Json) -> list[str]:
    found = [f"{place}.{name} is missing" for name in schema.get("required", []) if name not in value]
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", {})
    if len(value) < schema.get("minProperties", 0):
        found.append(f"{place} is empty")
    for name, item in value.items():
        if name in properties:
            found += faults(item, properties[name], f"{place}.{name}", root)
        elif rest is False:
            found.append(f"{place}.{name} is unknown")
        elif isinstance(rest, dict):
            found += faults(item, rest, f"{place}.{name}", root)
    return found
