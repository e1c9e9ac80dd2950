"""A plan adds up what was measured, marks what was not, and says which limit comes next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catflap.cli.main import main
from catflap.cli.plan import amount, duration
from catflap.errors import BadArtifact, CatflapError
from catflap.pipeline.machine_rates import RATES, MachineRates, load_rates, measure_rates, write_rates
from catflap.pipeline.scale import plan_scale
from tests.tiny import FRAME, TINY

TWO_CORES = MachineRates(
    machine={"processor": "A processor", "cores": 2, "memory_mb": 16_000},
    device="cpu",
    rates=dict.fromkeys(RATES, 100.0) | {"duplicates": 1e6},
    photo_bytes=50_000.0,
    backbone="efficientnet_lite0",
    frame_px=224,
    width=1280,
    disk_free_mb=1e6,
    photos=64,
    versions={},
)


def step(plan: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in plan["steps"] if each["name"] == name)


def test_a_plan_is_arithmetic_on_rates() -> None:
    plan = plan_scale(1e6, TWO_CORES, price=3.6)
    assert step(plan, "scan")["seconds"] == pytest.approx(1e6 / 200)
    assert step(plan, "near-duplicates")["seconds"] == pytest.approx(121 / 12)
    assert step(plan, "packing")["disk_mb"] == pytest.approx(50_000)
    assert step(plan, "features")["seconds"] == pytest.approx(0.7e6 / 200 + 0.7e6 / 100)
    assert step(plan, "features")["disk_mb"] == pytest.approx(0.7 * 1280 * 4)
    assert step(plan, "export and evaluation")["seconds"] == pytest.approx(2 * 0.3e6 / 200)
    assert plan["seconds"] == pytest.approx(sum(each["seconds"] for each in plan["steps"]))
    assert plan["cost"] == pytest.approx(plan["seconds"] / 1000)
    assert not plan["scaled"]
    assert plan["not_measured"] == []
    assert json.loads(json.dumps(plan)) == plan
    twice = plan_scale(2e6, TWO_CORES)
    assert twice["seconds"] == pytest.approx(2 * plan["seconds"])
    assert twice["cost"] is None
    slow = replace(TWO_CORES, rates={**TWO_CORES.rates, "duplicates": 1000.0})
    assert step(plan_scale(1e6, slow), "near-duplicates")["seconds"] == pytest.approx(1000)
    names = [each["name"] for each in plan_scale(1e6, TWO_CORES, epochs=0)["steps"]]
    assert "fine-tuning" not in names
    assert "head" in names


def test_more_cores_help_what_runs_on_each_core_and_nothing_else() -> None:
    few, many = plan_scale(1e6, TWO_CORES), plan_scale(1e6, TWO_CORES, cores=32)
    assert many["scaled"]
    assert step(many, "packing")["seconds"] == pytest.approx(step(few, "packing")["seconds"] / 16)
    for name in ("near-duplicates", "roles and index", "head"):
        assert step(many, name)["seconds"] == step(few, name)["seconds"], name
    crowd = plan_scale(1e6, TWO_CORES, cores=10_000)
    assert step(crowd, "scan")["seconds"] == pytest.approx(34)  # of the one process that lists
    shared = plan_scale(1e6, TWO_CORES, machines=4, price=1.0)
    assert step(shared, "fine-tuning")["seconds"] == pytest.approx(step(few, "fine-tuning")["seconds"] / 4)
    assert shared["cost"] == pytest.approx(4 * shared["seconds"] / 3600)


def test_a_gpu_computes_while_the_processor_decodes() -> None:
    gpu = replace(
        TWO_CORES, device="A GPU", rates={**TWO_CORES.rates, "features": 5000.0, "finetune": 1000.0}
    )
    plan = plan_scale(1e6, gpu)
    assert step(plan, "features")["seconds"] == pytest.approx(0.7e6 / 200)  # the cores cannot decode faster
    fast = plan_scale(1e6, gpu, cores=200)
    assert step(fast, "fine-tuning")["seconds"] == pytest.approx(0.7e6 / 1000)
    pair = plan_scale(1e6, replace(gpu, ddp_efficiency=0.9), cores=200, machines=2)
    assert step(pair, "fine-tuning")["seconds"] == pytest.approx(0.7e6 / 1800)


def test_what_was_not_measured_is_not_invented() -> None:
    unknown = replace(TWO_CORES, rates={**TWO_CORES.rates, "finetune": None, "scan": None})
    plan = plan_scale(1e6, unknown)
    assert plan["not_measured"] == ["scan", "fine-tuning"]
    assert step(plan, "scan")["seconds"] is None
    assert plan["seconds"] < plan_scale(1e6, TWO_CORES)["seconds"]


def test_the_next_limit_comes_first() -> None:
    limits = plan_scale(1e6, TWO_CORES)["limits"]
    assert [limit["what"].partition(":")[0] for limit in limits] == ["memory", "free disk", "time"]
    assert limits[0]["photos"] == pytest.approx(16e9 / 900)
    assert not any(limit["reached"] for limit in limits)
    small = plan_scale(1e6, replace(TWO_CORES, disk_free_mb=1000.0))["limits"]
    assert small[0]["what"].startswith("free disk: 1 GB")
    assert small[0]["reached"]
    assert "fine-tuning" in limits[-1]["what"] or "features" in limits[-1]["what"]


def test_a_file_of_rates_comes_back_and_a_bad_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rates.json"
    write_rates(path, TWO_CORES)
    assert load_rates(path) == TWO_CORES
    assert main(["plan", "--photos", "12e6", "--machine", str(path), "--cores", "32", "--price", "2"]) == 0
    text = capsys.readouterr().out
    assert "12,000,000 photos on A processor" in text
    assert "not measured itself" in text
    assert "cost: " in text
    assert main(["plan", "--photos", "1e6", "--machine", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"][0]["photos"] == 1_000_000
    fields = json.loads(path.read_text())
    for change in ({"rates": {**fields["rates"], "scan": 0}}, {"machine": {}}, {"photo_bytes": "many"}):
        path.write_text(json.dumps({**fields, **change}))
        with pytest.raises(BadArtifact):
            load_rates(path)
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(BadArtifact):
        write_rates(tmp_path / "mine.json", TWO_CORES)
    for bad in (
        ["--photos", "0"],
        ["--photos", "1e6", "--machines", "0"],
        ["--photos", "1e6", "--price", "-1"],
    ):
        write_rates(tmp_path / "good.json", TWO_CORES)
        assert main(["plan", *bad, "--machine", str(tmp_path / "good.json")]) == 2
    with pytest.raises(CatflapError, match="no photo"):
        measure_rates(tmp_path)


def test_units_are_for_people() -> None:
    assert [duration(each) for each in (None, 5.0, 600, 7200, 864_000)] == [
        "not measured", "5 s", "10 min", "2 h", "10 days",
    ]  # fmt: skip
    assert [amount(each) for each in (5, 5e3, 5e6)] == ["5 MB", "5 GB", "5 TB"]


@pytest.mark.slow
def test_every_rate_is_measured_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny network and short rounds."""
    from catflap.pipeline import machine_rates

    monkeypatch.setattr(machine_rates, "SECONDS", 0.05)
    monkeypatch.setattr(machine_rates, "HASHES", 1000)
    done: list[int] = []
    found = measure_rates(backbone=TINY, frame=FRAME, progress=lambda _, at, total: done.append(at))
    assert set(found.rates) == set(RATES)
    assert all(rate is not None and rate > 0 for rate in found.rates.values())
    assert done == list(range(1, len(RATES) + 1))
    assert found.photo_bytes > 1000
    write_rates(tmp_path / "rates.json", found)
    assert load_rates(tmp_path / "rates.json") == found
