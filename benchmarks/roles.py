"""A Manifest of twelve million rows, simulated: seconds and memory to give roles and write the index.

    python benchmarks/roles.py                    # 12 million
    python benchmarks/roles.py --count 1000000

Two million cats and ten million others, 5 % of them near-duplicates of another, one in a hundred in a group
that the user states. The Manifest's table is written first, and not counted; then `choose` reads it and gives
roles, `plan_shards` deals photos out, and the index is written as `prepare` writes it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from machine import header

from catflap.artifacts.manifest import TABLE, load_manifest, save_manifest
from catflap.artifacts.tables import INDEX_ROW, PHOTO_ROW, write_tables
from catflap.data.packing import plan_shards
from catflap.data.prepare import assign_roles, index_rows
from catflap.data.roles import SHARES
from catflap.machine import peak_memory_mb

CHUNK = 1 << 18


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=12_000_000)
    args = parser.parse_args()
    header(rows=args.count)
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder) / TABLE, PHOTO_ROW, simulated(args.count))
        empty = {"quarantined": 0, "near_duplicate_groups": 0, "near_duplicates": 0, "labels": {}}
        save_manifest(Path(folder), {
            **empty, "source": "simulated", "photos": args.count, "ok": args.count,
            "sha256": "0" * 64, "made_from": "", "versions": {},
        })  # fmt: skip
        manifest = load_manifest(folder)
        start = time.perf_counter()
        chosen, lengths = assign_roles(manifest, 0, SHARES)
        roles_done = time.perf_counter()
        plan = plan_shards(lengths, chosen.roles)
        crcs = np.random.default_rng(0).integers(0, 1 << 32, len(lengths))
        packed = np.stack([lengths, crcs], 1)
        write_tables(Path(folder) / "index.parquet", INDEX_ROW, index_rows(manifest, chosen, plan, packed))
        stop = time.perf_counter()
        counts = {role: round(float((chosen.roles == role).mean()), 6) for role in SHARES}
        print(json.dumps({
            "rows": args.count,
            "roles_s": round(roles_done - start, 1), "index_s": round(stop - roles_done, 1),
            "peak_mb": round(peak_memory_mb()), "shards": len(plan), "shares": counts,
            "index_mb": round((Path(folder) / "index.parquet").stat().st_size / 1e6),
        }))  # fmt: skip


def simulated(count: int) -> Iterator[pa.Table]:
    """Photo rows as a scan writes them."""
    dice = np.random.default_rng(0)
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(count, start + CHUNK))
        size = len(rows)
        ids = dice.bytes(32 * size).hex()
        group = np.where(dice.random(size) < 0.05, np.maximum(rows - dice.integers(1, 1000, size), 0), rows)
        user = np.where(dice.random(size) < 0.01, rows // 50, -1)
        cat = dice.random(size) < 1 / 6
        yield pa.table({
            "id": [ids[64 * place : 64 * place + 64] for place in range(size)],
            "uri": [f"s3://bucket/photos/{row // 10_000:05d}/{row:09d}.jpg" for row in rows.tolist()],
            "label": np.where(cat, "cat", "not_cat"),
            "bytes": dice.integers(20_000, 110_000, size),
            "width": np.full(size, 500), "height": np.full(size, 375),
            "format": pa.repeat("JPEG", size), "mode": pa.repeat("RGB", size), "orientation": np.ones(size),
            "phash": dice.integers(0, 2**64, size, dtype=np.uint64),
            "group": group, "status": pa.repeat("ok", size), "reason": pa.repeat("", size),
            "role": pa.repeat("", size),
            "user_group": ["" if name < 0 else f"burst {name}" for name in user.tolist()],
            "offset": np.full(size, -1),
        }).cast(PHOTO_ROW)  # fmt: skip


if __name__ == "__main__":
    main()
