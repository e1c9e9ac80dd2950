"""Which file runs which runtime: a variant of a Bundle to a function from frames to logits."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType

from catflap.artifacts.bundle import Bundle, Variant
from catflap.errors import BadArtifact, CatflapError, does_not_load, missing_extra
from catflap.runtime.engines.model import Model

# The runtime's name in bundle.json: the file here that owns it, and the module that it needs.
ENGINES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "onnxruntime": ("onnx", "onnxruntime"),
        "onnxruntime-frame": ("onnx_frame", "onnxruntime"),
        "litert": ("litert", "ai_edge_litert"),
        "litert-micro": ("litert_micro", "ai_edge_litert"),
        "openvino": ("openvino", "openvino"),
        "ncnn": ("ncnn", "ncnn"),
        "executorch": ("executorch", "executorch"),
    }
)

IN_TWO_FILES = ("openvino", "ncnn")  # the graph and its weights


def open_in(bundle: Bundle, variant: Variant, threads: int | None = None) -> Model:
    """`open_variant` for a variant of a Bundle, whose ends must have the names that bundle.json gives."""
    source, output = bundle.head["input"]["name"], bundle.head["output"]["name"]
    return open_variant(bundle.members, variant, threads, output=output, source=source)


def open_variant(
    members: Mapping[str, bytes | memoryview],
    variant: Variant,
    threads: int | None = None,
    *,
    output: str | None = None,
    source: str | None = None,
) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), on its runtime.

    `output` names the logits and `source` the frames where graphs have names for them; None takes the
    first. Raises the error of `why_not_here`, and BadArtifact when the files are not what the runtime reads.
    """
    why = why_not_here(variant)
    if why is not None:
        raise why
    if len(variant.members) != 1 + (variant.runtime in IN_TWO_FILES):
        raise BadArtifact(
            f"The variant {variant.name} for {variant.runtime} has {len(variant.members)} files.",
            "Export it again.",
        )
    engine = import_module(f"{__package__}.{ENGINES[variant.runtime][0]}")
    named = {"output": output, "source": source} if variant.runtime == "onnxruntime" else {}
    files = (members[name] for name in variant.members)
    model: Model = engine.open_model(*files, threads=threads, **named)
    return model


def why_not_here(variant: Variant) -> CatflapError | None:
    """Why a variant cannot run on this machine, with the part to install; None when it can.

    Its runtime is loaded for that: an installed one may lack a library of the system.
    """
    if variant.runtime not in ENGINES:
        return CatflapError(
            f"The variant {variant.name} is for {variant.runtime}, which this Catflap does not know.",
            "Update Catflap or use another variant.",
        )
    file, module = ENGINES[variant.runtime]
    if find_spec(module) is None:
        return missing_extra(ModuleNotFoundError(name=module))
    try:
        import_module(f"{__package__}.{file}")
    except (ImportError, OSError) as error:
        return does_not_load(module, error)
    return None


def runnable(bundle: Bundle) -> list[str]:
    """The variants whose runtime is here; where none is, the default one, whose absence is the error."""
    here = [name for name, variant in bundle.variants.items() if why_not_here(variant) is None]
    return here or [bundle.default_variant]


def choose_variant(bundle: Bundle, name: str | None = None) -> Variant:
    """The variant of this name; without one the default, or the first that can run here where it cannot."""
    wanted = bundle.variant(name)
    if name or why_not_here(wanted) is None:
        return wanted
    return bundle.variant(runnable(bundle)[0])
