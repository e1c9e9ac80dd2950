"""What bench says is complete and in order; how fast it is, is for benchmarks/ to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import read_bundle
from catflap.errors import BadArtifact, BadPhoto
from catflap.runtime.bench import bench


def test_it_measures_every_stage(tiny_bundle: Path) -> None:
    fields = bench(tiny_bundle, seconds=0.02, threads=1)
    assert list(fields["milliseconds"]) == ["pixels", "network", "answer"]
    for stage in fields["milliseconds"].values():
        assert 0 < stage["p50"] <= stage["p90"] <= stage["p99"]
        assert stage["n"] >= 50
    assert fields["bytes"] == len(read_bundle(tiny_bundle).members["fp32.onnx"])
    assert fields["threads"] == 1
    assert 10 < fields["cold_start"]["memory_mb"] < 500
    assert fields["cold_start"]["seconds"] > 0
    assert {"processor", "cores", "versions"} <= set(fields["machine"])


def test_it_refuses_what_it_cannot_time(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BadPhoto):
        bench(tiny_bundle, photo=tmp_path / "none.jpg")
    with pytest.raises(BadArtifact):
        bench(tiny_bundle, variant="int4")


def test_the_peak_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    ballast = np.ones(50_000_000)  # 400 MB
    program = "from catflap.machine import peak_memory_mb; print(peak_memory_mb())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 5 < float(answer.stdout) < 100
    assert len(ballast)
