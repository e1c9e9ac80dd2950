"""Process to first answer: seconds and peak memory of a fresh interpreter that judges one photo.

python benchmarks/cold_start.py                                   # with this interpreter
python benchmarks/cold_start.py --python .venv-base/bin/python    # with the base install alone
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from machine import header, in_turns
from pixels import grainy

ANSWER = "import sys; from catflap import Classifier; Classifier('cat')(sys.argv[1])"
MEMORY = "; from catflap.machine import peak_memory_mb; print(peak_memory_mb())"
IMPORT = "import catflap"
NOTHING = "pass"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    header(rounds=args.rounds, python=args.python)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        photo.write_bytes(grainy(500, 375))
        programs = {"first answer": ANSWER, "import catflap": IMPORT, "nothing": NOTHING}
        steps = {
            name: partial(subprocess.run, [args.python, "-c", program, str(photo)], check=True)
            for name, program in programs.items()
        }
        timed = in_turns(steps, args.rounds)
        command = [args.python, "-c", ANSWER + MEMORY, str(photo)]
        memory = float(subprocess.run(command, check=True, capture_output=True).stdout)
    print(json.dumps({"ms": timed, "peak_memory_mb": round(memory, 1)}))


if __name__ == "__main__":
    main()
