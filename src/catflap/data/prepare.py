"""The verb `prepare`: give each photo of a Manifest a role, pack them into shards, write the Dataset."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catflap.artifacts.dataset import (
    INDEX,
    MARKER,
    PIXELS,
    ROLES,
    SHARDS,
    Dataset,
    load_dataset,
    save_dataset,
)
from catflap.artifacts.folder import atomic_folder, refuse_foreign, unwritable, working_folder
from catflap.artifacts.manifest import Manifest
from catflap.artifacts.schema import digest
from catflap.artifacts.tables import INDEX_ROW, iter_table, joined_lines, leading_bits, numbered, write_tables
from catflap.data.duplicates import LOOKALIKE, Vectors, joined, lookalike_pairs
from catflap.data.listing import check_labels
from catflap.data.packing import (
    Chosen,
    ShardPlan,
    check_room,
    check_shrink,
    keep_or_clear,
    offsets,
    one_piece,
    plan_shards,
    write_pixels,
    write_shards,
)
from catflap.data.profile import PAGE, profile_dataset
from catflap.data.refusals import refusal_sentence, refusals
from catflap.data.roles import (
    MIN_GROUPS,
    MIN_RARE_GROUPS,
    NONE,
    ORDER,
    TRAIN,
    assign,
    check_seed,
    check_shares,
    draws,
    usual_shares,
)
from catflap.data.scan import scan_versions
from catflap.errors import CatflapError
from catflap.image import Frame
from catflap.progress import Progress, silent

DEFAULT_FRAME = Frame()
REVISION = 4  # raised when the same Manifest gives other roles or shards than before
COLUMNS = ("id", "label", "bytes", "group", "status", "role", "user_group")
NAMED = 3  # labels with too few photos that an error names


def prepare(
    manifest: Manifest,
    out: Path,
    *,
    frame: Frame = DEFAULT_FRAME,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    embeddings: Vectors | None = None,
    shrink: int = 0,
    pixels: bool = False,
    profile: bool = True,
    progress: Progress = silent,
) -> Dataset:
    """Give every photo of a Manifest that is ok a role and write the Dataset folder `out`.

    `frame` is how later steps turn the photos into pixels; `seed` draws the roles and `shares` are their
    sizes (None: `usual_shares` of the photos that are ok). With `embeddings`, one row for each photo of the
    Manifest, photos that look alike share a role too. Photos keep their bytes, but with `shrink` larger train
    photos are stored as JPEGs with that short side in px. `pixels` adds a memory map of decoded train photos,
    `profile` writes profile.html. A run that was killed goes on with the first shard that is not complete.
    """
    out = Path(out)
    check_seed(seed)
    shares = usual_shares(manifest.ok) if shares is None else shares
    check_shares(shares)
    check_shrink(shrink)
    refuse_foreign(out, MARKER)
    try:
        chosen, lengths = assign_roles(manifest, seed, shares, embeddings)
    except CatflapError as error:
        raise _with_refusals(error, manifest) from error
    if series := manifest.finding("series"):
        logging.getLogger(__name__).warning(series)
    plan = plan_shards(lengths, chosen.roles)
    made_from = prepare_fingerprint(
        manifest, frame=frame, seed=seed, shares=shares, embeddings=embeddings, shrink=shrink, pixels=pixels
    )  # fmt: skip
    with working_folder(out, "prepare") as work:
        keep_or_clear(work, made_from)
        check_room(out, work, chosen.roles, lengths, shrink, frame if pixels else None)
        packed = write_shards(work, manifest, chosen, plan, shrink, progress)
        try:
            write_tables(work / INDEX, INDEX_ROW, index_rows(manifest, chosen, plan, packed))
            save_dataset(work, {
                **_fields(manifest, chosen), "frame": frame.to_json(), "seed": seed, "shards": len(plan),
                "bytes": int(packed[:, 0].sum()), "shrink": shrink, "pixels": pixels, "made_from": made_from,
                "sha256": _content(work / INDEX, [chosen.names, frame.to_json(), shrink, pixels]),
                "manifest": os.path.relpath(manifest.path, out),
            })  # fmt: skip
            written = load_dataset(work)
            if pixels:
                write_pixels(work / PIXELS, written, progress)
        except OSError as error:
            raise unwritable(out, error) from error
        if profile:
            progress("profile", 0, 0)
            profile_dataset(work, written, _sizes(manifest, chosen))
        with atomic_folder(out, MARKER) as folder:
            _keep_shards(work / SHARDS, folder / SHARDS, plan)
            for name in (INDEX, MARKER, *[PIXELS] * pixels, *[PAGE] * profile):
                (work / name).rename(folder / name)
    return load_dataset(out)


def prepare_fingerprint(
    manifest: Manifest,
    *,
    frame: Frame = DEFAULT_FRAME,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    embeddings: Vectors | None = None,
    shrink: int = 0,
    pixels: bool = False,
) -> str:
    """A hash of what a Dataset of this Manifest would be made from."""
    vectors = "" if embeddings is None else hashlib.sha256(embeddings.tobytes()).hexdigest()
    shares = usual_shares(manifest.ok) if shares is None else shares
    settings = [frame.to_json(), seed, dict(shares), [vectors, LOOKALIKE], shrink, pixels]
    return digest([REVISION, manifest.sha256, *settings, scan_versions()])


def assign_roles(
    manifest: Manifest,
    seed: int,
    shares: Mapping[str, float],
    embeddings: Vectors | None = None,
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
        groups = _with_lookalikes(groups, rows, embeddings, manifest.photos)
    _check_counts(names, labels, groups)
    ids = leading_bits(table["id"])[:, 0]
    users: dict[str, int] = {}
    user = numbered(table["user_group"], users)
    user[user == users.get("", -1)] = -1
    stated = numbered(table["role"], {**{role: code for code, role in enumerate(ORDER)}, "": NONE})
    found = assign(labels, groups, draws(ids, user, list(users), seed), shares, stated.astype(np.int8))
    kept = ~found.left_out
    _check_roles(names, labels[kept], groups[kept], found.roles[kept], shares)
    by_name = np.argsort([sorted(ROLES).index(role) for role in ORDER])
    order = np.lexsort((ids, np.argsort(by_name)[found.roles]))
    order = order[~found.left_out[order]]
    roles = np.array(ORDER)[found.roles[order]]
    left_out = int(found.left_out.sum())
    chosen = Chosen(rows[order], labels[order], groups[order], roles, names, left_out)
    return chosen, table["bytes"].to_numpy()[order]


def index_rows(
    manifest: Manifest, chosen: Chosen, plan: ShardPlan, packed: npt.NDArray[np.int64]
) -> Iterator[pa.Table]:
    """The index of a Dataset, a shard at a time; `packed` is length and CRC-32 of each photo, (n, 2)."""
    ids = one_piece(manifest.rows(["id"]))["id"]
    for number, name in enumerate(plan.names):
        part = plan.part(number)
        count = part.stop - part.start
        columns: dict[str, Any] = {
            "id": ids.take(chosen.rows[part]),
            "shard": pa.repeat(name, count),
            "offset": offsets(packed[part, 0]),
            "length": packed[part, 0],
            "crc32": packed[part, 1],
            "label": chosen.labels[part],
            "role": pa.repeat(str(chosen.roles[part.start]), count),
            "group": chosen.groups[part],
        }
        yield pa.table(columns).cast(INDEX_ROW)


def _keep_shards(work: Path, folder: Path, plan: ShardPlan) -> None:
    """Link the shards into the folder that is renamed later, so that a run killed before then keeps them.

    Where the file system has no links they are moved.
    """
    folder.mkdir()
    for name in plan.names:
        try:
            os.link(work / name, folder / name)
        except OSError:
            (work / name).rename(folder / name)


def _fields(manifest: Manifest, chosen: Chosen) -> dict[str, Any]:
    return {
        "labels": chosen.names,
        "roles": {role: int((chosen.roles == role).sum()) for role in ROLES},
        "left_out": chosen.left_out,
        "ancestors": {"manifest": manifest.sha256},
        "versions": scan_versions(),
    }


def _content(index: Path, settings: list[Any]) -> str:
    """The hash that names a Dataset: which photos have which label and role, and how they are kept."""
    content = hashlib.sha256(digest(settings).encode())
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
) -> npt.NDArray[np.int64]:
    """Groups joined with those of photos whose embeddings nearly coincide."""
    if len(embeddings) != photos:
        raise CatflapError(
            f"There are {len(embeddings)} embeddings for {photos} photos.",
            "Give one row for each row of the Manifest.",
        )
    first, second = lookalike_pairs(embeddings[rows])
    firsts = np.concatenate([groups, groups[first]])
    return joined(photos, firsts, np.concatenate([groups, groups[second]]))[groups]


def _sizes(manifest: Manifest, chosen: Chosen) -> Counter[tuple[int, int]]:
    table = manifest.rows(["width", "height"]).take(chosen.rows)
    return Counter(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True))


def _check_counts(names: list[str], labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> None:
    counts = np.bincount(labels, minlength=len(names))
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(counts) - counts
    short, spare = [], 0
    for number in np.flatnonzero(counts < 1 << 16):  # more photos than that surely have enough groups
        distinct = len(np.unique(groups[order[starts[number] : starts[number] + counts[number]]]))
        if distinct < MIN_GROUPS:
            photos = f"{counts[number]} photo{'s' if counts[number] != 1 else ''}"
            copies = f", {distinct} without copies" if distinct < counts[number] else ""
            short.append(f"{names[number]!r} has {photos}{copies}")
            spare += distinct - 1
    if short and (len(names) - len(short) > 1 or spare >= MIN_RARE_GROUPS):
        logging.getLogger(__name__).warning(
            "%d of %d labels have photos of fewer than %d groups, so hardly anything judges them: %s%s.",
            len(short), len(names), MIN_GROUPS, ", ".join(short[:NAMED]), " …" if short[NAMED:] else "",
        )  # fmt: skip
        return
    if short:
        left = len(short) - NAMED
        more = f", and {left:,} more label{'s have' if left != 1 else ' has'} too few" if left > 0 else ""
        raise CatflapError(
            f"Each label needs {MIN_GROUPS} photos that are not copies of each other, to learn from, choose, "
            f"calibrate and test: {'; '.join(short[:NAMED])}{more}.",
            "Add photos that are not copies of each other"
            f"{', or leave these labels out' if len(names) - len(short) > 1 else ''}.",
        )


def _with_refusals(error: CatflapError, manifest: Manifest) -> CatflapError:
    """The error with the kinds of photos that were not used; where they are most photos, with their fix."""
    kinds = [kind for kind in refusals(manifest) if kind["fix"]]
    if not kinds:
        return error
    named = "; ".join(refusal_sentence(kind) for kind in kinds)
    fix = kinds[0]["fix"]
    fix = f"Run: {fix}" if " install " in fix else f"{fix[:1].upper()}{fix[1:]}."
    return CatflapError(
        f"{error.what} Not used: {named}.", fix if manifest.ok < manifest.photos / 2 else error.fix
    )


def _check_roles(
    names: list[str],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    roles: npt.NDArray[np.int8],
    shares: Mapping[str, float],
) -> None:
    """Refuse a label without photos to learn from, or of enough groups without photos in a role."""
    counts = np.zeros((len(names), len(ORDER)), np.int64)
    np.add.at(counts, (labels, roles), 1)
    for number, code in zip(*np.nonzero(counts == 0), strict=True):
        if shares[ORDER[code]] == 0 or (code != TRAIN and counts[number].sum() < MIN_GROUPS):
            continue
        if code == TRAIN or len(np.unique(groups[labels == number])) >= MIN_GROUPS:
            raise CatflapError(
                f"No photos of {names[number]!r} are left for the role {ORDER[code]!r}.",
                "Add photos that are not near-duplicates, or state fewer roles in the source.",
            )
