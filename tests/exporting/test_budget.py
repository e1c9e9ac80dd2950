"""Only what fits the budget goes in; when nothing fits, the nearest is named with what it misses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.cli.main import main
from catflap.errors import BadArtifact, CatflapError, Refused
from catflap.exporting.budget import Budget, LatencyMeter, choose_variants
from catflap.runtime.bench import DeviceProfile, device_slowdown, load_profile, profile_device, write_profile

COSTS = {
    "int8": {"mb": 3.8, "ms": 5.0, "accuracy": 0.990, "calibration_accuracy": 0.990},
    "fp32": {"mb": 13.4, "ms": 11.0, "accuracy": 0.992, "calibration_accuracy": 0.992},
    "fp16": {"mb": 6.9, "ms": 12.0, "accuracy": 0.992, "calibration_accuracy": 0.992},
}


def chosen(**limits: float) -> list[str]:
    return choose_variants(COSTS, LatencyMeter(Budget(**limits)))


def test_what_fits_is_kept_the_best_first() -> None:
    assert chosen(max_mb=20) == ["fp32", "fp16", "int8"]
    assert chosen(max_mb=7) == ["fp16", "int8"]
    assert chosen(max_ms=5.0) == ["int8"]
    assert chosen(min_accuracy=0.991, max_ms=11.5) == ["fp32"]


def test_test_photos_choose_nothing() -> None:
    lucky = {**COSTS["int8"], "accuracy": 0.999}
    assert choose_variants({**COSTS, "int8": lucky}, LatencyMeter(Budget(max_mb=20))) == [
        "fp32",
        "fp16",
        "int8",
    ]
    unlucky = {**COSTS["fp16"], "accuracy": 0.5}
    costs = {**COSTS, "int8": lucky, "fp16": unlucky}
    assert choose_variants(costs, LatencyMeter(Budget(min_accuracy=0.991))) == ["fp32", "fp16"]


def test_when_nothing_fits_the_nearest_is_named() -> None:
    with pytest.raises(Refused, match=r"Nearest is int8: 3\.80 MB of 3 allowed \(misses\), 5\.00 ms here"):
        chosen(max_mb=3, max_ms=6)
    with pytest.raises(
        Refused, match=r"Nearest is fp32: accuracy 0\.9920 of 0\.995 wanted on calibration photos \(misses\)"
    ):
        chosen(min_accuracy=0.995)


@pytest.mark.parametrize(
    "limits",
    [{"max_mb": 0}, {"max_ms": -1}, {"min_accuracy": 98}, {"max_ms": float("nan")}, {"threads": 0}],
)
def test_limits_that_are_none_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(CatflapError):
        Budget(**limits)


@pytest.mark.slow
def test_a_profile_of_a_slower_device_scales(tmp_path: Path) -> None:
    here = profile_device(1)
    slower = replace(here, ms=here.ms * 1000)
    write_profile(tmp_path / "pi.json", slower)
    loaded = load_profile(tmp_path / "pi.json")
    assert loaded == slower
    assert device_slowdown(loaded) > 10
    clock = LatencyMeter(Budget(max_ms=1, device=loaded))
    assert "scaled" in clock.place
    with pytest.raises(CatflapError, match="another version of Catflap"):
        device_slowdown(replace(loaded, reference="0" * 64))


def test_threads_are_those_that_were_stated_or_those_of_the_profile() -> None:
    profile = DeviceProfile({}, 4, "0" * 64, 1.0)
    assert LatencyMeter(Budget(max_ms=1)).threads == 1
    assert LatencyMeter(Budget(max_ms=1, threads=2)).threads == 2
    with pytest.raises(CatflapError, match="profiled with its own number of threads, 4"):
        Budget(max_ms=1, threads=2, device=profile)


def test_what_is_no_profile_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    whole = {"catflap": "device-profile", "version": 1, **vars(profile_device(1))}
    wrong = [{"machine": []}, {"threads": 2.5}, {"threads": True}, {"ms": True}, {"ms": 0}, {"reference": 1}]
    odd = [json.dumps({**whole, **fields}) for fields in wrong]
    for text in (*odd, "{}", "not json", '{"catflap": "device-profile", "version": 1}', "[]"):
        path.write_text(text)
        with pytest.raises(BadArtifact):
            load_profile(path)
    with pytest.raises(BadArtifact):
        write_profile(path, DeviceProfile({}, 1, "", 1.0))
    assert path.read_text() == "[]"


@pytest.mark.slow
def test_export_keeps_to_the_budget(
    drawn_checkpoint: Checkpoint, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    int8, fp32 = (len(bundle.members[f"{name}.onnx"]) / 1e6 for name in ("int8", "fp32"))
    assert int8 < fp32
    out = tmp_path / "small.catflap"
    words = ["export", str(drawn_checkpoint.path), "-o"]
    limits = ["--max-mb", str((int8 + fp32) / 2), "--max-ms", "100000", "--min-accuracy", "0.5"]
    assert main([*words, str(out), "--json", *limits]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert list(reported["variants"]) == list(reported["costs"]) == ["int8"]
    assert set(load_bundle(out).variants) == {"int8"}
    assert main([*words, str(tmp_path / "x.catflap"), "--max-mb", str(int8 / 2)]) == 1
    assert "Nearest is int8" in capsys.readouterr().err
    assert not (tmp_path / "x.catflap").exists()
