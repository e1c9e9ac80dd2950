"""Every variant of a bundle on its own runtime: size, distance from the Checkpoint, latency, overhead.

    catflap export cat.checkpoint -o all.catflap --targets onnx,litert,openvino,ncnn,executorch
    python benchmarks/targets.py all.catflap

A step is one frame to logits, with 1 and 2 threads; beside it stands the bare call of the runtime,
written out here, on the same frame in the same turn. Sizes, flips and accuracies are those that the
bundle carries, measured from raw photo bytes when it was written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from machine import header, in_turns

from catflap.artifacts.bundle import Bundle, Variant, load_bundle
from catflap.artifacts.golden import read_golden
from catflap.machine import versions
from catflap.runtime.engine import engine_error, open_members
from catflap.runtime.engine_onnx import int8_sums_saturate

RUNTIMES = ("onnxruntime", "ai-edge-litert", "openvino", "ncnn", "executorch")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", default="cat")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    header(
        rounds=args.rounds,
        bundle=bundle.sha256,
        runtimes=versions(RUNTIMES),
        x64quantprecision=int8_sums_saturate(),
    )
    frame = read_golden(bundle).frames[:1]
    timed = {threads: measure(bundle, frame, threads, args.rounds) for threads in (1, 2)}
    for name, variant in bundle.variants.items():
        why = engine_error(variant)
        line = {"variant": name, "MB": megabytes(bundle, variant), **distance(variant)}
        times = {f"{threads} threads": timed[threads].get(name) for threads in timed}
        print(json.dumps({**line, **(times if why is None else {"not here": why.what})}))


def megabytes(bundle: Bundle, variant: Variant) -> float:
    return round(sum(len(bundle.members[name]) for name in variant.members) / 1e6, 2)


def distance(variant: Variant) -> dict[str, float]:
    lost, accuracy = variant.fidelity, variant.metrics["accuracy"]
    return {
        "accuracy": round(accuracy["value"], 4),
        "flips": lost["flips"],
        "photos": lost["photos"],
        "max_probability_difference": round(lost["max_probability_difference"], 6),
    }


def measure(
    bundle: Bundle, frame: np.ndarray, threads: int, rounds: int
) -> dict[str, dict[str, dict[str, float] | float]]:
    """Milliseconds of each variant through Catflap and through its runtime alone, in turns."""
    steps: dict[str, Callable[[], object]] = {}
    for name, variant in bundle.variants.items():
        if variant.runtime in BARE and engine_error(variant) is None:
            model = open_members(bundle.members, variant, threads)
            steps[name] = partial(model, frame)
            steps[f"bare {name}"] = BARE[variant.runtime](bundle.members, variant, frame, threads)
    times = in_turns(steps, rounds)
    return {
        name: {
            "ms": times[name],
            "bare": times[f"bare {name}"],
            "ratio": round(times[name]["p50"] / times[f"bare {name}"]["p50"], 3),
        }
        for name in steps
        if not name.startswith("bare ")
    }


Members = Mapping[str, memoryview]


def bare_onnx(members: Members, variant: Variant, frame: np.ndarray, threads: int) -> Callable[[], object]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.x64quantprecision", "1" if int8_sums_saturate() else "0")
    session = ort.InferenceSession(bytes(members[variant.file]), options)
    source = session.get_inputs()[0].name
    picture = frame[0] if variant.takes_photos else frame
    return lambda: session.run(["logits"], {source: picture})


def bare_litert(members: Members, variant: Variant, frame: np.ndarray, threads: int) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=bytes(members[variant.file]), num_threads=threads)
    interpreter.allocate_tensors()
    source, target = (
        ends[0]["index"] for ends in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    floats = frame.astype(np.float32)

    def run() -> object:
        interpreter.set_tensor(source, floats)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def bare_openvino(
    members: Members, variant: Variant, frame: np.ndarray, threads: int
) -> Callable[[], object]:
    import openvino

    core = openvino.Core()
    weights = openvino.Tensor(np.frombuffer(members[variant.weights], np.uint8))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.compile_model(core.read_model(bytes(members[variant.file]), weights), "CPU", settings)
    return lambda: model(frame)


def bare_ncnn(members: Members, variant: Variant, frame: np.ndarray, threads: int) -> Callable[[], object]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.openmp_blocktime = 0
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param_mem(bytes(members[variant.file]).decode())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.bin"
        path.write_bytes(members[variant.weights])
        net.load_model(str(path))
    planes = np.ascontiguousarray(frame[0].transpose(2, 0, 1), np.float32)
    source, target = net.input_names()[0], net.output_names()[0]

    def run() -> object:
        with net.create_extractor() as extractor:
            extractor.input(source, ncnn.Mat(planes))
            return np.array(extractor.extract(target)[1])

    return run


def bare_executorch(
    members: Members, variant: Variant, frame: np.ndarray, threads: int
) -> Callable[[], object]:
    import torch
    from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

    data = bytes(members[variant.file])
    module = _load_for_executorch_from_buffer(data)
    floats = torch.from_numpy(frame.astype(np.float32))

    def run(kept: bytes = data) -> object:  # the module points into it
        return module.forward([floats])

    return run


BARE = {
    "onnxruntime": bare_onnx,
    "onnxruntime-frame": bare_onnx,
    "litert": bare_litert,
    "openvino": bare_openvino,
    "ncnn": bare_ncnn,
    "executorch": bare_executorch,
}

if __name__ == "__main__":
    main()
