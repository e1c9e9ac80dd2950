"""Bundles on the camera page: the first, another one, a damaged one, one that differs here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import pytest

from catflap.artifacts.bundle import HEAD, encode_members, load_bundle
from catflap.artifacts.golden import read_golden
from catflap.image import encode
from catflap.runtime.classifier import Classifier
from catflap.serving.static_site import write_site
from tests.artifacts.samples import with_litert, write_bundle
from tests.web.conftest import file_server
from tests.web.person import ANSWERED, BLUE, RED, Open, answer, give, photo_file, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Route

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones


def test_photos_that_come_before_the_bundle_are_kept(
    context: BrowserContext, open_page: Open, site: Path
) -> None:
    loading: list[Route] = []
    context.route("**/bundle/bundle.json", lambda route: loading.append(route))
    with file_server(site) as (url, _):
        page = open_page(url)
        wait_for(page, lambda: bool(loading))
        page.set_input_files("#file", [photo_file(RED), photo_file(BLUE)])  # type: ignore[list-item]
        page.set_input_files("#file", [photo_file(RED)])  # type: ignore[list-item]
        assert page.get_attribute("#answer", "data-state") == "waiting"
        loading[0].continue_()
        wait_for(page, lambda: page.locator("#entries li").count() == 3)
        assert [words.lower() for words in page.locator("#entries .what").all_inner_texts()] == [
            "warm", "cold", "warm",
        ]  # fmt: skip
        assert page.is_visible("#still")


def test_photos_wait_for_a_bundle_where_there_is_none(
    context: BrowserContext, open_page: Open, site: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(site, tmp_path / "site", ignore=shutil.ignore_patterns("bundle.json"))
    (tmp_path / "site" / "bundle" / "bundle.json").write_text("{}")
    with file_server(tmp_path / "site") as (url, _):
        page = open_page(url)
        page.locator("#answer[data-state=message]").wait_for()
        page.set_input_files("#file", [photo_file(RED)])  # type: ignore[list-item]
        page.set_input_files(
            "#file",
            [photo_file(BLUE), photo_file(tiny_bundle.read_bytes(), "b.catflap", "application/zip")],  # type: ignore[list-item]
        )
        wait_for(page, lambda: page.locator("#entries li").count() == 2)
        assert answer(page)[0] == "cold"


def test_an_error_rate_of_the_curve_can_be_chosen(
    open_page: Open, page_built: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    opened = load_bundle(tiny_bundle)
    head = json.loads(bytes(opened.members[HEAD]))
    middle = encode(np.full((60, 80, 3), (120, 60, 118), np.uint8), "PNG")
    probability = Classifier(tiny_bundle)(middle).probability
    assert probability < 0.9
    curve = [
        {"error_rate": 0.01, "threshold": probability + 0.05, "unsure": 0.4},
        {"error_rate": 0.03, "threshold": probability - 0.01, "unsure": 0.1},
    ]
    for variant in head["variants"].values():
        variant["decision"] |= {"rule": "top", "curve": curve} | {
            name: curve[1][name] for name in ("threshold", "error_rate")
        }
    files = {name: bytes(data) for name, data in opened.members.items() if name != HEAD}
    path = tmp_path / "curve.catflap"
    about = {name: head[name] for name in head if name not in ("catflap_bundle", "files")}
    write_bundle(path, about, files)
    write_site(path, tmp_path / "site")
    with file_server(tmp_path / "site") as (url, _):
        page = open_page(url)
        page.locator(ANSWERED).wait_for()
        give(page, photo_file(middle))
        assert page.get_attribute("#answer", "data-state") == "sure"
        page.click("#open-adjust")
        assert page.locator("#error-rate option:checked").inner_text() == "At most 3% wrong: 10% unsure"
        page.select_option("#error-rate", index=0)
        assert page.get_attribute("#answer", "data-state") == "unsure"
        page.click("#threshold-reset")
        assert page.get_attribute("#answer", "data-state") == "sure"


def test_a_network_that_differs_here_decides_nothing(
    open_page: Open, page_built: Path, tiny_bundle: Path, repo: Path, tmp_path: Path
) -> None:
    tflite = (repo / "tests" / "runtime" / "colour.tflite").read_bytes()
    wrong = read_golden(load_bundle(tiny_bundle)).logits["fp32"] + 1
    write_site(with_litert(tiny_bundle, tmp_path / "both.catflap", tflite, logits=wrong), tmp_path / "site")
    with file_server(tmp_path / "site") as (url, _):
        page = open_page(url)
        page.locator("#verdict[data-state=fail]").wait_for()
        page.locator("#answer[data-state=untrusted]").wait_for()
        assert "does not answer here as it was tested" in page.inner_text("#notice")
        assert page.get_attribute("#notice", "role") == "alert"
        for photo in (RED, BLUE):
            give(page, photo_file(photo))
            assert page.get_attribute("#answer", "data-state") == "untrusted"
            assert page.inner_text("#label") == "Not to be trusted"
            assert "Not to be trusted" in page.inner_text("#spoken")
            assert page.locator("#bars .reached").count() == 0
        page.set_input_files("#file", [photo_file(b"", "bad.jpg")])  # type: ignore[list-item]
        wait_for(page, lambda: "not a photo" in page.inner_text("#notice"))
        assert "does not answer here as it was tested" in page.inner_text("#notice")
        assert page.locator("#entries li").count() == 0
        page.click("#live")
        page.locator("#video").wait_for()
        page.wait_for_timeout(1500)  # longer than a decision about the camera's picture stands to be noted
        assert page.locator("#entries li").count() == 0
        page.click("#pause")
        page.click("#open-adjust")
        page.select_option("#variant", "fp32")  # which does here as it was tested
        page.locator("#answer[data-state=waiting]").wait_for()  # what the other answered is gone
        page.locator("#verdict[data-state=pass]").wait_for()
        page.click("#close")
        give(page, photo_file(BLUE))
        assert page.get_attribute("#answer", "data-state") == "sure"
        assert page.is_hidden("#notice")
        assert page.locator("#bars .reached").count() == 1
        assert page.locator("#entries li").count() >= 1


def test_golden_cases_that_cannot_run_are_no_pass(open_page: Open, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    golden = tmp_path / "site" / "bundle" / "golden.npz"
    golden.write_bytes(golden.read_bytes()[:-1] + b"?")
    with file_server(tmp_path / "site") as (url, _):
        page = open_page(url)
        page.locator("#verdict[data-state=fail]").wait_for()
        page.locator("#answer[data-state=untrusted]").wait_for()
        assert "could not be checked" in page.inner_text("#notice")
        assert "golden.npz is not what was exported" in page.inner_text("#notice")
        assert page.locator("#entries li").count() == 0


def test_the_labels_are_those_of_the_bundle_that_is_open(
    open_page: Open, address: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    head = {field: value for field, value in bundle.head.items() if field != "files"}
    head |= {"labels": ["cold", "hot"], "prior": {"cold": 0.5, "hot": 0.5}}
    other = tmp_path / "other.catflap"
    write_bundle(other, head, {name: bytes(data) for name, data in bundle.members.items() if name != HEAD})
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    labels = page.locator("#prior-label option")
    assert labels.all_text_contents() == ["cold", "warm"]
    page.set_input_files("#file", [photo_file(other.read_bytes(), "other.catflap", "application/zip")])  # type: ignore[list-item]
    page.locator("#bars .name", has_text="hot").wait_for()
    assert labels.all_text_contents() == ["cold", "hot"]


def test_another_bundle_can_be_opened_and_a_damaged_one_is_refused(
    open_page: Open, address: str, tiny_bundle: Path
) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    good = tiny_bundle.read_bytes()
    for place in (3, len(good) // 2, len(good) - 30):
        bad = bytearray(good)
        bad[place] ^= 4
        page.set_input_files("#file", [photo_file(bytes(bad), "bad.catflap", "application/octet-stream")])
        page.locator("#notice").wait_for()
        assert "bundle cannot be used" in page.inner_text("#notice")
        page.set_input_files("#file", [photo_file(good, "good.catflap", "application/octet-stream")])
        give(page, photo_file(RED))
        assert answer(page)[0] == "warm"


def test_a_bundle_that_is_nested_too_deep_is_refused_and_the_next_one_opens(
    open_page: Open, address: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    page = open_page(address)
    page.locator(ANSWERED).wait_for()
    members = {name: bytes(data) for name, data in load_bundle(tiny_bundle).members.items()}
    members[HEAD] = members[HEAD].rstrip()[:-1] + b', "extra": ' + b"[" * 3000 + b"]" * 3000 + b"}"
    bad = encode_members(members)
    page.set_input_files("#file", [photo_file(bad, "bad.catflap", "application/zip")])  # type: ignore[list-item]
    page.locator("#notice").wait_for()
    assert "nested more than 64 deep" in page.inner_text("#notice")
    good = photo_file(
        tiny_bundle.read_bytes(), "GOOD.CATFLAP", "application/zip"
    )  # as some cameras name files
    page.set_input_files("#file", [good])  # type: ignore[list-item]
    give(page, photo_file(RED))
    assert answer(page)[0] == "warm"
    assert page.is_hidden("#notice")


def test_a_bundle_that_changed_on_the_server_is_refused(open_page: Open, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    model = tmp_path / "site" / "bundle" / "fp32.onnx"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with file_server(tmp_path / "site") as (url, _):
        page = open_page(url)
        page.locator("#answer[data-state=message]").wait_for()
        assert "fp32.onnx is not what was exported" in page.inner_text("#label")
        assert "reload the page" in page.inner_text("#label")


def test_a_bundle_that_is_refused_does_not_end_the_checks_of_the_one_before(
    open_page: Open, address: str, tiny_bundle: Path
) -> None:
    page = open_page(address)
    page.locator("#verdict[data-state=running]").wait_for()
    bad = tiny_bundle.read_bytes()[:-1]
    page.set_input_files("#file", [photo_file(bad, "bad.catflap", "application/zip")])  # type: ignore[list-item]
    page.locator("#notice").wait_for()
    page.locator("#verdict[data-state=pass]").wait_for()
    assert "bundle cannot be used" in page.inner_text("#notice")
