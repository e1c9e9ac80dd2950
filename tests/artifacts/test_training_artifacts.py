"""Manifest, Dataset and Checkpoint: what is damaged is refused with one error, whatever is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from catflap.artifacts.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from catflap.artifacts.dataset import load_dataset, save_dataset
from catflap.artifacts.manifest import load_manifest, save_manifest
from catflap.artifacts.schema import SCHEMAS, load_schema
from catflap.artifacts.tables import iter_table, read_table
from catflap.errors import BadArtifact, CatflapError
from catflap.image import Frame

HASH = "0123456789abcdef" * 4
COMMON = {"sha256": HASH, "made_from": HASH, "versions": {"catflap": "0.1.0"}}
LOADERS: dict[str, Callable[[Path], Any]] = {
    "manifest": load_manifest,
    "dataset": load_dataset,
    "checkpoint": load_checkpoint,
}
STRANGE = [None, True, -1, 1.5, "", "x", [], ["x"], {}, {"x": "y"}]


def saved(kind: str, folder: Path) -> Path:
    """A folder of a kind, with its JSON and, where loading checks them, its weights."""
    learnt = {"labels": ["cat", "not_cat"], "frame": Frame().to_json(), "seed": 0, "ancestors": {"x": HASH}}
    if kind == "manifest":
        counts = {"photos": 3, "ok": 2, "quarantined": 1, "near_duplicate_groups": 0, "near_duplicates": 0}
        save_manifest(folder, {**COMMON, **counts, "source": "photos", "labels": {"cat": 2}})
    elif kind == "dataset":
        save_dataset(folder, {**COMMON, **learnt, "roles": {"train": 2}, "shards": 1, "bytes": 9})
    else:
        (folder / WEIGHTS).write_bytes(b"weights")
        trained = {"backbone": "lite0", "recipe": "head", "mean": [0.5] * 3, "std": [0.5] * 3, "dataset": "d"}
        measured = {"prior": {"cat": 0.5, "not_cat": 0.5}, "metrics": {}, "history": [], "cost": {}}
        save_checkpoint(folder, {**COMMON, **learnt, **trained, **measured, "licences": {"model": "MIT"}})
    return folder / f"{kind}.json"


@pytest.mark.parametrize("kind", SCHEMAS)
def test_what_is_saved_is_loaded_and_conforms(tmp_path: Path, kind: str) -> None:
    fields = json.loads(saved(kind, tmp_path).read_text())
    Draft202012Validator(load_schema(kind)).validate(fields)
    assert LOADERS[kind](tmp_path).versions == {"catflap": "0.1.0"}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_any_field_that_is_missing_or_strange_is_one_error(tmp_path: Path, kind: str) -> None:
    marker = saved(kind, tmp_path)
    whole = json.loads(marker.read_text())
    for name in whole:
        marker.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        with pytest.raises(CatflapError):
            LOADERS[kind](tmp_path)
        for strange in STRANGE:
            marker.write_text(json.dumps({**whole, name: strange}))
            try:
                LOADERS[kind](tmp_path)
            except CatflapError:
                continue
            schema = load_schema(kind)["properties"][name]
            assert Draft202012Validator(schema).is_valid(strange), f"{name} = {strange!r} was loaded"


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("text", [b"\\ud800", b"\xed\xa0\x80"], ids=["an escape", "bytes"])
def test_half_a_letter_in_a_label_is_one_error(tmp_path: Path, kind: str, text: bytes) -> None:
    marker = saved(kind, tmp_path)
    whole = marker.read_bytes()
    assert b'"cat"' in whole
    marker.write_bytes(whole.replace(b'"cat"', b'"' + text + b'"'))
    with pytest.raises(CatflapError, match="unpaired surrogate"):
        LOADERS[kind](tmp_path)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_field_of_the_dataclass_is_in_the_schema(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    names = set(type(LOADERS[kind](tmp_path)).__dataclass_fields__) - {"path"}
    assert names <= set(load_schema(kind)["properties"])


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    saved("checkpoint", tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"weightz")
    with pytest.raises(CatflapError, match="changed"):
        load_checkpoint(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CatflapError, match="missing"):
        load_checkpoint(tmp_path)


def test_a_damaged_table_says_what_writes_it_again(tmp_path: Path) -> None:
    path = tmp_path / "photos.parquet"
    path.write_bytes(b"PAR1 and no more")
    for read in (read_table, lambda path: list(iter_table(path, ["id"]))):
        with pytest.raises(BadArtifact) as error:
            read(path)
        assert error.value.fix == "Run the catflap command that wrote this folder again."
