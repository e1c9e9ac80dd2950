"""What runs a network on the camera page, and what happens where that cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from catflap.serving.static_site import write_site
from tests.artifacts.samples import with_litert
from tests.web.conftest import file_server
from tests.web.person import ANSWERED, RED, answer, give, photo_file, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Route

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones

# WebAssembly as in a browser without relaxed SIMD, whose instructions are fd 80 02 to fd 93 02; a few
# such bytes are in every large file by chance.
NO_RELAXED_SIMD = """
  {
    const isRelaxed = (data) => {
      const bytes = new Uint8Array(data);
      let found = 0;
      for (let n = 2; n < bytes.length; n++) {
        found += bytes[n - 2] === 0xfd && bytes[n - 1] >= 0x80 && bytes[n - 1] <= 0x93 && bytes[n] === 2;
      }
      return found * 1e5 > bytes.length;
    };
    const { compile, instantiate, validate } = WebAssembly;
    const refuse = (what) => {
      if (!(what instanceof WebAssembly.Module) && isRelaxed(what)) throw new Error('relaxed SIMD');
    };
    WebAssembly.validate = (bytes) => !isRelaxed(bytes) && validate(bytes);
    WebAssembly.compile = async (bytes) => (refuse(bytes), compile(bytes));
    WebAssembly.instantiate = async (what, imports) => (refuse(what), instantiate(what, imports));
    WebAssembly.compileStreaming = async (coming) => WebAssembly.compile(await (await coming).arrayBuffer());
  }
"""


@pytest.fixture
def both(tiny_bundle: Path, page_built: Path, repo: Path, tmp_path: Path) -> Path:
    """The site of a bundle with a variant for each runtime, LiteRT's first."""
    tflite = (repo / "tests" / "runtime" / "colour.tflite").read_bytes()
    write_site(with_litert(tiny_bundle, tmp_path / "both.catflap", tflite), tmp_path / "site")
    return tmp_path / "site"


@pytest.mark.parametrize("which", ["tiny", "shipped"])
def test_a_bundle_opens_in_a_browser_without_relaxed_simd(
    context: BrowserContext, both: Path, which: str
) -> None:
    def without(route: Route) -> None:
        script = route.fetch()
        route.fulfill(response=script, body=NO_RELAXED_SIMD + script.text())

    context.route("**/assets/worker-*.js", without)
    if which == "shipped":
        write_site("cat", site := both.with_name("shipped"))
    else:
        site = both
    with file_server(site) as (url, asked):
        page = context.new_page()
        page.goto(url)
        page.locator("#verdict[data-state=pass], #verdict[data-state=part]").wait_for(timeout=60_000)
        assert page.input_value("#variant") == ("litert-int8" if which == "shipped" else "litert-fp32")
        assert page.is_hidden("#notice")
        runtimes = {line.split("/assets/")[1].rpartition("-")[0] for line in asked if "_wasm_" in line}
        assert runtimes == {"litert_wasm_compat_internal"}


def test_of_litert_only_the_build_that_is_used_is_fetched(context: BrowserContext, both: Path) -> None:
    with file_server(both) as (url, asked):
        page = context.new_page()
        page.goto(url)
        page.locator("#verdict[data-state=pass]").wait_for()
        page.evaluate("async () => void (await navigator.serviceWorker.ready)")  # its files are there
        runtimes = {line.split("/assets/")[1].rpartition("-")[0] for line in asked if "wasm_" in line}
        assert runtimes == {"litert_wasm_internal"}


@pytest.mark.parametrize("kind", ["js", "wasm"])
def test_where_a_runtime_does_not_come_the_next_variant_answers_and_it_may_come_later(
    context: BrowserContext, both: Path, kind: str
) -> None:
    context.route(f"**/litert_wasm*.{kind}", lambda route: route.abort())
    with file_server(both) as (url, _):
        page = context.new_page()
        page.goto(url)
        page.locator("#verdict[data-state=pass]").wait_for()
        assert page.input_value("#variant") == "fp32"
        assert "litert-fp32 could not be loaded here, so fp32 answers" in page.inner_text("#notice")
        page.click("#open-adjust")
        page.select_option("#variant", "litert-fp32")
        wait_for(page, lambda: "went wrong" in page.inner_text("#notice"))
        assert page.input_value("#variant") == "fp32"
        context.unroute(f"**/litert_wasm*.{kind}")
        page.select_option("#variant", "litert-fp32")
        page.locator("#verdict[data-state=running]").wait_for()
        page.locator("#verdict[data-state=pass]").wait_for()
        assert page.input_value("#variant") == "litert-fp32"
        page.click("#close")
        give(page, photo_file(RED))
        assert answer(page)[0] == "warm"


def test_a_first_variant_that_was_changed_is_no_reason_to_take_the_next(
    context: BrowserContext, both: Path
) -> None:
    (model,) = (both / "bundle" / "targets" / "litert").iterdir()
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    with file_server(both) as (url, _):
        page = context.new_page()
        page.goto(url)
        page.locator("#answer[data-state=message]").wait_for()
        assert f"{model.name} is not what was exported" in page.inner_text("#label")
        assert page.locator(ANSWERED).count() == 0
