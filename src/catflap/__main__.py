"""`python -m catflap`: the command line where the `catflap` program is not on the PATH."""

from __future__ import annotations

from catflap.cli.main import run

if __name__ == "__main__":
    run()
