"""`catflap` as Studio's tests start it: with the tiny network, and torch only where a verb needs it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1] == "predict":
        from catflap.cli.main import run

        run()
    runpy.run_path(str(Path(__file__).parents[1] / "tiny.py"), run_name="__main__")
