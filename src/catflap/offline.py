"""Switch off the telemetry of every library that Catflap may load; `catflap/__init__.py` calls it first.

Each library reads its switch when it is imported, so a call afterwards is too late. A switch that the user
has set in the environment stays as it is, and child processes inherit all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",  # https://donottrack.sh: huggingface_hub, MLflow and others
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime >= 1.32: a device ID, an event database, a collector
        "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, which timm uses
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "NNCF_CI": "1",  # nncf: makes its Google Analytics client a stub, and does nothing else
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
# OpenVINO's model converter sends to Google Analytics through this package unless a file in the home folder
# says no. It has no switch in the environment; both OpenVINO and nncf work without the package.
BLOCKED = ("openvino_telemetry",)


def stay_offline() -> None:
    """Set the switches and make the packages that have none look as if they were not installed."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    for name in BLOCKED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
