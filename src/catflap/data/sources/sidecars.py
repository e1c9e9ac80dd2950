"""Labels that lie beside a photo in a WebDataset shard."""

from __future__ import annotations

import json

FIELDS = ("label", "class", "cls", "category")


def label_in(name: str, content: bytes) -> str:
    """The label that a .cls or .json file states, or "" when it states none."""
    try:
        text = content.decode()
        if name.endswith(".cls"):
            return text.strip()
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(fields, dict):
        return ""
    for field in FIELDS:
        value = fields.get(field)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value).strip().encode("utf-8", "backslashreplace").decode()  # JSON has half letters
    return ""
