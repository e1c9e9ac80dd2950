"""Trace names every ancestor that an artefact records, in the order in which they were made."""

from __future__ import annotations

from pathlib import Path

from catflap.pipeline.trace import trace
from tests.artifacts.samples import FILES, small_head, write_bundle


def test_a_teacher_and_kinds_of_a_later_catflap_are_named(tmp_path: Path) -> None:
    kinds = ("checkpoint", "teacher", "dataset", "manifest", "a kind of later")
    ancestors = {kind: str(number) * 64 for number, kind in enumerate(kinds)}
    sha256 = write_bundle(tmp_path / "x.catflap", {**small_head(), "ancestors": ancestors}, FILES)
    chain = [(link["kind"], link["sha256"]) for link in trace(tmp_path / "x.catflap")]
    assert chain == [("bundle", sha256), *((kind, ancestors[kind]) for kind in kinds)]
