"""Defects of clients and runtimes, injected one by one: how many does `verify` catch on a bundle's own cases?

    python benchmarks/defects.py cat one.catflap two.catflap

Every kind that `export` knows is applied to the golden photos of each bundle. One before the network is
caught where a frame differs by more than the pixel tolerance; one in the network, or after it, where an ONNX
variant's logits, or its probabilities and decisions, differ by more than theirs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
from machine import header

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.golden import read_golden
from catflap.exporting.defects import (
    ANSWER_DEFECTS,
    ENGINE_DEFECTS,
    FRAME_DEFECTS,
    GRAPH_DEFECTS,
    MAX_EXTRA,
)
from catflap.exporting.golden_cases import drawn_cases, extra_case
from catflap.image import read_pixels
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.golden_checks import PROBABILITY_TOLERANCE, check_decisions


def main() -> None:
    """Inject, check and count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="*", default=["cat"])
    args = parser.parse_args()
    header(bundles=args.bundles)
    for path in args.bundles:
        found = effects(load_bundle(path))
        missed = {kind: round(effect, 2) for kind, effect in found.items() if effect <= 1}
        counts = {"bundle": path, "kinds": len(found), "caught": len(found) - len(missed), "missed": missed}
        print(
            json.dumps({**counts, "least": min((round(effect, 2), kind) for kind, effect in found.items())})
        )


def effects(bundle: Bundle) -> dict[str, float]:
    """The largest effect of each kind of defect on the golden cases, in tolerances; above 1 it is caught."""
    golden, frame = read_golden(bundle), bundle.frame
    limit = bundle.head["golden"]["pixel_tolerance"]
    drawn = {case.photo: case for case in (*drawn_cases(frame), *map(extra_case, range(MAX_EXTRA)))}
    found: dict[str, float] = {}

    def keep(kind: str, effect: float) -> None:
        found[kind] = max(found.get(kind, 0.0), float(effect))

    for photo, expected in zip(golden.photos, golden.frames, strict=True):
        whole = expected.astype(np.int16)
        changes = {kind: change(photo, frame) for kind, change in FRAME_DEFECTS.items()}
        defective = drawn[photo].defective if photo in drawn else {}
        changes |= {kind: read_pixels(other, frame) for kind, other in defective.items()}
        for kind, pixels in changes.items():
            keep(kind, np.abs(pixels - whole).max() / limit)
    for name, variant in bundle.variants.items():
        if variant.runtime != "onnxruntime":
            continue
        graph = bytes(bundle.members[variant.file])
        model, logits = open_model(graph), golden.logits[name]
        for kind, alter in ENGINE_DEFECTS.items():
            frames = np.stack([alter(one) for one in golden.frames])
            keep(kind, np.abs(model(np.ascontiguousarray(frames)) - logits).max() / variant.tolerance)
        if variant.precision == "fp32":
            for kind, edit in GRAPH_DEFECTS.items():
                moved = np.abs(open_model(edit(graph))(golden.frames) - logits).max()
                keep(kind, moved / variant.tolerance)
        recorded = golden.probabilities.get(name)
        if recorded is None:
            continue
        for kind, answer in ANSWER_DEFECTS.items():
            wrong = answer(np.concatenate([logits, golden.probes[name]]), variant.temperature)
            keep(kind, np.abs(wrong - recorded).max() / PROBABILITY_TOLERANCE)
        for kind, threshold in (("threshold 0", 0.0), ("threshold 1", 1.0)):
            if variant.decision["threshold"] <= 1 / len(bundle.labels) and not threshold:
                continue  # it never says "unsure", so that 0 decides the same
            edited = replace(variant, decision={**variant.decision, "threshold": threshold})
            keep(kind, np.inf if not check_decisions(bundle, golden, edited).passed else 0.0)
    return found


if __name__ == "__main__":
    main()
