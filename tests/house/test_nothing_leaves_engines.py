"""Nothing leaves the device: no engine and no converter connects anywhere, or writes elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from catflap.artifacts.bundle import load_bundle
from tests.house.tracing import Traced, check, program

LOOP = """
import sys, time
from catflap import Classifier
for variant in sys.argv[3:]:
    classifier, end = Classifier(sys.argv[1], variant), time.monotonic() + 2
    while time.monotonic() < end:
        print(classifier(sys.argv[2]).label)
        time.sleep(0.05)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variants", "modules"),
    [
        ("openvino-int8,ncnn-fp16,litert-int8", ("nncf", "pnnx", "ai_edge_litert")),  # the extra `targets`
        ("litert-micro", ("litert_torch",)),
        ("executorch-fp32", ("executorch",)),
        ("fp32,coreml-fp32", ("coremltools",)),
    ],
)
def test_engines_and_their_converters_send_and_leave_nothing(
    variants: str,
    modules: tuple[str, ...],
    made: Path,
    installed: Path,
    traced: Callable[..., Traced],
    tmp_path: Path,
) -> None:
    """One of the variants of each: the others are written and run by the same libraries."""
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    check(
        traced(*program("export", installed / "installed", "-o", "new.catflap", "--variants", variants)),
        tmp_path,
    )
    bundle = load_bundle(tmp_path / "work" / "new.catflap")
    assert {*bundle.variants, *bundle.untested} == {*variants.split(",")}
    names = [one.name for one in bundle.variants.values() if one.runtime != "onnxruntime"]
    if names:
        photo = made / "photos" / "cat" / "00.jpg"
        check(traced(sys.executable, "-c", LOOP, bundle.path, photo, *names), tmp_path)


@pytest.mark.slow
def test_a_classifier_in_a_loop_sends_and_leaves_nothing(
    made: Path, traced: Callable[..., Traced], tmp_path: Path
) -> None:
    photo = made / "photos" / "cat" / "00.jpg"
    check(traced(sys.executable, "-c", LOOP, made / "tiny.catflap", photo, "int8"), tmp_path)
