"""Engines: which file runs which runtime, and how a variant becomes a function from frames to logits.

Each engine_*.py owns one inference library. A third-party package adds an engine by an entry point in the
group "catflap.engines": its name is the runtime's name in bundle.json, its value an `Engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle, Variant
from catflap.errors import BadArtifact, CatflapError, does_not_load, missing_runtime
from catflap.image import Pixels

Logits: TypeAlias = npt.NDArray[np.float32]
Embeddings: TypeAlias = npt.NDArray[np.float32]
ActivationMaps: TypeAlias = npt.NDArray[np.float32]
Model: TypeAlias = Callable[[Pixels], Logits]
MAX_THREADS = 1024  # each thread is started at once and has its own stack
ENTRY_POINTS = "catflap.engines"


@dataclass(frozen=True)
class Engine:
    """How to run a runtime's files.

    `opener` is "module:function". The function takes the contents of `files` files and `threads`, and
    returns a Model: frames, uint8 (n, height, width, 3), to logits, float32 (n, labels). With `named_ends` it
    also takes the graph's input and output names as `source` and `output`. `needs` is the library's top-level
    module.
    """

    opener: str
    needs: str
    files: int = 1
    named_ends: bool = False


class TwoOutputModel:
    """A model that gives the embedding, too: call it with frames, uint8 (n, height, width, 3), for logits.

    `run` maps frames to logits (n, labels) and embeddings (n, `width`); None where the width is not known.
    """

    def __init__(self, run: Callable[[Pixels], tuple[Logits, Embeddings]], width: int | None = None) -> None:
        self.with_embedding, self.has_embedding, self.embedding_width = run, True, width

    def __call__(self, frames: Pixels) -> Logits:
        """Logits, float32 (n, labels)."""
        return self.with_embedding(frames)[0]


def run_with_embedding(model: Model, frames: Pixels) -> tuple[Logits, Embeddings | None]:
    """A model's logits for frames, and its embeddings (n, width) if the graph has that output."""
    if has_embedding(model):
        logits, embeddings = model.with_embedding(frames)  # type: ignore[attr-defined]
        return logits, embeddings
    return model(frames), None


def has_embedding(model: Model) -> bool:
    """Whether a model has the embedding as a second output, by its method `with_embedding`."""
    return bool(getattr(model, "has_embedding", False))


def embedding_width(model: Model) -> int | None:
    """The width of the embeddings that a model states; None if it has none or states none."""
    width: int | None = getattr(model, "embedding_width", None)
    return width


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "onnxruntime": Engine("catflap.runtime.engine_onnx:open_model", "onnxruntime", named_ends=True),
        "onnxruntime-frame": Engine("catflap.runtime.engine_onnx:open_whole_photo_model", "onnxruntime"),
        "litert": Engine("catflap.runtime.engine_litert:open_model", "ai_edge_litert"),
        "litert-micro": Engine("catflap.runtime.engine_litert:open_micro_model", "ai_edge_litert"),
        "openvino": Engine("catflap.runtime.engine_openvino:open_model", "openvino", files=2),
        "ncnn": Engine("catflap.runtime.engine_ncnn:open_model", "ncnn", files=2),
        "executorch": Engine("catflap.runtime.engine_executorch:open_model", "executorch"),
    }
)


def find_engine(runtime: str) -> Engine | None:
    """The Engine for a runtime: one of Catflap's own, or an installed package's; None if there is none."""
    if runtime in ENGINES:
        return ENGINES[runtime]
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    for entry in entry_points(group=ENTRY_POINTS, name=runtime):
        engine = entry.load()
        if not isinstance(engine, Engine):
            raise CatflapError(
                f"The entry point {entry.value} in {ENTRY_POINTS} is not an Engine.",
                "Update or remove the package that provides it.",
            )
        return engine
    return None


def open_variant(bundle: Bundle, variant: Variant, threads: int | None = None) -> Model:
    """Open a variant of a Bundle; its graph must use the input and output names that bundle.json states."""
    source, output = bundle.head["input"]["name"], bundle.head["output"]["name"]
    return open_members(bundle.members, variant, threads, output=output, source=source)


def open_members(
    members: Mapping[str, bytes | memoryview],
    variant: Variant,
    threads: int | None = None,
    *,
    output: str | None = None,
    source: str | None = None,
) -> Model:
    """Open a variant whose files are in `members`, by name: a function from frames to logits.

    Frames are uint8 (n, height, width, 3), logits float32 (n, labels). `output` names the logits and `source`
    the frames where the graph has names for them; None takes the first. Raises the error of `engine_error`,
    and BadArtifact when the runtime cannot read the files.
    """
    error = engine_error(variant)
    engine = find_engine(variant.runtime)
    if error is not None or engine is None:
        raise error or AssertionError(variant.runtime)
    if len(variant.members) != engine.files:
        raise BadArtifact(
            f"The variant {variant.name} has {len(variant.members)} files, but {variant.runtime} needs "
            f"{engine.files}.",
            "Export it again.",
        )
    module, _, function = engine.opener.partition(":")
    ends = {"output": output, "source": source} if engine.named_ends else {}
    files = (members[name] for name in variant.members)
    model: Model = getattr(import_module(module), function)(*files, threads=threads, **ends)
    return model


def engine_error(variant: Variant) -> CatflapError | None:
    """The error that says why a variant cannot run on this machine and what to install; None if it can.

    The runtime is imported for this, because an installed one may still lack a system library.
    """
    engine = find_engine(variant.runtime)
    if engine is None:
        return CatflapError(
            f"The variant {variant.name} needs the runtime {variant.runtime!r}, which this Catflap does not "
            "have.",
            "Update Catflap or use another variant.",
        )
    if find_spec(engine.needs) is None:
        return missing_runtime(engine.needs)
    try:
        import_module(engine.opener.partition(":")[0])
    except (ImportError, OSError) as error:
        return does_not_load(engine.needs, error)
    return None


def runnable_variants(bundle: Bundle) -> list[str]:
    """The variants that can run here; if none can, the default one, so that opening it raises the reason."""
    here = [name for name, variant in bundle.variants.items() if engine_error(variant) is None]
    return here or [bundle.default_variant]


def choose_variant(bundle: Bundle, name: str | None = None) -> Variant:
    """The named variant; without a name the default one, or the first that can run here if it cannot."""
    wanted = bundle.variant(name)
    if name or engine_error(wanted) is None:
        return wanted
    return bundle.variant(runnable_variants(bundle)[0])


def check_threads(threads: int | None) -> int:
    """`threads` as a number, 0 for None (every core); CatflapError unless it is 1 to MAX_THREADS."""
    if threads is not None and not (isinstance(threads, Integral) and 1 <= threads <= MAX_THREADS):
        raise CatflapError(f"threads is {threads}.", f"Use 1 to {MAX_THREADS}.")
    return threads or 0
