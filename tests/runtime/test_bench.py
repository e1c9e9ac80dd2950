"""What bench says is complete and in order; how fast it is, is for benchmarks/ to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.runtime.bench import EnergyMeter, bench, single_stream_rules

CATFLAP = Path(sys.executable).with_name("catflap")


def test_it_measures_every_stage(tiny_bundle: Path) -> None:
    fields = bench(tiny_bundle, seconds=0.02, threads=1)
    assert list(fields["milliseconds"]) == ["decode", "resize", "network", "rest", "answer"]
    for stage in fields["milliseconds"].values():
        assert 0 < stage["p50"] <= stage["p90"] <= stage["p99"]
        assert stage["n"] >= 64
    assert fields["bytes"] == len(load_bundle(tiny_bundle).members["fp32.onnx"])
    assert fields["threads"] == 1
    assert fields["rules"]["queries"] == fields["milliseconds"]["answer"]["n"]
    assert fields["rules"]["early_stopping_estimate"] >= fields["milliseconds"]["answer"]["p90"]
    assert {row["network_threads"] for row in fields["throughput"]} >= {1}
    assert all(row["photos_per_second"] > 0 for row in fields["throughput"])
    assert fields["memory_mb"] > 10
    assert fields["joules_a_photo"] is None or fields["joules_a_photo"] > 0
    assert 10 < fields["cold_start"]["memory_mb"] < 500
    assert fields["cold_start"]["seconds"] > 0
    assert {"processor", "cores", "versions"} <= set(fields["machine"])


@pytest.mark.parametrize(("count", "above"), [(43, None), (44, 0), (64, 1), (1024, 80)])
def test_the_early_stopping_estimate_is_a_bound(count: int, above: int | None) -> None:
    """So many times may be above the 90th percentile's bound with 99 % confidence."""
    estimate = single_stream_rules([float(number) for number in range(count)], 1.0)["early_stopping_estimate"]
    assert estimate == (None if above is None else count - 1 - above)


def test_the_bound_holds_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    times = random.exponential(1.0, (4000, 200))
    truth = -np.log(0.1)
    held = np.mean(
        [single_stream_rules(row.tolist(), 1.0)["early_stopping_estimate"] >= truth for row in times]
    )
    assert 0.985 < held < 1


def test_joules_are_counted_over_a_wrap_and_only_where_they_can_be_read(tmp_path: Path) -> None:
    def zone(name: str, energy: str) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(energy)
        (tmp_path / name / "max_energy_range_uj").write_text("10000000")

    assert EnergyMeter(tmp_path).joules() is None
    zone("intel-rapl:0", "1000000")
    zone("intel-rapl:1", "9000000")
    zone("intel-rapl:0:0", "5")  # a part of the first
    zone("intel-rapl:2", "7")  # the whole machine, its processors again
    (tmp_path / "intel-rapl:2" / "name").write_text("psys\n")
    meter = EnergyMeter(tmp_path)
    zone("intel-rapl:0", "3000000")
    zone("intel-rapl:2", "9000000")
    zone("intel-rapl:1", "1000000")
    assert meter.joules() == pytest.approx(2 + 2)
    zone("intel-rapl:1", "500000")  # once more round
    assert meter.joules() == pytest.approx(4 + 9.5)
    zone("intel-rapl:1", "nothing")
    assert meter.joules() is None


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_it_refuses_times_that_are_none(seconds: float, tiny_bundle: Path) -> None:
    with pytest.raises(CatflapError, match="seconds is"):
        bench(tiny_bundle, seconds=seconds)


def test_it_refuses_what_it_cannot_time(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BadPhoto):
        bench(tiny_bundle, photo=tmp_path / "none.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(BadPhoto, match=r"empty\.jpg: The photo has no bytes"):
        bench(tiny_bundle, photo=tmp_path / "empty.jpg")
    with pytest.raises(BadArtifact):
        bench(tiny_bundle, variant="int4")


def test_a_file_that_is_no_profile_is_told_of_before_anything_is_timed(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "notes.json"
    foreign.write_text("mine")
    for target in (foreign, foreign / "profile.json"):
        words = [CATFLAP, "bench", tiny_bundle, "--seconds", "3600"]
        answer = subprocess.run(
            [*words, "--profile", target], capture_output=True, text=True, check=False, timeout=120
        )
        assert (answer.returncode, answer.stdout) == (2, "")
        assert str(target) in answer.stderr
    assert foreign.read_text() == "mine"


def test_the_peak_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    ballast = np.ones(50_000_000)  # 400 MB
    program = "from catflap.machine import peak_memory_mb; print(peak_memory_mb())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 5 < float(answer.stdout) < 100
    assert len(ballast)
