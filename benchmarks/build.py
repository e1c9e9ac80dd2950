"""Photos to a verified Bundle: the seconds of each step of `catflap build`, nothing cached.

python benchmarks/build.py                      # scikit-learn's digits
python benchmarks/build.py --photos FOLDER      # a folder with one folder of photos a label
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from machine import header

from catflap import Frame, build
from catflap.pipeline.demo import DIGIT_PX, write_digits
from catflap.training.backbones import PACKAGED
from catflap.training.plan import Plan


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--variants", default="int8")
    parser.add_argument("--backbone", default=PACKAGED)
    parser.add_argument("--size", type=int, default=288)
    args = parser.parse_args()
    header(
        photos=str(args.photos or "digits"), variants=args.variants, backbone=args.backbone, size=args.size
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CATFLAP_CACHE"] = f"{folder}/cache"
        photos = args.photos or write_digits(Path(folder) / "digits")
        px = args.size if args.photos else DIGIT_PX
        summary = build(
            photos,
            Path(folder) / "b.catflap",
            frame=Frame(px, px),
            plan=Plan(backbone=args.backbone),
            variants=tuple(args.variants.split(",")),
        )
    print(json.dumps({name: summary[name] for name in ("seconds", "steps", "photos", "variants", "bytes")}))


if __name__ == "__main__":
    main()
