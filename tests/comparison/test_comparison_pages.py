"""The pages of compare and explain in a browser: accessible, no wider than a phone, and the slider moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from catflap.artifacts.checkpoint import Checkpoint
from catflap.comparison.compare import compare_page
from catflap.comparison.explain import explain
from catflap.image import encode
from tests.tiny import Exported, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIDE = {
    "flops_a_photo": 3e8, "flops_forward": 1e8, "flops_backward": 2e8, "flops_update": 1e5,
    "flops_in_all": 3e12, "predictions_of_the_same_cost": 3e4, "seconds": 100.0, "photos_per_second": 20.0,
    "milliseconds_an_answer": 3.0, "latency": {"p50": 3.0, "p90": 4.0, "p99": 5.0, "n": 50},
    "network_ms": 2.0, "seconds_to_first_answer": 4.0, "peak_memory_mb": 900.0, "answering_memory_mb": 90.0,
    "packages": 90, "packages_mb": 6000.0, "model_bytes": 4e6, "weights": 3_400_000, "photos_in": 350,
    "recipe": "finetune", "precision": "bf16-mixed", "batch": 32, "device": "cpu", "threads": 2,
    "joules": None, "joules_an_answer": None, "same_bits": True, "connections": 0, "modules": 2700,
    "libraries": None, "licences": {"BSD": 3, "MIT": 2},
    "vulnerabilities": [{"package": "numpy", "version": "1.0", "id": "GHSA-1", "summary": "bad"}],
}  # fmt: skip
MACHINE = {"processor": "A processor", "cores": 2, "system": "Linux"}
AXE = """async () => (await axe.run({resultTypes: ['violations']})).violations
    .map(one => `${one.id}: ${one.nodes[0].html.slice(0, 200)}`)"""
WIDEST = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def pages(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    photo = folder / "photo.jpg"
    photo.write_bytes(encode(drawn("cat", 7), "JPEG"))
    explain(drawn_checkpoint.path, drawn_bundle.path, photo, folder / "explain.html", label="other")
    explain(None, drawn_bundle.path, photo, folder / "prediction.html")
    machine = {**MACHINE, "versions": {"catflap": "1", "onnxruntime": "1"}}
    found = {"training": SIDE, "inference": SIDE, "machine": machine}
    found["devices"] = [{"device": "A Pi with 4 threads", "network_ms": 30.0}]
    (folder / "compare.html").write_text(compare_page(found, "cat"), "utf-8")
    (folder / "alone.html").write_text(compare_page({**found, "training": None}, "cat"), "utf-8")
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.fixture(params=[(390, "dark"), (1200, "light")], ids=["phone", "desk"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    yield page
    context.close()
    assert faults == []


@pytest.mark.parametrize("name", ["explain", "prediction", "compare", "alone"])
def test_axe_finds_nothing_and_nothing_is_too_wide(
    repo: Path, page: Page, pages: dict[str, Path], name: str
) -> None:
    axe = repo / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed; run: npm --prefix web ci")
    page.goto(pages[name].as_uri())
    page.evaluate(axe.read_text("utf-8"))
    assert page.evaluate(AXE) == []
    assert page.evaluate(WIDEST) <= 0


def test_the_slider_shows_each_step(page: Page, pages: dict[str, Path]) -> None:
    page.goto(pages["explain"].as_uri())
    slider = page.locator("#slider")
    first = page.locator("#loss-empty").inner_text()
    assert first == "0.6931"  # two labels that are equally likely
    slider.focus()
    slider.press("End")
    assert page.locator("#step").inner_text() == "50"
    assert float(page.locator("#loss-empty").inner_text()) < 0.6
    assert page.locator("#decision-empty").inner_text() == "other"
    assert "step 50" in (slider.get_attribute("aria-valuetext") or "")
    slider.press("Home")
    assert page.locator("#loss-empty").inner_text() == first
