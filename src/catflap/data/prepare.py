"""prepare: a Manifest to a Dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catflap.artifacts.dataset import INDEX, MARKER, ROLES, SHARDS, Dataset, load_dataset, save_dataset
from catflap.artifacts.folder import digest, whole_folder
from catflap.artifacts.manifest import Manifest
from catflap.artifacts.tables import INDEX_ROW, write_table
from catflap.data.batch import FRAME
from catflap.data.listing import SUFFIXES, check_labels
from catflap.data.reading import read_photo
from catflap.data.roles import SHARES, assign, draw
from catflap.data.scan import versions
from catflap.data.shards import digest_places, write_shards
from catflap.errors import CatflapError
from catflap.image import Frame
from catflap.progress import Progress, silent, told

DEFAULT_FRAME = Frame()
COLUMNS = ("id", "uri", "label", "bytes", "offset", "format", "group", "status", "role")


def prepare(
    manifest: Manifest,
    out: Path,
    *,
    frame: Frame = DEFAULT_FRAME,
    seed: int = 0,
    shares: Mapping[str, float] = SHARES,
    progress: Progress = silent,
) -> Dataset:
    """Give every photo of a Manifest that is ok its role and write the Dataset folder `out`."""
    rows = manifest.rows(COLUMNS)
    rows = rows.filter(pa.compute.equal(rows["status"], "ok"))
    labels = sorted(set(rows["label"].to_pylist()))
    check_labels(labels)
    numbers = {label: number for number, label in enumerate(labels)}
    label = np.array([numbers[name] for name in rows["label"].to_pylist()], dtype=np.int64)
    group = rows["group"].to_numpy()
    ids = rows["id"].to_pylist()
    roles = assign(label, group, draw(ids, seed), shares)
    _check_counts(labels, label, roles)
    order = np.lexsort((np.array(ids), np.searchsorted(sorted(ROLES), roles)))
    with whole_folder(Path(out), MARKER) as folder:
        (folder / SHARDS).mkdir()
        chosen = rows.take(order)
        source = _photos(chosen, label[order], roles[order])
        places = write_shards(folder / SHARDS, told(source, "prepare", len(order), progress))
        index = {
            "id": chosen["id"],
            "shard": [place.shard for place in places],
            "offset": [place.offset for place in places],
            "length": [place.length for place in places],
            "label": label[order],
            "role": roles[order].tolist(),
            "group": group[order],
        }
        write_table(folder / INDEX, pa.table(index).cast(INDEX_ROW))
        kept = [ids[position] for position in order]
        sha256 = digest_places(kept, label[order].tolist(), roles[order].tolist())
        save_dataset(folder, {
            "labels": labels, "frame": frame.to_json(), "seed": seed,
            "roles": {role: int((roles == role).sum()) for role in ROLES},
            "shards": len({place.shard for place in places}),
            "bytes": sum(place.length for place in places),
            "sha256": digest([sha256, labels, frame.to_json()]),
            "made_from": prepare_fingerprint(manifest, frame=frame, seed=seed, shares=shares),
            "ancestors": {"manifest": manifest.sha256}, "versions": versions(),
        })  # fmt: skip
    return load_dataset(out)


def prepare_fingerprint(
    manifest: Manifest,
    *,
    frame: Frame = DEFAULT_FRAME,
    seed: int = 0,
    shares: Mapping[str, float] = SHARES,
) -> str:
    """What a Dataset of this Manifest would be made from, without making it."""
    return digest([manifest.sha256, frame.to_json(), seed, dict(shares), versions()])


def _photos(rows: pa.Table, label: Any, roles: Any) -> Iterator[tuple[str, str, str, bytes]]:
    columns = [rows[name].to_pylist() for name in ("id", "uri", "offset", "bytes", "format")]
    for number, role, id, uri, offset, length, format in zip(label, roles, *columns, strict=True):
        data = read_photo(uri, offset, length, FRAME.max_bytes)
        yield str(role), f"{id}{SUFFIXES[format][0]}", str(number), data


def _check_counts(labels: list[str], label: Any, roles: Any) -> None:
    for number, name in enumerate(labels):
        missing = [role for role in ROLES if not np.any((label == number) & (roles == role))]
        if missing:
            raise CatflapError(
                f"The label {name!r} has {int((label == number).sum())} photos, "
                f"too few for the roles: {', '.join(missing)} would have none.",
                "Add photos until each label has at least 10 that are no near-duplicates.",
            )
