"""A Studio that builds with the tiny network: `python tests/studio/server.py PROJECT PAGE [PORT]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

VERB = (sys.executable, str(Path(__file__).with_name("verb.py")))
BUILD = ("--backbone", "catflap_tiny", "--size", "64", "--variants", "fp32")

if __name__ == "__main__":
    from catflap.errors import CatflapError
    from catflap.studio.studio import StudioSettings, studio

    port = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    settings = StudioSettings(Path(sys.argv[1]), port=port, command=VERB, options=BUILD)
    try:
        studio(
            settings,
            ready=lambda fields: print(json.dumps(fields), flush=True),
            note=lambda line: print(line, file=sys.stderr, flush=True),
            page=Path(sys.argv[2]),
        )
    except CatflapError as error:
        print(json.dumps({"error": error.to_json()}), flush=True)
        sys.exit(2)
