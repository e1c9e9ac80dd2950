"""Process to first answer: seconds and peak memory of a fresh interpreter that judges one photo.

python benchmarks/cold_start.py                                   # with this interpreter
python benchmarks/cold_start.py --python .venv-base/bin/python    # with the base install alone
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from machine import header, in_turns
from pixels import grainy

ANSWER = "import sys; from catflap import Classifier; Classifier('cat')(sys.argv[1])"
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
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(
        json.dumps(
            {"ms": timed, "peak_memory_mb": memory / (1 << 20 if sys.platform == "darwin" else 1 << 10)}
        )
    )


if __name__ == "__main__":
    main()
