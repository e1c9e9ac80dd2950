"""The server: who is let in, uploads, suggestions, kills, and a build that outlives it."""

from __future__ import annotations

import http.client
import io
import json
import ssl
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from catflap.image import encode
from tests.studio.conftest import Running
from tests.tiny import draw_photos, drawn

Start = Callable[..., Running]


def photo(label: str, number: int) -> bytes:
    return encode(drawn(label, number), "JPEG", quality=90)


@pytest.fixture(scope="module")
def studio(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A Studio with 24 photos of two labels and 6 without."""
    one = start(tmp_path_factory.mktemp("studio") / "cats & co")
    for number in range(12):
        for label in ("cat", "other"):
            one.upload(f"{number}.jpg", photo(label, number), label)
    for number in range(12, 15):
        for label in ("cat", "other"):
            one.upload(f"{label} {number}.jpg", photo(label, number))
    return one


def test_only_the_token_lets_in(studio: Running) -> None:
    for path in ("/", "/api/state", "/thumb/1", "/?token=wrong"):
        status, _, body = studio.raw("GET", path, headers={"Cookie": ""})
        assert (status, b"token" in body) == (401, True)
    status, headers, _ = studio.raw("GET", "/api/state")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
    ],
)
def test_another_site_changes_nothing(studio: Running, headers: dict[str, str]) -> None:
    before = studio.ask("GET", "/api/state")["revision"]
    status, _, _ = studio.raw("POST", "/api/undo", b"{}", headers)
    assert status == 403
    assert studio.ask("GET", "/api/state")["revision"] == before


def test_a_bad_photo_is_refused_at_once_with_the_reason_of_scan(studio: Running) -> None:
    answer = studio.upload("page.jpg", b"<html>not a photo")
    (one,) = answer["refused"]
    assert one["name"] == "page.jpg"
    assert one["reason"].startswith("not_a_photo")
    named = studio.ask("GET", "/api/refused")["refused"]
    assert ("page.jpg", "not_a_photo") in [(row["name"], row["reason"]) for row in named]


def test_photos_that_vanish_are_named_and_the_rest_goes_on(start: Start, tmp_path: Path) -> None:
    one = start(tmp_path / "vanished")
    photos = draw_photos(tmp_path / "photos", count=2)
    one.ask("POST", "/api/import", {"path": str(photos)})
    (photos / "cat" / "00.jpg").unlink()
    status, _, body = one.raw("GET", "/photo/1")
    assert status == 410
    assert "00.jpg" in json.loads(body)["error"]["what"]
    assert one.raw("GET", "/photo/2")[0] == 200
    one.until("/api/state", lambda state: state["learner"]["done"] == 4)
    answer = one.ask("POST", "/api/export", {"path": str(tmp_path / "out")})
    assert answer["labels"] == {"cat": 1, "other": 2}
    assert one.ask("POST", "/api/decide", {"photos": [1], "label": "other"})["changed"] == 1


def test_a_zip_brings_its_labels_and_hostile_names_stay_text(start: Start, tmp_path: Path) -> None:
    one = start(tmp_path / "zip")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr('<img src=x onerror="alert(1)">/a.jpg', photo("cat", 50))
        file.writestr("other/../../b.jpg", photo("other", 50))
        file.writestr("other/c.jpg", photo("other", 51))
    answer = one.upload("photos.zip", archive.getvalue())
    assert answer["added"] == 2
    assert answer["refused"][0]["reason"] == "outside_archive"
    names = [label["name"] for label in one.ask("GET", "/api/state")["labels"]]
    assert names == ['<img src=x onerror="alert(1)">', "other"]
    places = [path for path in (one.project / "photos").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in places) == sorted([photo("cat", 50), photo("other", 51)])


def test_what_is_not_labelled_gets_suggestions_that_follow_the_labels(studio: Running) -> None:
    studio.until("/api/state", lambda state: state["learner"]["done"] == 30 and state["learner"]["labels"])
    shown = studio.ask("GET", "/api/photos?show=open&order=doubt")["photos"]
    found = studio.ask("POST", "/api/details", {"photos": shown})["photos"]
    assert {one["name"].split()[0]: one["suggested"] for one in found} == {"cat": "cat", "other": "other"}
    assert all(one["name"].split()[0] == one["suggested"] for one in found)
    alike = studio.ask("GET", f"/api/photos?show=all&order=alike&like={shown[0]}")["photos"]
    assert alike[0] == shown[0]
    assert len(alike) == 30
    shares = studio.ask("POST", "/api/look", photo("cat", 70))["shares"]
    assert shares["cat"] > shares["other"]


def test_the_sure_ones_are_accepted_together_and_undone_together(studio: Running) -> None:
    studio.until("/api/state", lambda state: state["learner"]["done"] == 30 and state["learner"]["labels"])
    body = {"label": "cat", "least": 0.5}
    assert studio.ask("POST", "/api/sure", body) == {"photos": 3}
    studio.ask("POST", "/api/sure", {**body, "accept": True})
    assert studio.ask("GET", "/api/state")["open"] == 3
    assert len(studio.ask("POST", "/api/undo", {})["photos"]) == 3
    assert studio.ask("GET", "/api/state")["open"] == 6


def test_a_learning_curve_says_what_more_photos_would_bring(studio: Running) -> None:
    curve = studio.until("/api/state", lambda state: state["learner"]["curve"])["learner"]["curve"]
    assert [point["photos"] for point in curve["points"]] == sorted(
        point["photos"] for point in curve["points"]
    )
    assert all(point["low"] <= point["accuracy"] <= point["high"] for point in curve["points"])
    assert {row["label"] for row in curve["labels"]} == {"cat", "other"}


@pytest.mark.slow
def test_a_phone_may_use_its_camera_over_https(studio: Running) -> None:
    """The certificate, made on the spot, is for exactly this address."""
    pytest.importorskip("cryptography")
    url = urlsplit(studio.ask("POST", "/api/phone", {"camera": True})["url"])
    assert url.scheme == "https"
    assert (url.hostname, url.port) != (None, None)
    pem = ssl.get_server_certificate((str(url.hostname), int(url.port or 0)))
    trusting = ssl.create_default_context(cadata=pem)
    connection = http.client.HTTPSConnection(str(url.hostname), url.port, timeout=60, context=trusting)
    connection.request("GET", url.path)
    answer = connection.getresponse()
    assert (answer.status, b"getUserMedia" in answer.read()) == (200, True)
    connection.close()
    assert studio.ask("POST", "/api/phone", {})["url"].startswith("http://")
    studio.ask("POST", "/api/phone", {"close": True})


def test_a_phone_can_add_photos_with_its_token_until_it_is_closed(studio: Running) -> None:
    url = studio.ask("POST", "/api/phone", {})["url"]
    token = url.rpartition("/")[2]
    phone = Running(studio.project, url, studio.process)
    assert phone.raw("GET", f"/{token}")[0] == 200
    assert phone.raw("GET", "/api/state")[0] == 404
    before = studio.ask("GET", "/api/state")["photos"]
    answer = phone.ask("POST", f"/{token}?name=a.jpg&label=", photo("cat", 200))
    assert (answer["added"], answer["refused"]) == (1, [])
    assert phone.ask("POST", f"/{token}?name=b.jpg", b"<html>")["refused"]
    assert studio.ask("GET", "/api/state")["photos"] == before + 1
    studio.ask("POST", "/api/phone", {"close": True})
    with pytest.raises(OSError, match="refused"):
        phone.raw("GET", f"/{token}")
    studio.ask("POST", "/api/decide", {"photos": [before + 1], "label": ""})


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_answered_decision(start: Start, tmp_path: Path) -> None:
    one = start(tmp_path / "killed")
    for number in range(4):
        one.upload(f"{number}.jpg", photo("cat", number))
    answered: dict[int, str] = {}
    for attempt in range(3):

        def label(one: Running = one, attempt: int = attempt) -> None:
            for step in range(400):
                number, name = step % 4 + 1, f"label {attempt} {step % 7}"
                try:
                    one.ask(
                        "POST", "/api/decide", {"photos": [number], "label": name, "key": f"{attempt} {step}"}
                    )
                except (
                    OSError,
                    AssertionError,
                    json.JSONDecodeError,
                    http.client.HTTPException,
                ):
                    answered[-number] = name  # may or may not have been kept
                    return
                answered[number] = name
                answered.pop(-number, None)

        labelling = threading.Thread(target=label)
        labelling.start()
        labelling.join(0.15 * (attempt + 1))
        one.kill()
        labelling.join(30)
        one = start(one.project)
        found = one.ask("POST", "/api/details", {"photos": [1, 2, 3, 4]})["photos"]
        for row in found:
            assert row["label"] in (answered.get(row["n"]), answered.get(-row["n"]))
            answered[row["n"]] = row["label"]
            answered.pop(-row["n"], None)
    assert one.ask("GET", "/api/state")["photos"] == 4


@pytest.mark.slow
def test_a_build_stops_goes_on_outlives_the_server_and_ends_as_a_verdict_that_can_be_tried(
    start: Start, tmp_path: Path
) -> None:
    one = start(tmp_path / "build")
    one.ask("POST", "/api/import", {"path": str(draw_photos(tmp_path / "photos"))})
    number = one.ask("POST", "/api/build", {})["job"]
    one.until("/api/state", lambda state: state["jobs"][0]["progress"])
    one.ask("POST", f"/api/jobs/{number}/stop", {})
    one.until("/api/state", lambda state: state["jobs"][0]["state"] == "stopped")
    one.ask("POST", f"/api/jobs/{number}/continue", {})
    assert [job["state"] for job in one.ask("GET", "/api/state")["jobs"]] == ["running"]
    one.kill()
    one = start(one.project)
    state = one.until(
        "/api/state",
        lambda state: any(job["kind"] == "judge" and job["state"] == "done" for job in state["jobs"]),
        600,
    )
    assert [job["state"] for job in state["jobs"]] == ["done", "done"]
    training = one.ask("GET", f"/api/jobs/{number}/training")
    assert len(training["curve"]) > 1
    assert sum(head["chosen"] for head in training["head"]) == 1
    model = one.ask("GET", f"/api/models/{number}")
    assert model["is_judged"]
    assert model["photos"]
    right = sum(photo["label"] == photo["truth"] for photo in model["photos"])
    assert right / len(model["photos"]) == pytest.approx(model["metrics"]["accuracy"]["value"])
    where = f"/where/{number}/{model['photos'][0]['photo']}?label=cat"
    status, headers, picture = one.raw("GET", where)
    assert (status, headers["content-type"], picture[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert one.raw("GET", f"/explain/{number}/explain")[0] == 404
    asked = {"kind": "explain", "photo": model["photos"][0]["photo"]}
    one.ask("POST", f"/api/models/{number}/explain", asked)
    one.until(f"/api/models/{number}", lambda model: model["pages"] == {"compare": False, "explain": True})
    status, headers, page = one.raw("GET", f"/explain/{number}/explain")
    assert (status, headers["content-security-policy"][:7]) == (200, "sandbox")
    assert b"Catflap: explain" in page
    status, _, page = one.raw("GET", f"/try/{number}/bundle/bundle.json")
    assert (status, json.loads(page)["labels"]) == (200, ["cat", "other"])
    cards = one.ask("GET", f"/api/models/{number}/places")["places"]
    assert any("catflap verify" in step["run"] for card in cards for step in card["steps"])
