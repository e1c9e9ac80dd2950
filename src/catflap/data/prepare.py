"""prepare: a Manifest to a Dataset."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catflap.artifacts.dataset import INDEX, MARKER, ROLES, SHARDS, Dataset, load_dataset, save_dataset
from catflap.artifacts.folder import digest, read_json, refuse_foreign, unwritable, whole_folder, write_json
from catflap.artifacts.manifest import Manifest
from catflap.artifacts.tables import INDEX_ROW, iter_table, joined_lines, write_tables
from catflap.data.batch import FRAME
from catflap.data.groups import joined
from catflap.data.judge import leading_bits, numbered
from catflap.data.listing import SUFFIXES, check_labels
from catflap.data.lookalikes import ALIKE, Vectors, alike_pairs
from catflap.data.parts import working_folder
from catflap.data.profile import profile_dataset
from catflap.data.reading import read_photo
from catflap.data.roles import LEAST, NONE, ORDER, SHARES, assign, check_shares, draws
from catflap.data.scan import versions
from catflap.data.shards import Member, Plan, plan_shards, write_shard
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.image import Frame
from catflap.progress import Progress, silent

DEFAULT_FRAME = Frame()
RULES = 1  # raised when the same Manifest gives other roles or shards than before
PLAN = "prepare.json"
WRITERS = 4
COLUMNS = ("id", "label", "bytes", "group", "status", "role", "user_group")
READ = ("id", "uri", "bytes", "offset", "format")


@dataclass(frozen=True)
class Chosen:
    """The photos of a Dataset in the order of its index: rows of the Manifest and columns, (n,) each."""

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    roles: npt.NDArray[np.str_]
    names: list[str]
    left_out: int


def prepare(
    manifest: Manifest,
    out: Path,
    *,
    frame: Frame = DEFAULT_FRAME,
    seed: int = 0,
    shares: Mapping[str, float] = SHARES,
    embeddings: Vectors | None = None,
    alike: float = ALIKE,
    profile: bool = True,
    progress: Progress = silent,
) -> Dataset:
    """Give every photo of a Manifest that is ok its role and write the Dataset folder `out`.

    `frame` is how later steps turn the photos into pixels; `seed` draws the roles and `shares` says how
    large they are. With `embeddings`, one row a photo of the Manifest, photos whose cosine is at least
    `alike` share a role too. `profile` also writes profile.html. Photos keep their bytes. A run that
    was killed goes on with the first shard that is not whole.
    """
    out = Path(out)
    check_shares(shares)
    refuse_foreign(out, MARKER)
    chosen, lengths = choose(manifest, seed, shares, embeddings, alike)
    plan = plan_shards(lengths, chosen.roles)
    made_from = prepare_fingerprint(
        manifest, frame=frame, seed=seed, shares=shares, embeddings=embeddings, alike=alike
    )
    with working_folder(out, "prepare") as work:
        _write_shards(work, manifest, chosen, plan, made_from, progress)
        with whole_folder(out, MARKER) as folder:
            write_tables(folder / INDEX, INDEX_ROW, index_rows(manifest, chosen, plan, lengths))
            (work / SHARDS).rename(folder / SHARDS)
            save_dataset(folder, {
                "labels": chosen.names, "frame": frame.to_json(), "seed": seed,
                "roles": {role: int((chosen.roles == role).sum()) for role in ROLES},
                "shards": len(plan), "bytes": int(lengths.sum()), "left_out": chosen.left_out,
                "sha256": _content(folder / INDEX, chosen.names, frame), "made_from": made_from,
                "manifest": os.path.relpath(manifest.path, out),
                "ancestors": {"manifest": manifest.sha256}, "versions": versions(),
            })  # fmt: skip
            if profile:
                progress("profile", 0, 0)
                profile_dataset(folder, load_dataset(folder), _sizes(manifest, chosen))
    return load_dataset(out)


def prepare_fingerprint(
    manifest: Manifest,
    *,
    frame: Frame = DEFAULT_FRAME,
    seed: int = 0,
    shares: Mapping[str, float] = SHARES,
    embeddings: Vectors | None = None,
    alike: float = ALIKE,
) -> str:
    """What a Dataset of this Manifest would be made from, without making it."""
    vectors = "" if embeddings is None else hashlib.sha256(embeddings.tobytes()).hexdigest()
    return digest([RULES, manifest.sha256, frame.to_json(), seed, dict(shares), [vectors, alike], versions()])


def choose(
    manifest: Manifest,
    seed: int,
    shares: Mapping[str, float],
    embeddings: Vectors | None = None,
    alike: float = ALIKE,
) -> tuple[Chosen, npt.NDArray[np.int64]]:
    """The photos of a Dataset with their roles, sorted by role and id, and their lengths in bytes."""
    table = manifest.rows(COLUMNS)
    rows = np.flatnonzero(pc.equal(table["status"], "ok").to_numpy())
    table = table.take(rows) if len(rows) < table.num_rows else table
    names = sorted(table["label"].unique().to_pylist())
    check_labels(names)
    labels = numbered(table["label"], {name: number for number, name in enumerate(names)})
    groups = table["group"].to_numpy()
    if embeddings is not None:
        groups = _with_lookalikes(groups, rows, embeddings, manifest.photos, alike)
    _check_counts(names, labels, groups)
    ids = leading_bits(table["id"])[:, 0]
    users: dict[str, int] = {}
    user = numbered(table["user_group"], users)
    user[user == users.get("", -1)] = -1
    stated = numbered(table["role"], {**{role: code for code, role in enumerate(ORDER)}, "": NONE})
    found = assign(labels, groups, draws(ids, user, list(users), seed), shares, stated.astype(np.int8))
    _check_roles(names, labels[~found.left_out], found.roles[~found.left_out], shares)
    by_name = np.argsort([sorted(ROLES).index(role) for role in ORDER])
    order = np.lexsort((ids, np.argsort(by_name)[found.roles]))
    order = order[~found.left_out[order]]
    roles = np.array(ORDER)[found.roles[order]]
    left_out = int(found.left_out.sum())
    chosen = Chosen(rows[order], labels[order], groups[order], roles, names, left_out)
    return chosen, table["bytes"].to_numpy()[order]


def index_rows(
    manifest: Manifest, chosen: Chosen, plan: Plan, lengths: npt.NDArray[np.int64]
) -> Iterator[pa.Table]:
    """The index of a Dataset, a shard at a time."""
    ids = one_piece(manifest.rows(["id"]))["id"]
    for number, name in enumerate(plan.names):
        part = slice(plan.starts[number], plan.starts[number + 1])
        count = plan.starts[number + 1] - plan.starts[number]
        columns: dict[str, Any] = {
            "id": ids.take(chosen.rows[part]),
            "shard": pa.repeat(name, count),
            "offset": plan.offsets[part],
            "length": lengths[part],
            "label": chosen.labels[part],
            "role": pa.repeat(str(chosen.roles[plan.starts[number]]), count),
            "group": chosen.groups[part],
        }
        yield pa.table(columns).cast(INDEX_ROW)


def one_piece(table: pa.Table) -> pa.Table:
    """A table that rows can be taken from anywhere: in one chunk a row is found at once."""
    wide = [
        field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(wide)).combine_chunks()


def _write_shards(
    work: Path, manifest: Manifest, chosen: Chosen, plan: Plan, made_from: str, progress: Progress
) -> None:
    """Write the shards that are not there yet, several at a time."""
    _keep_or_clear(work, made_from)
    table = one_piece(manifest.rows(READ))
    total, done, lock = len(chosen.rows), 0, threading.Lock()
    progress("prepare", 0, total)

    def members(number: int) -> Iterator[Member]:
        nonlocal done
        part = slice(plan.starts[number], plan.starts[number + 1])
        rows = table.take(chosen.rows[part]).to_pylist()
        for row, label in zip(rows, chosen.labels[part].tolist(), strict=True):
            yield _member(row, label)
            with lock:
                done += 1
                progress("prepare", done, total)

    def write(number: int) -> None:
        path = work / SHARDS / plan.names[number]
        if not path.exists():
            part = slice(plan.starts[number], plan.starts[number + 1])
            write_shard(path, members(number), plan.offsets[part].tolist())

    try:
        with ThreadPoolExecutor(WRITERS) as pool:
            for future in [pool.submit(write, number) for number in range(len(plan))]:
                future.result()
    except OSError as error:
        raise unwritable(work, error) from error


def _member(row: dict[str, Any], label: int) -> Member:
    try:
        data = read_photo(row["uri"], row["offset"], row["bytes"], FRAME.max_bytes)
    except BadPhoto as error:
        raise CatflapError(f"A photo was there when it was scanned: {error.what}", "Scan again.") from error
    return Member(row["id"], SUFFIXES[row["format"]][0], label, data, row["uri"])


def _keep_or_clear(work: Path, made_from: str) -> None:
    try:
        kept = read_json(work / PLAN, "prepare").get("made_from") == made_from
    except BadArtifact:
        kept = False
    if not kept:
        shutil.rmtree(work / SHARDS, ignore_errors=True)
        write_json(work / PLAN, {"catflap": "prepare", "version": 1, "made_from": made_from})
    (work / SHARDS).mkdir(exist_ok=True)


def _content(index: Path, names: list[str], frame: Frame) -> str:
    """The hash that names a Dataset: which photos have which label and role, and the frame."""
    content = hashlib.sha256(digest([names, frame.to_json()]).encode())
    columns = ["id", "label", "role", "group"]
    for table in iter_table(index, columns):
        for lines in joined_lines(table, columns):
            content.update(lines)
    return content.hexdigest()


def _with_lookalikes(
    groups: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    embeddings: Vectors,
    photos: int,
    alike: float,
) -> npt.NDArray[np.int64]:
    """Groups joined with those of photos whose embeddings nearly coincide."""
    if len(embeddings) != photos:
        raise CatflapError(
            f"There are {len(embeddings)} embeddings for {photos} photos.",
            "Give one row for each row of the Manifest.",
        )
    first, second = alike_pairs(embeddings[rows], alike)
    firsts = np.concatenate([groups, groups[first]])
    return joined(photos, firsts, np.concatenate([groups, groups[second]]))[groups]


def _sizes(manifest: Manifest, chosen: Chosen) -> Counter[tuple[int, int]]:
    table = manifest.rows(["width", "height"]).take(chosen.rows)
    return Counter(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True))


def _check_counts(names: list[str], labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> None:
    for number, name in enumerate(names):
        mine = groups[labels == number]
        distinct = len(np.unique(mine)) if len(mine) < 1 << 16 else LEAST
        if distinct < LEAST:
            raise CatflapError(
                f"The label {name!r} has {len(mine)} photos in {distinct} groups; "
                f"train, validation, calibration and test need {LEAST} groups of every label.",
                f"Add photos of {name!r} that are no copies of each other.",
            )


def _check_roles(
    names: list[str], labels: npt.NDArray[np.int64], roles: npt.NDArray[np.int8], shares: Mapping[str, float]
) -> None:
    counts = np.zeros((len(names), len(ORDER)), np.int64)
    np.add.at(counts, (labels, roles), 1)
    for number, code in zip(*np.nonzero(counts == 0), strict=True):
        if shares[ORDER[code]] > 0:
            raise CatflapError(
                f"No photos of {names[number]!r} are left for the role {ORDER[code]!r}.",
                "Add photos that are no near-duplicates, or state fewer roles in the source.",
            )
