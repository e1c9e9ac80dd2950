"""The review page from a disk, in a real browser: keys, progress, hostile names, and the file it gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from catflap.curation.audit import Audit
from catflap.curation.review import apply_review
from catflap.curation.review_page import Beside, Card, script_json, write_page
from catflap.curation.suspects import Suspect
from catflap.image import encode, read_file
from catflap.progress import silent
from tests.curation.conftest import HOSTILE, Collection

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def opened(context: BrowserContext) -> Iterator[Callable[[Path], Page]]:
    """Open a page; the test fails when it throws, asks for anything else, or its console has an error."""
    faults: list[str] = []

    def opened(path: Path) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.on("request", lambda asked: faults.append(asked.url) if asked.url.startswith("http") else None)
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        return page

    yield opened
    assert faults == []


def cards(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(page.locator("#data").text_content() or "")["cards"]
    return found


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def downloaded(page: Page, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.keyboard.press("e")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def drawn_page(folder: Path, labels: list[str], count: int = 6) -> Path:
    """A page of plain pictures: each is labelled with the first label and suspected to be the second."""
    read = partial(encode, np.full((40, 60, 3), 90, np.uint8), "JPEG")
    made = [
        Card(
            Suspect(f"{number:064x}", f"/photos/{number}.jpg", labels[0], labels[1], 0.9, "label_error"), (),
            "train", (0.1, 0.9), (Beside("f" * 64, labels[1], False, read),), read,
        )
        for number in range(count)
    ]  # fmt: skip
    write_page(folder, made, labels, "0" * 64, count, silent)
    return folder / "review.html"


def test_a_person_decides_with_the_keyboard_and_the_file_applies(
    opened: Callable[[Path], Page], audited: Audit, collection: Collection, tmp_path: Path
) -> None:
    page = opened(audited.page)
    shown = cards(page)
    labels = json.loads(page.locator("#data").text_content() or "")["labels"]
    press(page, "a", "r", "s", "d")
    page.wait_for_selector("#drop[open]")
    press(page, "2")
    expected = [
        (shown[0], "relabel", labels[shown[0]["suggested"]]),
        (shown[1], "keep", None),
        (shown[3], "drop", "shows several of the labels"),
    ]
    path = downloaded(page, tmp_path)
    assert path.name == "decisions.json"
    lines = {line["id"]: line for line in json.loads(path.read_text("utf-8"))["decisions"]}
    for card, decision, what in expected:
        for id in [card["id"], *card["copies"]]:
            assert lines[id]["decision"] == decision
            assert lines[id].get("label", lines[id].get("reason")) == what
            assert lines[id]["was"] == labels[card["label"]]
    assert shown[2]["id"] not in lines
    found = apply_review(audited.manifest, path, tmp_path / "reviewed")
    assert found.outcome.left == 0
    assert not found.other
    table = {row["id"]: row for row in found.manifest.rows().to_pylist() if row["status"] == "ok"}
    assert table[shown[0]["id"]]["label"] == labels[shown[0]["suggested"]]
    assert table[shown[1]["id"]]["reason"] == "review: kept"
    assert shown[3]["id"] not in table


def test_a_copy_shares_the_card(
    opened: Callable[[Path], Page], audited: Audit, collection: Collection
) -> None:
    ids = collection.ids()
    both = {ids["cat03.jpg"], ids[collection.wrong_copy]}
    together = [{card["id"], *card["copies"]} for card in cards(opened(audited.page))]
    assert both in together


@pytest.mark.slow
def test_hostile_names_are_shown_and_do_nothing(
    opened: Callable[[Path], Page], audited: Audit, collection: Collection
) -> None:
    page = opened(audited.page)
    at = next(number for number, card in enumerate(cards(page)) if Path(card["uri"]).name == "third07.jpg")
    press(page, *["ArrowRight"] * at)
    assert f"Is it {HOSTILE}?" in page.locator("#question").inner_text()
    press(page, "a")
    assert page.title() == "Catflap review"
    assert page.locator("script").count() == 2


@pytest.mark.parametrize(
    "label",
    [
        HOSTILE,
        *(
            pytest.param(label, marks=pytest.mark.slow)
            for label in ("<!--<script>", "]]>", "\u2028", "\u202edrow", "$script ${1}", "'\"&amp;")
        ),
    ],
)
def test_any_name_comes_back_as_it_was(opened: Callable[[Path], Page], label: str, tmp_path: Path) -> None:
    page = opened(drawn_page(tmp_path, ["cat", label]))
    press(page, "a")
    (line,) = json.loads(downloaded(page, tmp_path).read_text("utf-8"))["decisions"]
    assert line["label"] == label
    assert page.title() == "Catflap review"


def test_progress_is_kept_and_can_be_undone(opened: Callable[[Path], Page], tmp_path: Path) -> None:
    page = opened(drawn_page(tmp_path, ["cat", "dog"]))
    press(page, "a", "a", "r")
    page.reload()
    assert "3 of 6 decided" in page.locator("#count").inner_text()
    assert "4 of 6" in page.locator("#place").inner_text()
    press(page, "u", "u")
    assert "1 of 6 decided" in page.locator("#count").inner_text()
    assert "2 of 6" in page.locator("#place").inner_text()
    press(page, "u", "u")
    assert "nothing to undo" in page.locator("#status").inner_text()
    assert page.locator("#bar").get_attribute("aria-valuenow") == "0"


@pytest.mark.slow
def test_what_was_skipped_comes_again(opened: Callable[[Path], Page], tmp_path: Path) -> None:
    page = opened(drawn_page(tmp_path, ["cat", "dog"], 3))
    press(page, "s", "a", "a")
    assert "You are at the end" in page.locator("#end-title").inner_text()
    page.get_by_role("button", name="Go through the undecided again").click()
    assert "1 of 3" in page.locator("#place").inner_text()
    press(page, "2")
    assert "Everything is decided" in page.locator("#end-title").inner_text()
    decided = json.loads(downloaded(page, tmp_path).read_text("utf-8"))["decisions"]
    assert [line["decision"] for line in decided] == ["relabel"] * 3


@pytest.mark.slow
def test_letters_typed_into_a_reason_decide_nothing(opened: Callable[[Path], Page], tmp_path: Path) -> None:
    page = opened(drawn_page(tmp_path, ["cat", "dog"]))
    press(page, "d")
    page.locator("#reason").fill("")
    page.locator("#reason").type("a draw1ing")
    press(page, "Enter")
    (line,) = json.loads(downloaded(page, tmp_path).read_text("utf-8"))["decisions"]
    assert line == {"id": f"{0:064x}", "was": "cat", "decision": "drop", "reason": "a draw1ing"}
    press(page, "d", "Escape")
    assert "1 of 6 decided" in page.locator("#count").inner_text()


@pytest.mark.slow
def test_many_labels_are_chosen_from_a_list(opened: Callable[[Path], Page], tmp_path: Path) -> None:
    page = opened(drawn_page(tmp_path, [f"label {number}" for number in range(30)]))
    page.get_by_label("Another label").select_option(label="label 17")
    (line,) = json.loads(downloaded(page, tmp_path).read_text("utf-8"))["decisions"]
    assert line["label"] == "label 17"


@pytest.mark.slow
def test_letters_can_be_switched_off(opened: Callable[[Path], Page], tmp_path: Path) -> None:
    page = opened(drawn_page(tmp_path, ["cat", "dog"]))
    press(page, "?")
    page.get_by_label("Letters work as keys").uncheck()
    page.get_by_role("button", name="Close").click()
    press(page, "a", "1")
    assert "0 of 6 decided" in page.locator("#count").inner_text()
    page.get_by_role("button", name="Yes, it is dog").click()
    assert "1 of 6 decided" in page.locator("#count").inner_text()


@pytest.mark.slow
def test_every_picture_and_button_has_a_name(opened: Callable[[Path], Page], audited: Audit) -> None:
    page = opened(audited.page)
    for image in page.locator("img:visible").all():
        assert image.get_attribute("alt") is not None
    for button in page.locator("button:visible").all():
        assert button.inner_text().strip() or button.get_attribute("aria-label")


@pytest.mark.slow
def test_a_photo_that_is_gone_is_still_decided(opened: Callable[[Path], Page], tmp_path: Path) -> None:
    """A file under two labels is read where it lay when it was scanned."""
    suspect = Suspect("a" * 64, "/gone.jpg", "cat", "dog", 1.0, "two_labels")
    card = Card(suspect, (), "", (), (), partial(read_file, tmp_path / "gone.jpg"))
    write_page(tmp_path, [card], ["cat", "dog"], "0" * 64, 1, silent)
    page = opened(tmp_path / "review.html")
    assert page.get_by_text("This photo cannot be shown").is_visible()
    assert "Is this dog or cat?" in page.locator("#question").inner_text()
    press(page, "r")
    (line,) = json.loads(downloaded(page, tmp_path).read_text("utf-8"))["decisions"]
    assert line == {"id": "a" * 64, "was": "cat", "decision": "keep"}


@pytest.mark.slow
def test_an_audit_without_suspects_says_so(opened: Callable[[Path], Page], tmp_path: Path) -> None:
    write_page(tmp_path, [], ["cat", "dog"], "0" * 64, 0, silent)
    page = opened(tmp_path / "review.html")
    assert "There is nothing to review" in page.locator("#end-title").inner_text()


def test_json_in_a_page_cannot_end_its_script() -> None:
    text = script_json({"label": HOSTILE, "line": "\u2028<!--"})
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == {"label": HOSTILE, "line": "\u2028<!--"}
