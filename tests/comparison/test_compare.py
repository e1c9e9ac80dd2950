"""The two environments side by side: what is measured is whole and points the right way."""

from __future__ import annotations

import html
import json
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from importlib.metadata import files, version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors import safe_open

import catflap.comparison.compare as compare_module
import catflap.comparison.probe as probe_module
import catflap.runtime.bench as bench_module
from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import MARKER, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.artifacts.golden import read_golden
from catflap.cli.compare import compare_text
from catflap.cli.main import COMMANDS, main
from catflap.comparison.compare import RISKS, _probed, check_page, compare, table
from catflap.comparison.environment import licence_of, licences, vulnerabilities
from catflap.comparison.probe import probe
from catflap.errors import BadArtifact, CatflapError
from catflap.exporting.export import export
from catflap.exporting.golden_cases import drawn_photos
from catflap.machine import installed_packages, peak_memory_mb
from catflap.runtime.bench import EnergyMeter, profile_device, write_profile
from catflap.training.network import load_network
from tests.artifacts.samples import runnable_bundle
from tests.tiny import Exported


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    path.write_bytes(drawn_photos()[0])
    return str(path)


@pytest.mark.slow
def test_the_base_is_a_small_part_of_what_training_needs() -> None:
    base, train = installed_packages(), installed_packages(("train",))
    assert {"catflap", "numpy", "onnxruntime", "pillow"} <= set(base)
    assert {"torch", "timm", "scikit-learn", "pyarrow", "onnx"} <= set(train) - set(base)
    assert set(base) < set(train)
    assert not {"pytest", "ruff", "torch"} & set(base)
    assert 0 < sum(base.values()) < 0.5 * sum(train.values())
    assert base["numpy"] > 10  # MB


def test_both_sides_answer_the_same_photo(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, photo: str
) -> None:
    for side, model, variant in (
        ("training", drawn_checkpoint.path, ""),
        ("inference", drawn_bundle.path, "int8"),
    ):
        answer = probe(side, str(model), photo, variant)
        assert 0 < answer["milliseconds"] < 5e3
        assert answer["timed_seconds"] > 0
        assert answer["memory_mb"] > 20


@pytest.mark.slow
def test_what_lies_where_somebody_works_is_not_run(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = runnable_bundle(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "random"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise SystemExit('ran')\n")
    assert _probed("inference", bundle, Path(photo), "fp32")["answering_memory_mb"] > 10
    assert not (tmp_path / "ran").exists()


def test_memory_is_told_in_the_unit_of_files() -> None:
    """In MB of 10^6 bytes, between what the kernel has before and after."""

    def told_by_the_kernel() -> float:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        assert peak is not None
        return int(peak[1]) * 1024 / 1e6

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    before = told_by_the_kernel()
    assert before <= peak_memory_mb() <= told_by_the_kernel()


@pytest.fixture(scope="module")
def compared(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A comparison whose training side is measured in this process, which alone knows the tiny network."""
    page = tmp_path_factory.mktemp("compare") / "page.html"
    probed = compare_module._probed

    def here(side: str, model: Path, photo: Path, variant: str) -> dict[str, Any]:
        if side == "inference":
            return probed(side, model, photo, variant)
        answer = probe(side, str(model), str(photo), variant)
        names = {"latency": "percentiles", "joules_an_answer": "joules"}
        same = ("network_ms", "same_bits", "connections", "modules", "libraries")
        return {
            "seconds_to_first_answer": 1.0,
            "milliseconds_an_answer": answer["milliseconds"],
            "answering_memory_mb": answer["memory_mb"],
            **{new: answer[old] for new, old in names.items()},
            **{name: answer[name] for name in same},
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "_probed", here)
        return compare(drawn_checkpoint.path, drawn_bundle.path, out=page)


def test_the_comparison_is_whole(compared: dict[str, Any], drawn_checkpoint: Checkpoint) -> None:
    learning, answering = compared["training"], compared["inference"]
    assert set(learning) == set(answering)
    assert json.loads(json.dumps(compared)) == compared
    assert learning["flops_a_photo"] == answering["flops_a_photo"]  # a frozen head has no backward pass
    cost = drawn_checkpoint.cost
    photos = cost["photo_passes"] + cost["cached_photos"]
    assert learning["predictions_of_the_same_cost"] == photos >= 42
    roles = load_dataset(drawn_checkpoint.dataset_path).roles
    assert learning["photos_in"] == sum(roles.values()) - roles["test"]  # few: calibration is learnt, too
    assert learning["flops_in_all"] == cost["flops_forward"] * photos
    with safe_open(drawn_checkpoint.path / WEIGHTS, "pt") as tensors:
        names = tensors.keys()
        count = sum(
            tensors.get_tensor(name).numel()
            for name in names
            if tensors.get_tensor(name).dtype == torch.float32
        )
    assert learning["weights"] == answering["weights"] == count
    assert answering["photos_per_second"] == 1e3 / answering["milliseconds_an_answer"]
    assert answering["same_bits"]
    assert answering["connections"] == 0
    assert learning["modules"] > 2 * answering["modules"]
    assert learning["packages"] > answering["packages"]
    assert sum(answering["licences"].values()) == answering["packages"]
    assert answering["vulnerabilities"] is None


def test_the_page_has_every_row_and_says_what_cannot_be_read(compared: dict[str, Any]) -> None:
    page = Path(compared["page"]).read_text("utf-8")
    assert len(page) < 1.5e6
    assert not re.search(r"<script|(src|href)=.?(https?:)?//", page)
    rows = table(compared)
    for row in rows:
        assert html.escape(row["what"]) in page, row
        assert html.escape(row["inference"]) in page, row
    for _, danger, command, _ in RISKS:
        assert danger in page
        assert command.split()[1] in COMMANDS
    by_name = {row["what"]: row for row in rows}
    if compared["inference"]["joules"] is None:
        assert by_name["energy in all, J"]["inference"] == "not readable here"
    assert (
        by_name["packages"]["ratio"] == compared["training"]["packages"] / compared["inference"]["packages"]
    )
    assert by_name["known vulnerabilities"]["training"] == "no database given"
    with pytest.raises(CatflapError, match="not such a page"):
        check_page(Path(__file__), "Catflap: something else" + "!")


@pytest.mark.slow
def test_without_a_checkpoint_the_inference_side_is_alone(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, profile = tmp_path / "page.html", tmp_path / "pi.json"
    mine = profile_device(1)
    write_profile(profile, replace(mine, machine={"processor": "Slow <b>Pi</b>"}, ms=1000 * mine.ms))
    command = ["compare", str(drawn_bundle.path), "-o", str(page), "--profile", str(profile), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["training"] is None
    assert found["inference"]["flops_a_photo"] is None
    (device,) = found["devices"]
    assert device["device"] == "Slow <b>Pi</b> with 1 threads"
    assert device["network_ms"] > found["inference"]["network_ms"]
    text = page.read_text("utf-8")
    assert "No checkpoint was named" in text
    assert "<b>Pi" not in text
    assert "inference side alone" in compare_text(found)
    assert {row["training"] for row in table(found)} == {None}


def test_energy_is_read_where_the_counter_is(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that rises by 1 J with each reading: the probe reads it twice."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text(str(10**12))
    readings = iter(range(10**6, 10**8, 10**6))
    meter = partial(EnergyMeter, tmp_path)
    real = bench_module._read_number

    def read(path: Path) -> int | None:
        return next(readings) if path.name == "energy_uj" else real(path)

    monkeypatch.setattr(bench_module, "_read_number", read)
    monkeypatch.setattr(probe_module, "EnergyMeter", meter)
    bundle = runnable_bundle(tmp_path)
    assert probe("inference", str(bundle), photo, "fp32")["joules"] == pytest.approx(1 / probe_module.RUNS)
    monkeypatch.setattr(probe_module, "EnergyMeter", partial(EnergyMeter, tmp_path / "none"))
    assert probe("inference", str(bundle), photo, "fp32")["joules"] is None


def test_a_connection_is_counted(photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = str(runnable_bundle(tmp_path))
    assert probe("inference", bundle, photo, "fp32")["connections"] == 0
    original = probe_module._exported

    def asks_out(model: str, variant: str) -> Any:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.connect(("127.0.0.1", 9))
        return original(model, variant)

    monkeypatch.setattr(probe_module, "_exported", asks_out)
    assert probe("inference", bundle, photo, "fp32")["connections"] == 1


def test_vulnerabilities_are_looked_up_by_version(tmp_path: Path) -> None:
    here = Version(version("numpy"))

    def advisory(name: str, package: str, **affected: Any) -> None:
        about = {"ecosystem": "PyPI", "name": package}
        entry = {"id": name, "summary": "bad", "affected": [{"package": about, **affected}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(entry))

    def span(*events: dict[str, str]) -> list[dict[str, Any]]:
        return [{"type": "ECOSYSTEM", "events": list(events)}]

    with pytest.raises(BadArtifact, match="no OSV advisory"):
        vulnerabilities(["numpy"], tmp_path)
    advisory("LISTED", "NumPy", versions=[str(here)])
    advisory("RANGE", "numpy", ranges=span({"introduced": "0"}, {"fixed": f"{here.major + 1}.0"}))
    advisory("LAST", "numpy", ranges=span({"introduced": "0"}, {"last_affected": str(here)}))
    advisory("FIXED", "numpy", ranges=span({"introduced": "0"}, {"fixed": str(here)}))
    advisory("LATER", "numpy", ranges=span({"introduced": f"{here.major + 1}.0"}))
    advisory("OTHER", "a-package-that-is-not-here", versions=["1.0"])
    (tmp_path / "broken.json").write_text("{")
    found = vulnerabilities(["numpy", "pillow"], tmp_path)
    assert [row["id"] for row in found] == ["LAST", "LISTED", "RANGE"]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in tmp_path.glob("*.json"):
            archive.write(path, path.name)
    assert vulnerabilities(["numpy", "pillow"], tmp_path / "all.zip") == found
    with pytest.raises(BadArtifact, match="cannot be read"):
        vulnerabilities(["numpy"], tmp_path / "absent.zip")


def test_licences_have_their_usual_names() -> None:
    assert licence_of("onnxruntime") == "MIT"
    assert licence_of("a-package-that-is-not-here") == "not stated"
    counted = licences(["onnxruntime", "pytest", "packaging"])
    assert counted["MIT"] == 2
    assert sum(counted.values()) == 3


@pytest.mark.slow
def test_the_figures_agree_with_independent_tools(
    installed_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 5 %: /usr/bin/time, FLOPs by hand, sizes of files; milliseconds: `benchmarks/latency.py`."""
    monkeypatch.setattr(compare_module, "STARTS", 1)
    checkpoint, path = installed_checkpoint, tmp_path / "installed.catflap"
    export(checkpoint, drawn_dataset, path, variants=("int8",))
    found = compare(checkpoint.path, path)
    learning, answering = found["training"], found["inference"]
    assert learning["flops_in_all"] > answering["flops_in_all"]
    for what in ("answering_memory_mb", "packages", "packages_mb", "model_bytes"):
        assert learning[what] > answering[what] > 0, what
    assert answering["model_bytes"] == len(load_bundle(path).members["int8.onnx"])
    assert learning["model_bytes"] == (checkpoint.path / WEIGHTS).stat().st_size

    assert learning["flops_forward"] == pytest.approx(flops_by_hand(checkpoint), rel=0.05)

    if Path("/usr/bin/time").exists():
        program = (
            "import sys; from catflap import Classifier; Classifier(sys.argv[1], threads=1)(sys.argv[2])"
        )
        photo = tmp_path / "photo.jpg"
        photo.write_bytes(read_golden(load_bundle(path)).photos[0])
        command = ["/usr/bin/time", "-f", "%M", sys.executable, "-P", "-c", program, str(path), str(photo)]
        kilobytes = int(
            subprocess.run(command, capture_output=True, text=True, check=True).stderr.split()[-1]
        )
        assert answering["answering_memory_mb"] == pytest.approx(kilobytes * 1024 / 1e6, rel=0.05)

    du = sum(
        file.stat().st_size
        for name in installed_packages()
        for file in map(Path, {str(each.locate()) for each in files(name) or ()})
        if file.is_file()
    )
    assert answering["packages_mb"] == pytest.approx(du / 1e6, rel=0.05)


def flops_by_hand(checkpoint: Checkpoint) -> float:
    """Two operations for each multiply-add of convolutions and linear layers, from their sizes."""
    network, total = load_network(checkpoint), 0

    def count(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()  # type: ignore[union-attr, operator]

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    frame = checkpoint.frame
    with torch.inference_mode():
        network(torch.zeros(1, frame.height, frame.width, 3, dtype=torch.uint8))
    return float(total)


def test_a_bundle_of_another_checkpoint_is_refused(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, tmp_path: Path
) -> None:
    shutil.copytree(drawn_checkpoint.path, tmp_path / "other")
    fields = json.loads((tmp_path / "other" / MARKER).read_text())
    fields["seed"] = 7
    save_checkpoint(
        tmp_path / "other", {k: v for k, v in fields.items() if k not in ("catflap", "version", "sha256")}
    )
    assert load_checkpoint(tmp_path / "other").sha256 != drawn_checkpoint.sha256
    with pytest.raises(CatflapError, match="was not exported from"):
        compare(tmp_path / "other", drawn_bundle.path)
    with pytest.raises(BadArtifact):
        compare(drawn_bundle.path, drawn_bundle.path)
    with pytest.raises(BadArtifact, match="no variant"):
        compare(drawn_checkpoint.path, drawn_bundle.path, variant="int4")
