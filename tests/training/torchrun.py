"""How tests start two processes that train together."""

from __future__ import annotations

import sys

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
