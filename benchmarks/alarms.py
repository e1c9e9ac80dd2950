"""False alarms: bundles rebuilt with other seeds and roles, each verified and judged on its own test photos.

    python benchmarks/alarms.py --seeds 50
    python benchmarks/alarms.py --photos photos --seeds 10 --size 224 --backbone efficientnet_lite0

Without `--photos` scikit-learn's digits 0, 1 and 2 at 64 px: 10 CPU-seconds a rebuild. A seed gives other
roles and another head on a frozen backbone, exported in int8 and fp32. An export that is refused, a failed
`verify` and a failed verdict of `evaluate` on the test photos, which neither training nor calibration used,
are alarms; there should be none. `--first 10` goes on with the eleventh seed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from machine import header, need_photos

DIGITS = 3  # of the ten, so that a rebuild takes seconds


def main() -> None:
    """Rebuild, judge and count."""
    from catflap.data.prepare import prepare
    from catflap.data.scan import scan
    from catflap.errors import Refused
    from catflap.exporting.export import export
    from catflap.image import Frame
    from catflap.pipeline.demo import write_digits
    from catflap.pipeline.evaluate import evaluate
    from catflap.training.plan import Plan
    from catflap.training.train import train
    from catflap.verification.verify import verify

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--backbone", default="efficientnet_lite0_tiny")
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    if args.photos:
        need_photos(args.photos)
    about = {"seeds": args.seeds, "first": args.first, "size": args.size, "backbone": args.backbone}
    header(photos=str(args.photos or "digits"), **about)
    alarms = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if not args.photos:
            write_digits(folder / "photos")
            for digit in range(DIGITS, 10):
                shutil.rmtree(folder / "photos" / str(digit))
        manifest = scan(args.photos or folder / "photos", folder / "manifest", profile=False)
        for seed in range(args.first, args.first + args.seeds):
            work = folder / str(seed)
            frame = Frame(args.size, args.size)
            dataset = prepare(manifest, work / "dataset", frame=frame, seed=seed, profile=False)
            plan = Plan(backbone=args.backbone, recipe="head", seed=seed)
            checkpoint, out = train(dataset, work / "checkpoint", plan), work / "rebuilt.catflap"
            try:
                export(checkpoint, dataset, out, variants=("int8", "fp32"))
            except Refused as error:
                found = [str(error)]
            else:
                failed = [check.name for check in verify(out).checks if not check.passed]
                report = evaluate(out, dataset.path, work / "report")
                found = failed if report.passed else [*failed, *report.verdict["lines"]]
            alarms += bool(found)
            print(f"seed {seed}: {'; '.join(found) or 'no alarm'}", flush=True)
    print(f"{alarms} alarms in {args.seeds} rebuilds")


if __name__ == "__main__":
    main()
