"""Kill build, review and export at random moments; each must continue, and end with the same bytes.

python benchmarks/kills.py                 # 100 kills on 60 drawn photos, with the tiny network of the tests
python benchmarks/kills.py --kills 20 --seed 3

Each kill starts a fresh working folder, sends SIGKILL to the command and its worker processes after a random
time up to the command's whole duration, and runs the command again. The result is compared with that of a run
that nobody killed, and nothing else may be left beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

from machine import header

import catflap.curation.field_queue
import catflap.pipeline.build  # noqa: F401  once, before the commands are forked
from catflap.cli.main import main as answer
from tests.tiny import TINY, draw_photos

COMMANDS = {
    "build": ("build", "{made}/photos", "-o", "new.catflap", "--size", "64", "--backbone", TINY),
    "export": ("export", "{made}/made.build/checkpoint", "-o", "new.catflap"),
    "review": ("review", "queue", "field.log", "-o", "queue"),
}
NEEDED = {"review": ("field.log",)}
UNLIKE = ("seconds", "cost", "history", "photos_per_second")  # fields that tell how long work took


def start(words: tuple[str, ...], folder: Path) -> int:
    """Begin a command in a child process that is the head of a process group, and return its PID."""
    child = os.fork()
    if child:
        with suppress(OSError):  # the child may have done so itself, and may have ended
            os.setpgid(child, child)
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.environ["CATFLAP_CACHE"] = str(folder / "cache")
        with open(os.devnull, "w") as nothing, open(folder / ".stderr", "w") as errors:
            os.dup2(nothing.fileno(), 1)
            os.dup2(errors.fileno(), 2)
        code = answer(words)
    finally:
        os._exit(code)


def finish(words: tuple[str, ...], folder: Path) -> float:
    """Run a command to its end and return its seconds."""
    begun = time.perf_counter()
    _, status = os.waitpid(start(words, folder), 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(words)} failed: {(folder / '.stderr').read_text()}")
    return time.perf_counter() - begun


def kill(words: tuple[str, ...], folder: Path, after: float) -> bool:
    """Run a command and kill it, with its workers, after some seconds; False where it had ended."""
    child = start(words, folder)
    time.sleep(after)
    ended, _ = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not ended


def contents(folder: Path) -> dict[str, str]:
    """Each file that a command left, but for the cache and for what it needed, with the hash of its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(("cache/", ".stderr", "field.log")):
            found[name] = hashlib.sha256(settled(path)).hexdigest()
    return found


def settled(path: Path) -> bytes:
    """The bytes of a file, without the seconds that a Checkpoint states and the milliseconds of a Report."""
    if path.name == "report.json":
        report = json.loads(path.read_bytes())
        del report["sha256"], report["outcome"]["ms"]
        return re.sub(rb"[\d.]+ ms", b"ms", json.dumps(report).encode())
    if path.name == "report.html":
        return re.sub(rb"[\d.]+ ms", b"ms", path.read_bytes())
    if path.name != "checkpoint.json":
        return path.read_bytes()
    fields = json.loads(path.read_bytes())
    return json.dumps({name: value for name, value in fields.items() if name not in UNLIKE}).encode()


def prepared(verb: str, made: Path, folder: Path) -> tuple[str, ...]:
    """A new folder with what a verb needs, and its words."""
    folder.mkdir()
    for name in NEEDED.get(verb, ()):
        shutil.copy(made / name, folder / name)
    return tuple(word.format(made=made) for word in COMMANDS[verb])


def main() -> None:
    """Kill and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    header(kills=args.kills, seed=args.seed, photos=60, backbone=TINY)
    dice, verbs = random.Random(args.seed), [*COMMANDS]
    turns = ["build", "export", "review", "review"]  # the last takes a fraction of a second
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "made"
        made.mkdir()
        photos = draw_photos(made / "photos")
        finish(("build", str(photos), "-o", "made.catflap", "--size", "64", "--backbone", TINY), made)
        finish(("predict", "made.catflap", str(photos), "--log", "field.log", "--log-photos"), made)
        wanted, seconds = {}, {}
        for verb in verbs:
            words = prepared(verb, made, Path(place) / verb)
            seconds[verb] = finish(words, Path(place) / verb)
            wanted[verb] = contents(Path(place) / verb)
        killed: Counter[str] = Counter()
        same: Counter[str] = Counter()
        number = 0
        while sum(killed.values()) < args.kills:
            verb = turns[number % len(turns)]
            number += 1
            folder = Path(place) / str(number)
            words = prepared(verb, made, folder)
            after = dice.uniform(0, seconds[verb])
            if kill(words, folder, after):
                print(f"{sum(killed.values()) + 1} of {args.kills}", end="\r", file=sys.stderr)
                killed[verb] += 1
                finish(words, folder)
                found = contents(folder)
                same[verb] += found == wanted[verb]
                if found != wanted[verb]:
                    differ = sorted({*found.items()} ^ {*wanted[verb].items()})
                    print(
                        json.dumps(
                            {"verb": verb, "after": round(after, 3), "differ": sorted({n for n, _ in differ})}
                        )
                    )
            shutil.rmtree(folder)
    for verb in verbs:
        row = {
            "verb": verb,
            "seconds": round(seconds[verb], 2),
            "killed": killed[verb],
            "same_bytes": same[verb],
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
