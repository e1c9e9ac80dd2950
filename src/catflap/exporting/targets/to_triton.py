"""Target: Triton Inference Server. A Bundle's ONNX variants as a model repository, with a TensorRT recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import HEAD, Bundle, Variant
from catflap.artifacts.folder import atomic_folder
from catflap.errors import BadArtifact, CatflapError
from catflap.exporting.target import Target
from catflap.runtime.engine import open_variant
from catflap.runtime.engine_onnx import CAM, EMBEDDING, open_session

MOST_FRAMES = 64  # in one batch
DELAY_US = 1000  # that a frame may wait for others
TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
NAME = re.compile(r"[A-Za-z0-9_.:/-]+")  # of an input or output: nothing that needs escaping in protobuf text
RUNTIMES = ("onnxruntime", "onnxruntime-frame")
TENSORRT = """
# On an NVIDIA GPU: TensorRT builds an engine when the model is loaded, which takes minutes. Its results
# differ from those that were tested, more so in FP16: check it with the golden cases of the bundle.
# optimization { execution_accelerators {
#   gpu_execution_accelerator: [ {
#     name: "tensorrt"
#     parameters { key: "precision_mode" value: "FP16" }
#     parameters { key: "trt_engine_cache_enable" value: "1" }
#     parameters { key: "trt_engine_cache_path" value: "/tmp" }
#   } ]
# } }
"""


def unpack(bundle: Bundle, out: Path) -> dict[str, Any]:
    """Write each ONNX variant of a Bundle into a Triton model repository, a folder.

    `out/NAME-VARIANT/` gets `config.pbtxt` with the graph's names, types and dimensions, `1/model.onnx`,
    `labels.txt` and `bundle.json`. Other models in the folder are kept. Raises CatflapError when there is no
    ONNX variant.
    """
    variants = [variant for variant in bundle.variants.values() if variant.runtime in RUNTIMES]
    if not variants:
        raise CatflapError(
            f"{bundle.path} has no variant for ONNX Runtime.", "Export it with --variants int8,fp32."
        )
    files: list[str] = []
    for variant in variants:
        model = f"{bundle.name}-{variant.name}"
        written = {
            HEAD: bytes(bundle.members[HEAD]),
            "config.pbtxt": config(bundle, variant).encode("utf-8"),
            "labels.txt": "".join(f"{label}\n" for label in bundle.labels).encode("utf-8"),
            "1/model.onnx": bytes(bundle.members[variant.file]),
        }
        with atomic_folder(Path(out) / model, HEAD) as partial:
            for name, data in written.items():
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(data)
        files += [f"{model}/{name}" for name in written]
    return {"folder": str(out), "models": [f"{bundle.name}-{one.name}" for one in variants], "files": files}


def config(bundle: Bundle, variant: Variant) -> str:
    """A variant's config.pbtxt: a ModelConfig of Triton as protobuf text; BadArtifact for an odd graph."""
    open_variant(bundle, variant, threads=1)  # which refuses other types, and ends of other names
    session = open_session(bundle.members[variant.file], threads=1)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    odd = [end.name for end in (*inputs, *outputs) if not NAME.fullmatch(end.name) or not end.shape]
    if odd:
        raise BadArtifact(
            f"An end of the graph of {variant.name} has no plain name and shape: {odd[0]!r:.100}.",
            "Export it again.",
        )
    batched = not any(isinstance(end.shape[0], int) for end in (*inputs, *outputs))
    parameters = {
        "catflap_sha256": bundle.sha256,
        "catflap_temperature": repr(variant.temperature),
        "catflap_threshold": repr(variant.decision["threshold"]),
        "catflap_rule": variant.decision.get("rule", "only"),
        **({"catflap_unknown": repr(variant.unknown["threshold"])} if variant.unknown else {}),
    }
    lines = [
        f'name: "{bundle.name}-{variant.name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {MOST_FRAMES if batched else 0}",
        f"input [ {', '.join(_end(end, batched) for end in inputs)} ]",
        f"output [ {', '.join(_end(end, batched, 'labels.txt') for end in outputs)} ]",
        *([f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY_US} }}"] if batched else []),
        # ONNX Runtime has its int8 kernels for processors; on a card it would compute in float.
        *(["instance_group [ { kind: KIND_CPU } ]"] if variant.precision == "int8" else []),
        *(
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n" + (TENSORRT if batched and variant.precision != "int8" else "")


def _end(end: Any, batched: bool, labels: str = "") -> str:
    """An input or an output; Triton counts the batch apart, and −1 is any size."""
    sizes = [size if isinstance(size, int) else -1 for size in end.shape[batched:]]
    named = f' label_filename: "{labels}"' if labels and end.name not in (EMBEDDING, CAM) else ""
    return f'{{ name: "{end.name}" data_type: {TYPES[end.type]} dims: {sizes}{named} }}'


TARGET = Target("triton", unpack=unpack)
