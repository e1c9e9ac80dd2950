"""A label mapping: which labels are renamed, merged or left out."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from catflap.data.sources.listing import Reference
from catflap.errors import CatflapError

Labels: TypeAlias = Mapping[str, str | None]
OTHERS = "*"


def read_mapping(path: Path) -> dict[str, str | None]:
    """A mapping from a JSON object {"tabby": "cat", "wolf": null} or a CSV with the columns label and to.

    "*" stands for all labels that are not named; null or an empty cell leaves a label out.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            return _checked(path, json.loads(text))
        rows = csv.DictReader(text.splitlines())
        if not {"label", "to"} <= set(rows.fieldnames or ()):
            raise ValueError("it has no columns label and to")
        return _checked(path, {row["label"]: row["to"] or None for row in rows})
    except (OSError, ValueError, RecursionError) as error:
        raise CatflapError(
            f"The label mapping {path} cannot be read: {error}.",
            'Write a JSON object such as {"tabby": "cat", "*": "not_cat", "wolf": null}.',
        ) from error


def mapped(references: Iterable[Reference], mapping: Labels, left_out: dict[str, int]) -> Iterator[Reference]:
    """References under their new labels; those left out are counted by label in `left_out`."""
    unseen = set(mapping) - {OTHERS}
    for found in references:
        label = found["label"]
        unseen.discard(label)
        new = mapping.get(label, mapping.get(OTHERS, label)) if label else label
        if new is None:
            left_out[label] = left_out.get(label, 0) + 1
        else:
            yield {**found, "label": new}
    if unseen:
        names = ", ".join(map(repr, sorted(unseen)))
        raise CatflapError(
            f"The label mapping names {names}, which the source does not have.",
            "Correct or remove the names.",
        )


def _checked(path: Path, mapping: object) -> dict[str, str | None]:
    if isinstance(mapping, dict) and all(new is None or isinstance(new, str) for new in mapping.values()):
        "".join(filter(None, (*mapping, *mapping.values()))).encode()  # "\\ud800" in JSON is half a letter
        return {str(label): (new.strip() or None) if new else None for label, new in mapping.items()}
    raise ValueError("it is no object of label names")
