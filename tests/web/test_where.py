"""Where the network looked, on the camera page: a touch shows it, as `predict --explain` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.exporting.export import add_variants
from catflap.image import encode
from catflap.runtime.activation_maps import activation_map
from catflap.runtime.engine import Model, open_variant
from catflap.serving.static_site import write_site
from tests.tiny import Exported, drawn
from tests.web.conftest import file_server
from tests.web.person import ANSWERED, answer, give, photo_file, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones

ALPHA = """() => {
  const { width, height } = document.getElementById('heat');
  const { data } = document.getElementById('heat').getContext('2d').getImageData(0, 0, width, height);
  return Array.from({ length: width * height }, (_, place) => data[4 * place + 3]);
}"""


def shown(page: Page) -> np.ndarray:
    return np.array(page.evaluate(ALPHA)) / 190


def test_a_touch_shows_where_the_label_was_found(
    context: BrowserContext,
    page_built: Path,
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    drawn_dataset: Dataset,
    tmp_path: Path,
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'")
    path = tmp_path / "both.catflap"
    given = (load_bundle(drawn_bundle.path), drawn_checkpoint, drawn_dataset)
    add_variants(*given, path, ("litert-int8",))
    write_site(path, tmp_path / "site")
    both = drawn("other", 1).copy()
    both[:, :80] = drawn("cat", 1)[:, :80]
    photo = encode(both, "PNG")
    bundle = load_bundle(path)
    with file_server(tmp_path / "site") as (url, _):
        page = context.new_page()
        page.goto(url)
        page.locator("#verdict[data-state=pass], #verdict[data-state=part]").wait_for(timeout=60_000)
        give(page, photo_file(photo))
        page.locator(ANSWERED).wait_for()
        assert page.is_hidden("#heat")
        page.click("#where")
        wait_for(page, lambda: page.is_visible("#heat"))
        assert page.get_attribute("#where", "aria-pressed") == "true"
        for name in ("litert-int8", "fp32"):
            if page.input_value("#variant") != name:
                page.click("#open-adjust")
                page.select_option("#variant", name)
                page.click("#close")
                wait_for(page, lambda: page.is_visible("#heat"))
            model = open_variant(bundle, bundle.variant(name), 1)
            wait_for(page, lambda: is_evidence_shown(page, model, photo, bundle))
        page.click("#still")
        wait_for(page, lambda: page.get_attribute("#where", "aria-pressed") == "false")
        assert page.is_hidden("#heat")


def is_evidence_shown(page: Page, model: Model, photo: bytes, bundle: Bundle) -> bool:
    """Whether the page shows the map that this model has for the label that the page names."""
    if not page.is_visible("#heat"):
        return False
    alpha, expected = shown(page), activation_map(model, photo, bundle.frame, bundle.labels.index(answer(page)[0]))
    assert expected is not None
    return alpha.shape == expected.ravel().shape and bool(np.abs(alpha - expected.ravel()).max() < 0.15)
