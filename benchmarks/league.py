"""The league: plain `catflap build` beside its peers on other people's photos, all from the same weights.

    python benchmarks/league.py                                        # every set, 500 photos to learn from
    python benchmarks/league.py --size all --sets steel,textures       # up to 4,000 photos to learn from
    python benchmarks/league.py --peer autogluon=PYTHON --peer timm    # PYTHON: of an environment that has it
    python benchmarks/league.py --wrong 0.1                            # a tenth of the labels is wrong
    python benchmarks/league.py --entrant "tuned=--size 320 --recipe finetune --epochs 10"

Eleven public sets of different kinds (league_sets.py) are cloned at run time and split without leaks; each
entrant learns from the same photos and answers the same others. Catflap and scikit-learn are given the groups
that a set states (tracks, houses, slides). Catflap answers from the bytes of each photo through the exported
int8 variant; peers answer in floating point. Results are lines of JSON in `--results`; what stands there is
not run again, so a league that was stopped goes on. CPU-minutes are those of an entrant's process and its
children, from photos to the trained (for Catflap: verified) model.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from league_sets import LIST, SETS, PhotoSet, gather, with_wrong_labels
from machine import header

from catflap.evaluation.promises import worse_than_promised
from catflap.machine import versions
from catflap.runtime.classifier import Classifier

PEERS = Path(__file__).with_name("peers") / "classifiers.py"
CATFLAP = Path(sys.executable).with_name("catflap")
Row = dict[str, Any]
Judged = list[tuple[Path, int]]


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["small", "all"], default="small")
    parser.add_argument("--sets", default=",".join(one.name for one in SETS), metavar="NAME,…")
    parser.add_argument("--peer", action="append", metavar="NAME[=PYTHON]", help="default: scikit-learn")
    parser.add_argument(
        "--entrant", action="append", default=[], metavar="NAME=OPTIONS", help="`build` with these options"
    )
    parser.add_argument("--epochs", type=int, default=5, help="of peers that fine-tune")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/catflap-league").expanduser())
    parser.add_argument("--clones", type=Path, help="a folder of clones, OWNER+NAME, used in place of GitHub")
    parser.add_argument("--results", type=Path, help="default: CACHE/results.jsonl")
    parser.add_argument("--wrong", type=float, default=0.0, metavar="SHARE", help="of the labels, made wrong")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    args = parser.parse_args()
    args.results = args.results or args.cache / "results.jsonl"
    entrants = {"catflap": ""} | dict(one.split("=", 1) for one in args.entrant)
    peers = dict((*one.split("=", 1), sys.executable)[:2] for one in args.peer or ["scikit-learn"])
    wanted = [one for one in SETS if one.name in args.sets.split(",")]
    size = f"{args.size}, {args.wrong:g} wrong" if args.wrong else args.size
    header(size=size, sets=len(wanted), entrants=[*entrants, *peers], results=str(args.results))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for photo_set in wanted if not args.table else ():
        try:
            photos = gather(photo_set, args.size, args.cache, args.clones)
            photos = with_wrong_labels(photos, args.wrong) if args.wrong else photos
        except subprocess.CalledProcessError:
            print(json.dumps({"set": photo_set.name, "skipped": f"{photo_set.repository} cannot be fetched"}))
            continue
        for name in [*peers, *entrants]:
            if (photo_set.name, size, name) not in {key(row) for row in results(args.results)}:
                run = run_catflap if name in entrants else run_peer
                row = {"set": photo_set.name, "size": size, "entrant": name}
                row |= run(photos, entrants[name] if name in entrants else peers[name], name, args.epochs)
                with args.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    rows = results(args.results)
    for line in table([row for row in rows if row["size"] == size], wanted):
        print(line)
    if args.wrong:
        for line in falls(rows, wanted, args.size, size):
            print(line)


def results(path: Path) -> list[Row]:
    """What was measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def key(row: Row) -> tuple[str, str, str]:
    return row["set"], row["size"], row["entrant"]


def photos_of(folder: Path, labels: list[str]) -> Judged:
    """Each photo of a class folder, with its label's number."""
    return [
        (path, labels.index(label.name))
        for label in sorted(folder.iterdir())
        for path in sorted(label.iterdir())
    ]


def labels_of(photos: Path) -> list[str]:
    return sorted(path.name for path in (photos / "learn").iterdir())


def timed(command: list[str], environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], Row]:
    """A command to its end, and what it cost: seconds, CPU-minutes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done, {"seconds": round(time.perf_counter() - start, 1), "cpu_minutes": round(cpu / 60, 2)}


def run_catflap(photos: Path, options: str, _name: str, _epochs: int) -> Row:
    """`catflap build` with nothing cached, then its int8 answers from the bytes of each photo."""
    labels = labels_of(photos)
    judged = photos_of(photos / "judge", labels)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CATFLAP_CACHE": f"{folder}/cache"}
        bundle = Path(folder) / "league.catflap"
        command = [str(CATFLAP), "build", str(photos / LIST), "-o", str(bundle)]
        done, cost = timed([*command, "--json", *options.split()], environment)
        if done.returncode or not bundle.is_file():
            return {"failed": (done.stdout.strip() or done.stderr.strip())[-300:], **cost}
        built = json.loads(done.stdout)
        classifier = Classifier(bundle, variant="int8", threads=1)
        order = [list(classifier.labels).index(label) for label in labels]
        answers, taken = [], []
        for path, _ in judged:
            start = time.perf_counter()
            answers.append(classifier(path))
            taken.append((time.perf_counter() - start) * 1e3)
        probabilities = np.array([[*one.probabilities.values()] for one in answers])[:, order]
        undecided = ("unsure", "unknown")
        decisions = [one.decision for one in answers]
        wrong = [d not in (*undecided, labels[t]) for d, (_, t) in zip(decisions, judged, strict=True)]
        int8 = built["variants"]["int8"]
        chosen = [one for one in int8["decisions"]["error_rates"] if one["default"]]
        return {
            **scores(probabilities, judged),
            **{name: round(decisions.count(name) / len(judged), 4) for name in undecided},
            "wrong": round(float(np.mean(wrong)), 4),
            "error_rate": chosen[0]["error_rate"] if chosen else None,
            **(promise(classifier, sum(wrong), len(wrong)) if chosen else {}),
            "backbone": built["trained"]["backbone"],
            "recipe": built["trained"]["recipe"],
            "frame": built["trained"]["frame"]["width"],
            "bytes": int8["bytes"],
            "flip_rate": int8["flip_rate"],
            "ms": round(float(np.median(taken)), 2),
            "versions": versions(["catflap"]),
            **cost,
        }


def promise(classifier: Classifier, wrong: int, judged: int) -> Row:
    """On how many calibration photos (or groups) the error rate rests, and the p-value of so many wrong."""
    decision = classifier.variant.decision
    units = decision.get("groups", decision["photos"])
    promised = (units + 1) - math.floor((units + 1) * decision["error_rate"])
    p = worse_than_promised(judged - wrong, judged, promised, units + 1)
    return {"calibrated": units, "wrong_p": round(p, 4)}


def run_peer(photos: Path, python: str, name: str, epochs: int) -> Row:
    """A peer in its own process."""
    from safetensors.torch import save_file

    from catflap.training.backbones import PACKAGED, load_backbone

    labels = labels_of(photos)
    judged = photos_of(photos / "judge", labels)
    with tempfile.TemporaryDirectory() as folder:
        weights, task, out = (Path(folder) / one for one in ("lite0.safetensors", "task.json", "out.npz"))
        save_file(load_backbone(PACKAGED).network.state_dict(), weights)
        lists = {role: photos_of(photos / role, labels) for role in ("learn", "judge")}
        numbers = {role: [(str(path), number) for path, number in found] for role, found in lists.items()}
        with (photos / LIST).open(newline="") as file:
            groups = {str(photos / row["path"]): row["group"] for row in csv.DictReader(file)}
        more = {"labels": len(labels), "weights": str(weights), "epochs": epochs, "threads": os.cpu_count()}
        more["groups"] = [groups[path] or path for path, _ in numbers["learn"]]
        task.write_text(json.dumps(numbers | more))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done, cost = timed([python, "-W", "ignore", str(PEERS), name, str(task), str(out)], environment)
        if done.returncode:
            return {"failed": done.stderr.strip()[-300:], **cost}
        with np.load(out) as found:
            return {**scores(found["probabilities"], judged), **cost}


def scores(probabilities: Any, judged: Judged) -> Row:
    """Accuracy, macro F1, log loss and calibration error (15 bins) on the judging photos."""
    truth = np.array([number for _, number in judged])
    predicted = probabilities.argmax(1)
    right = predicted == truth
    chosen = np.clip(probabilities[np.arange(len(truth)), truth], 1e-7, 1)
    sure = probabilities.max(1)
    bins = np.minimum((sure * 15).astype(int), 14)
    gaps = [
        abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)
    ]
    f1 = []
    for label in np.unique(truth):
        hits = ((predicted == label) & (truth == label)).sum()
        f1.append(2 * hits / max(1, (predicted == label).sum() + (truth == label).sum()))
    return {
        "n": len(truth),
        "accuracy": round(float(right.mean()), 4),
        "macro_f1": round(float(np.mean(f1)), 4),
        "log_loss": round(float(-np.log(chosen).mean()), 4),
        "ece": round(float(np.sum(gaps)), 4),
    }


def table(rows: list[Row], sets: Iterable[PhotoSet]) -> list[str]:
    """Accuracy by set, means, Catflap's decisions, and its error relative to each set's best peer.

    The interval of the mean ratio resamples sets (2,000 times). An error of 0 counts as half a photo.
    """
    entrants = sorted({row["entrant"] for row in rows})
    known = {(row["set"], row["entrant"]): row for row in rows if "accuracy" in row}
    names = [one.name for one in sets if any((one.name, entrant) in known for entrant in entrants)]
    lines = [f"{'accuracy':16}" + "".join(f"{entrant[:13]:>14}" for entrant in entrants)]
    for name in names:
        cells = [known.get((name, entrant), {}).get("accuracy") for entrant in entrants]
        lines.append(
            f"{name:16}" + "".join(f"{cell:14.4f}" if cell is not None else f"{'-':>14}" for cell in cells)
        )
    common = [name for name in names if all((name, entrant) in known for entrant in entrants)]
    for what in ("macro_f1", "log_loss", "ece", "cpu_minutes", "seconds"):
        means = [
            [known[name, entrant][what] for name in common if what in known.get((name, entrant), {})]
            for entrant in entrants
        ]
        lines.append(
            f"{'mean ' + what:16}"
            + "".join(f"{np.mean(one):14.3f}" if one else f"{'-':>14}" for one in means)
        )
    peers = [one for one in entrants if not any("backbone" in known.get((n, one), {}) for n in names)]
    random = np.random.default_rng(0)
    for entrant in [one for one in entrants if one not in peers]:
        lines.append(f"{entrant}: wrong of what is promised, p (units calibrated), [unsure, unknown, flips]")
        for name in names:
            row = known.get((name, entrant), {})
            if "wrong" in row:
                rates = [row[one] for one in ("unsure", "unknown", "flip_rate")]
                promised = f"{row['wrong']} of {row['error_rate']}"
                if "wrong_p" in row:
                    promised += f", p {row['wrong_p']} ({row['calibrated']})"
                kept = f"{row['recipe']} of {row['backbone']} at {row['frame']} px"
                lines.append(f"{name:16} {promised}, {rates}, {row['bytes'] / 1e6:.2f} MB, {kept}")
        ratios = []
        for name in names:
            errors = [error(known[name, peer]) for peer in peers if (name, peer) in known]
            if errors and (name, entrant) in known:
                ratios.append(error(known[name, entrant]) / min(errors))
        if ratios:
            drawn = np.mean(random.choice(ratios, (2000, len(ratios))), 1)
            low, high = np.quantile(drawn, [0.025, 0.975])
            lines.append(
                f"{entrant}: error {np.mean(ratios):.2f} x the best peer's of each set"
                f" (95 % over sets {low:.2f} to {high:.2f}), n = {len(ratios)} sets,"
                f" better or level on {sum(ratio <= 1 for ratio in ratios)}"
            )
    return lines


def falls(rows: list[Row], sets: Iterable[PhotoSet], right: str, wrong: str) -> list[str]:
    """How much accuracy each entrant lost to wrong labels, by set."""
    known = {key(row): row["accuracy"] for row in rows if "accuracy" in row}
    entrants = sorted({entrant for _, size, entrant in known if size == wrong})
    lines = [f"{'lost accuracy':16}" + "".join(f"{entrant[:13]:>14}" for entrant in entrants)]
    for name in [one.name for one in sets]:
        sizes = [(name, size, entrant) for entrant in entrants for size in (right, wrong)]
        if all(one in known for one in sizes):
            lost = [known[name, right, entrant] - known[name, wrong, entrant] for entrant in entrants]
            lines.append(f"{name:16}" + "".join(f"{one:14.4f}" for one in lost))
    return lines


def error(row: Row) -> float:
    return max(1 - float(row["accuracy"]), 0.5 / int(row["n"]))


if __name__ == "__main__":
    main()
