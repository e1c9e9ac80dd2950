"""How tests start two processes that train together: `-m tests.training.torchrun '[["train", ...], ...]'`."""

from __future__ import annotations

import json
import sys

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
COMMANDS = (*TORCHRUN, "-m", "tests.training.torchrun")  # one after another, with the tiny network

if __name__ == "__main__":
    from catflap.cli.main import main
    from tests.tiny import GRAPHS, keeping_graphs

    with keeping_graphs(GRAPHS):
        for words in json.loads(sys.argv[1]):
            if code := main(words):
                sys.exit(code)
