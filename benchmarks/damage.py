"""What becomes of photos that were damaged on purpose: kept or refused, by scan and by predict.

    python benchmarks/damage.py --photos FOLDER [--count 200]

Takes JPEGs of a folder, damages each in several ways, and counts the verdicts of `examine_photo` (scan) and
`read_pixels` (predict), and how often the two differ. "noticed by libjpeg" counts photos for which
simplejpeg raises an error in strict mode, which is every warning of libjpeg.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import simplejpeg
from machine import header

from catflap.data.examine import examine_photo
from catflap.data.listing import reference
from catflap.errors import BadPhoto
from catflap.image import Frame, read_pixels

Damage = Callable[[bytes, random.Random], bytes]


def zeroed(share: float) -> Damage:
    """A run of zeros over a share of the bytes, somewhere behind the header."""

    def damage(photo: bytes, dice: random.Random) -> bytes:
        count = max(64, int(share * len(photo)))
        start = dice.randrange(1000, max(1001, len(photo) - count - 2))
        return photo[:start] + bytes(count) + photo[start + count :]

    return damage


def cut_out(photo: bytes, dice: random.Random) -> bytes:
    """A hundredth of the bytes is gone, and what follows has moved up."""
    count = max(64, len(photo) // 100)
    start = dice.randrange(1000, max(1001, len(photo) - count - 2))
    return photo[:start] + photo[start + count :]


DAMAGES: dict[str, Damage] = {
    "none": lambda photo, dice: photo,
    "16 surplus zeros": lambda photo, dice: photo[:-2] + bytes(16) + photo[-2:],
    "4096 surplus zeros": lambda photo, dice: photo[:-2] + bytes(4096) + photo[-2:],
    "bytes after the end": lambda photo, dice: photo + bytes(1000),
    "zeros over 64 bytes": zeroed(0),
    "zeros over 1 %": zeroed(0.01),
    "zeros over 10 %": zeroed(0.1),
    "1 % cut out": cut_out,
    "truncated": lambda photo, dice: photo[: int(dice.uniform(0.2, 0.95) * len(photo))],
    "truncated, new end": lambda photo, dice: (
        photo[: int(dice.uniform(0.2, 0.95) * len(photo))] + b"\xff\xd9"
    ),
}


def main() -> None:
    """Damage photos and print a line for each kind of damage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    dice = random.Random(0)
    paths = sorted(args.photos.rglob("*.jpg"))
    paths = dice.sample(paths, min(args.count, len(paths)))
    header(photos=len(paths))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "photo.jpg"
        for name, damage in DAMAGES.items():
            kept = judged = differ = noticed = remarked = 0
            for path in paths:
                photo = damage(path.read_bytes(), dice)
                place.write_bytes(photo)
                row = examine_photo(reference(str(place), "photo", bytes=len(photo)))
                is_judged = True
                try:
                    read_pixels(place, Frame())
                except BadPhoto:
                    is_judged = False
                try:
                    simplejpeg.decode_jpeg(photo, "GRAY", strict=True)
                except ValueError:
                    noticed += 1
                kept += row["status"] == "ok"
                judged += is_judged
                differ += (row["status"] == "ok") != is_judged
                remarked += "surplus_bytes" in row["reason"]
            counts = {"scan_keeps": kept, "predict_judges": judged, "differ": differ}
            more = {"remark_surplus_bytes": remarked, "noticed_by_libjpeg": noticed}
            print(json.dumps({"damage": name, **counts, **more}), flush=True)


if __name__ == "__main__":
    main()
