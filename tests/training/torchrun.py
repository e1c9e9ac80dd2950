"""How tests start two processes that train together."""

from __future__ import annotations

import sys
from pathlib import Path

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CATFLAP = str(Path(sys.executable).with_name("catflap"))  # torchrun wants a file
