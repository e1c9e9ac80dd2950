"""Check a JSON value against the subset of JSON Schema (2020-12) that our schemas use."""

from __future__ import annotations

import json
import math
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

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


@lru_cache(maxsize=8)
def load_schema(name: str) -> dict[str, Any]:
    """A schema that lies beside this file, by the name of its artefact."""
    path = Path(__file__).with_name(f"{name}.schema.json")
    schema: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return schema


def faults(value: Any, schema: dict[str, Any], place: str = "$") -> list[str]:
    """What is wrong with a value, one sentence a fault, each with its place; empty when it conforms."""
    kind = schema.get("type")
    if kind is not None and not _is(value, kind):
        return [f"{place} is not of the type {kind}"]
    found: list[str] = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place} is none of {schema['enum']}")
    if isinstance(value, str) and not _matches(schema.get("pattern", ""), value):
        found.append(f"{place} does not match {schema['pattern']}")
    if _is(value, "number"):
        found += _number_faults(value, schema, place)
    if isinstance(value, list):
        found += _array_faults(value, schema, place)
    if isinstance(value, dict):
        found += _object_faults(value, schema, place)
    return found


def is_text(value: Any) -> bool:
    """Whether a JSON value can be written as UTF-8: an escape such as \\ud800 alone is half a letter."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _matches(pattern: str, value: str) -> bool:
    """As in JSON Schema, where $ is the end of the text; in Python a line break may follow it."""
    return re.search(re.sub(r"\$$", r"\\Z", pattern), value) is not None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _number_faults(value: float, schema: dict[str, Any], place: str) -> list[str]:
    outside = value < schema.get("minimum", -math.inf) or value > schema.get("maximum", math.inf)
    outside |= value <= schema.get("exclusiveMinimum", -math.inf)
    double = abs(value) <= sys.float_info.max  # neither of infinity, NaN, and whole numbers of 309 digits
    return [f"{place} is out of range"] if outside or not double else []


def _array_faults(value: list[Any], schema: dict[str, Any], place: str) -> list[str]:
    found: list[str] = []
    for position, item in enumerate(value):
        found += faults(item, schema.get("items", {}), f"{place}[{position}]")
        if len(found) >= MOST_FAULTS:
            return found
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        found.append(f"{place} has {len(value)} items")
    if schema.get("uniqueItems") and len({json.dumps(item) for item in value}) < len(value):
        found.append(f"{place} has an item twice")
    return found


def _object_faults(value: dict[str, Any], schema: dict[str, Any], place: str) -> list[str]:
    found = [f"{place}.{name} is missing" for name in schema.get("required", []) if name not in value]
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", {})
    if len(value) < schema.get("minProperties", 0):
        found.append(f"{place} is empty")
    for name, item in value.items():
        if name in properties:
            found += faults(item, properties[name], f"{place}.{name}")
        elif rest is False:
            found.append(f"{place}.{name} is unknown")
        elif isinstance(rest, dict):
            found += faults(item, rest, f"{place}.{name}")
    return found
