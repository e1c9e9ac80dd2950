"""Catflap: a folder of photos to a verified image classifier on the device at the edge."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from catflap.errors import missing_extra
from catflap.offline import stay_offline
from catflap.version import VERSION as __version__

stay_offline()  # before any part of Catflap can import a library with telemetry

if TYPE_CHECKING:
    from catflap.artifacts.bundle import Bundle as Bundle
    from catflap.artifacts.bundle import load_bundle as load_bundle
    from catflap.artifacts.checkpoint import Checkpoint as Checkpoint
    from catflap.artifacts.checkpoint import load_checkpoint as load_checkpoint
    from catflap.artifacts.dataset import Dataset as Dataset
    from catflap.artifacts.dataset import load_dataset as load_dataset
    from catflap.artifacts.manifest import Manifest as Manifest
    from catflap.artifacts.manifest import load_manifest as load_manifest
    from catflap.artifacts.report import Report as Report
    from catflap.artifacts.report import load_report as load_report
    from catflap.artifacts.results import Verdict as Verdict
    from catflap.comparison.compare import compare as compare
    from catflap.comparison.explain import explain as explain
    from catflap.curation.audit import audit as audit
    from catflap.data.prepare import prepare as prepare
    from catflap.data.scan import scan as scan
    from catflap.data.sources import Columns as Columns
    from catflap.errors import BadArtifact as BadArtifact
    from catflap.errors import BadPhoto as BadPhoto
    from catflap.errors import CatflapError as CatflapError
    from catflap.errors import Refused as Refused
    from catflap.exporting.budget import Budget as Budget
    from catflap.exporting.export import export as export
    from catflap.image import Frame as Frame
    from catflap.live.hysteresis import Rules as Rules
    from catflap.live.watch import watch as watch
    from catflap.live.watch_settings import WatchSettings as WatchSettings
    from catflap.pipeline.build import build as build
    from catflap.pipeline.demo import demo as demo
    from catflap.pipeline.diff import diff as diff
    from catflap.pipeline.drift import drift as drift
    from catflap.pipeline.evaluate import evaluate as evaluate
    from catflap.pipeline.trace import trace as trace
    from catflap.runtime.bench import DeviceProfile as DeviceProfile
    from catflap.runtime.bench import bench as bench
    from catflap.runtime.bench import load_profile as load_profile
    from catflap.runtime.classifier import Classifier as Classifier
    from catflap.runtime.classifier import Prediction as Prediction
    from catflap.runtime.classifier import predict as predict
    from catflap.runtime.recording import LogSettings as LogSettings
    from catflap.runtime.signature import Signer as Signer
    from catflap.serving.serve import serve as serve
    from catflap.serving.serve_settings import ServeLimits as ServeLimits
    from catflap.serving.serve_settings import ServeSettings as ServeSettings
    from catflap.training.plan import Plan as Plan
    from catflap.training.train import train as train
    from catflap.training.weights_file import WeightsFile as WeightsFile
    from catflap.verification.verify import verify as verify

_HOME = {
    "BadArtifact": "catflap.errors",
    "BadPhoto": "catflap.errors",
    "Budget": "catflap.exporting.budget",
    "Bundle": "catflap.artifacts.bundle",
    "CatflapError": "catflap.errors",
    "Checkpoint": "catflap.artifacts.checkpoint",
    "Classifier": "catflap.runtime.classifier",
    "Columns": "catflap.data.sources",
    "Dataset": "catflap.artifacts.dataset",
    "DeviceProfile": "catflap.runtime.bench",
    "Frame": "catflap.image",
    "LogSettings": "catflap.runtime.recording",
    "Manifest": "catflap.artifacts.manifest",
    "Plan": "catflap.training.plan",
    "Prediction": "catflap.runtime.classifier",
    "Refused": "catflap.errors",
    "Report": "catflap.artifacts.report",
    "Rules": "catflap.live.hysteresis",
    "ServeLimits": "catflap.serving.serve_settings",
    "ServeSettings": "catflap.serving.serve_settings",
    "Signer": "catflap.runtime.signature",
    "Verdict": "catflap.artifacts.results",
    "WatchSettings": "catflap.live.watch_settings",
    "WeightsFile": "catflap.training.weights_file",
    "audit": "catflap.curation.audit",
    "bench": "catflap.runtime.bench",
    "build": "catflap.pipeline.build",
    "compare": "catflap.comparison.compare",
    "demo": "catflap.pipeline.demo",
    "diff": "catflap.pipeline.diff",
    "drift": "catflap.pipeline.drift",
    "evaluate": "catflap.pipeline.evaluate",
    "explain": "catflap.comparison.explain",
    "export": "catflap.exporting.export",
    "load_bundle": "catflap.artifacts.bundle",
    "load_checkpoint": "catflap.artifacts.checkpoint",
    "load_dataset": "catflap.artifacts.dataset",
    "load_manifest": "catflap.artifacts.manifest",
    "load_profile": "catflap.runtime.bench",
    "load_report": "catflap.artifacts.report",
    "predict": "catflap.runtime.classifier",
    "prepare": "catflap.data.prepare",
    "scan": "catflap.data.scan",
    "serve": "catflap.serving.serve",
    "trace": "catflap.pipeline.trace",
    "train": "catflap.training.train",
    "verify": "catflap.verification.verify",
    "watch": "catflap.live.watch",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'catflap' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error


def __dir__() -> list[str]:
    return __all__
