"""Every page that Catflap writes, in light and dark, on a phone, a tablet and a desk: axe finds nothing.

Also what axe does not see: no page is wider than its window, no short word is broken in a table, text in
charts is at least 12 px, and the head of a column stands above its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.comparison.compare import compare_page
from catflap.comparison.explain import explain
from catflap.evaluation.decision_rates import shipped_decisions
from catflap.evaluation.examples import choose_examples
from catflap.evaluation.field_page import field_page
from catflap.evaluation.metrics import curves, measure
from catflap.evaluation.outlook import curve_points, outlook, promised
from catflap.evaluation.report_page import write_report
from catflap.pipeline.diff import diff, write_diff_page
from tests.curation.test_page import drawn_page
from tests.evaluation.test_field_page import report as drift_report
from tests.evaluation.test_report import answers, history, photo
from tests.tiny import Exported

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (360, 768, 1440)
SCHEMES = ("light", "dark")
PAGES = (
    "report", "many labels", "drift", "review", "manifest", "dataset", "upload", "docs", "preview", "diff",
    "explain", "prediction", "compare", "alone",
)  # fmt: skip
FAST = ("report", "review", "dataset", "upload", "explain")  # the others in `make check`
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
DECISION = {"threshold": 0.6, "error_rate": 0.05, "curve": [{"error_rate": 0.05, "threshold": 0.6}]}
RUN_AXE = """async () => (await axe.run({resultTypes: ['violations']})).violations.map(one =>
  [one.id, one.nodes.map(node => `${node.html.slice(0, 120)}: ${node.any[0] ? node.any[0].message : ''}`)])"""
FAULTS = """() => {
  const found = [], scale = matrix => Math.hypot(matrix.a, matrix.b);
  if (document.documentElement.scrollWidth > innerWidth + 1)
    found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const text of document.querySelectorAll('svg text')) {
    const size = parseFloat(getComputedStyle(text).fontSize) * scale(text.getScreenCTM());
    const shown = text.getClientRects().length;
    if (shown && size < 11.9) found.push(`chart text of ${size.toFixed(1)} px: ${text.textContent}`);
  }
  const seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (seen.nextNode()) {
    const node = seen.currentNode;
    if (!node.parentElement.closest('td, th, caption, .name, .interval')) continue;
    for (const word of node.data.matchAll(/[\\p{L}\\d%]{2,16}/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
      if (tops.size > 1) found.push(`broken word: ${word[0]}`);
    }
  }
  for (const table of document.querySelectorAll('table')) {
    const heads = table.querySelectorAll('thead th'), row = table.querySelector('tbody tr');
    if (!heads.length || !row || row.cells.length !== heads.length) continue;
    heads.forEach((head, place) => {
      const side = one => getComputedStyle(one).textAlign.replace('start', 'left').replace('end', 'right');
      if (head.textContent && side(head) !== side(row.cells[place]))
        found.push(`the head ${head.textContent} is ${side(head)}, its cells ${side(row.cells[place])}`);
    });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory,
    drawn_dataset: Dataset,
    drawn_checkpoint: Checkpoint,
    drawn_bundle: Exported,
) -> dict[str, Path]:
    """Each page as a file."""
    folder = tmp_path_factory.mktemp("pages")
    few, many = ("cat", "other"), tuple(f"label number {number}" for number in range(12))
    labels = ("cat", "not a cat but a dog")
    (folder / "drift.html").write_text(
        field_page(drift_report(30, labels, alarms=(7, 29)), labels, 200), "utf-8"
    )
    (folder / "review").mkdir()
    drawn_page(folder / "review", list(labels))
    from catflap.live.preview import PAGE
    from catflap.serving import pages as serving

    (folder / "preview.html").write_bytes(PAGE)
    (folder / "upload.html").write_bytes(serving._upload_page())
    (folder / "docs.html").write_bytes(serving._docs_page())
    bundle, shown = drawn_bundle.path, folder / "photo.jpg"
    shown.write_bytes(photo(1))
    write_diff_page(diff(bundle, bundle, drawn_dataset.path), folder / "diff.html")
    explain(drawn_checkpoint.path, bundle, shown, folder / "explain.html", label="other")
    explain(None, bundle, shown, folder / "prediction.html")
    versions = {"catflap": "1", "onnxruntime": "1"}
    both: Any = {"training": SIDE, "inference": SIDE, "machine": {**MACHINE, "versions": versions}}
    both["devices"] = [{"device": "A Pi with 4 threads", "network_ms": 30.0}]
    (folder / "compare.html").write_text(compare_page(both, "cat"), "utf-8")
    (folder / "alone.html").write_text(compare_page({**both, "training": None}, "cat"), "utf-8")
    return {
        **{name: folder / f"{name}.html" for name in ("diff", "explain", "prediction", "compare", "alone")},
        "report": report_of(folder / "report", few, 60, built=True),
        "many labels": report_of(folder / "many", many, 240),
        "drift": folder / "drift.html",
        "review": folder / "review" / "review.html",
        "manifest": drawn_dataset.path.with_name("manifest") / "profile.html",
        "dataset": drawn_dataset.path / "profile.html",
        "upload": folder / "upload.html",
        "docs": folder / "docs.html",
        "preview": folder / "preview.html",
    }


def report_of(out: Path, labels: tuple[str, ...], n: int, built: bool = False) -> Path:
    """The report of a bundle, at its end as a build writes it."""
    p, truth, groups = answers(n, len(labels), shift=3.0)
    found = measure(p, truth, groups, labels)
    found["decisions"] = shipped_decisions(DECISION, [], p, truth, groups, labels)
    names = [f"/photos of mine/{number}/IMG_{number:04}.jpg" for number in range(n)]
    outcome: dict[str, Any] = {}
    if built:
        curve = [
            {"step": "curve", "photos": k, "right": round(200 - 300 / k), "judged_by": 200}
            for k in (10, 40, 90)
        ]
        points = curve_points(curve)
        outcome = {
            "sentences": ["50 of 61 photos used; 10 are HEIC (IMG_1.HEIC, …).", "At least 68 of 100 photos."],
            "photos": {"found": 400, "used": 390, "refused": 10},
            "refused": [{"photos": 10, "what": "are broken", "fix": "copy them again", "files": names[:10]}],
            "labels": len(labels), "curve": points, "promised": promised(found["accuracy"]),
            "more": outlook(points, found["accuracy"], photos=390, groups=n, labels=len(labels)),
            "next": "catflap serve mine.catflap",
        }  # fmt: skip
    from catflap.evaluation.report_page import learning

    return write_report(
        out, {"int8": found, "fp32": found}, title="a bundle", labels=labels,
        examples=choose_examples(p, truth, groups, labels, names, [photo(1)] * n),
        curves={"int8": curves(p, truth, groups, labels)}, ancestors={"bundle": "ab" * 32},
        learnt=learning(history()), outcome=outcome,
    ).page  # fmt: skip


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed; run: npm --prefix web ci")
    return AXE.read_text("utf-8")


def is_fault(line: ConsoleMessage) -> bool:
    """A file on a disk has no server to ask, as the preview does."""
    return line.type == "error" and "net::ERR_" not in line.text


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may log no error."""
    context = browser.new_context(bypass_csp=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if is_fault(line) else None)
    yield page
    context.close()
    assert faults == []


@pytest.mark.parametrize(
    ("name", "schemes", "widths"),
    [
        *(pytest.param(name, SCHEMES[:1], WIDTHS[:1], id=f"{name}-one") for name in FAST),
        *(pytest.param(name, SCHEMES, WIDTHS, id=f"{name}-each", marks=pytest.mark.slow) for name in PAGES),
    ],
)
def test_axe_finds_nothing(
    page: Page, pages: dict[str, Path], axe: str, name: str, schemes: tuple[Any, ...], widths: tuple[int, ...]
) -> None:
    page.goto(pages[name].as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate(axe)
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(RUN_AXE) == [], (name, scheme, width)
        assert page.evaluate(FAULTS) == [], (name, width)


def test_the_checks_notice_what_they_are_for(page: Page, axe: str) -> None:
    page.set_content(
        "<!doctype html><title>x</title><p style='color:#999;background:#aaa'>pale</p>"
        "<table style='width:30px;table-layout:fixed;overflow-wrap:anywhere'><thead><tr>"
        "<th style='text-align:left'>n</th></tr></thead>"
        "<tbody><tr><td style='text-align:right'>validation</td></tr></tbody></table>"
        "<svg width=100 viewBox='0 0 400 100'><text y=20 font-size=14>small</text></svg>"
        "<div style='width:3000px'>wide</div>"
    )
    page.evaluate(axe)
    assert {"color-contrast", "html-has-lang"} <= {one[0] for one in page.evaluate(RUN_AXE)}
    faults = json.dumps(page.evaluate(FAULTS))
    assert all(word in faults for word in ("px wide", "chart text", "broken word", "the head n"))


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
