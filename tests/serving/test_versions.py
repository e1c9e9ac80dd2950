"""New versions while the server runs, a second version beside the first, and bundles that are not fit."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.cli.main import main
from catflap.image import encode
from catflap.runtime.recording import LogSettings
from catflap.serving.serve import serve
from catflap.serving.serve_settings import LIMITS, ServeLimits, ServeSettings
from tests.serving.bundles import BLUE, RED, make_bundle, strange_bundle, with_foreign_default
from tests.serving.client import Server, eventually, form, running

NO_PHOTO = b'{"inputs": [{"name": "photo", "datatype": "BYTES", "shape": [1], "data": ["YWJj"]}]}'


def version(bundle: Path) -> str:
    return load_bundle(bundle).sha256[:12]


def replace(served: Path, new: Path) -> None:
    """As `catflap export` writes: a whole file takes the name of the old one."""
    copy = served.with_name("new")
    shutil.copy(new, copy)
    copy.replace(served)


def ask_until(server: Server, done: Event) -> list[tuple[int, str]]:
    """Status and version of every answer until then."""
    answers = []
    while not done.is_set() or len(answers) < 5:
        reply = server.predict(RED)
        answers.append((reply.status, reply.json().get("version", "")))
    return answers


def test_it_decides_at_an_operating_point_which_a_new_version_must_have(tmp_path: Path) -> None:
    served = make_bundle(tmp_path / "cat.catflap", points={0.001: 0.9})
    pinkish = encode(np.full((40, 40, 3), (138, 0, 128), np.uint8), "PNG")  # a cat at 0.73
    with running(served, "--operating-point", "cat:max_fpr=0.001", "--reload", "0.05") as server:
        answers = [server.predict(photo).json() for photo in (RED, pinkish, BLUE)]
        assert [one["decision"] for one in answers] == ["cat", "not_cat", "not_cat"]
        assert [one["label"] for one in answers] == ["cat", "cat", "not_cat"]
        old = version(served)
        replace(served, make_bundle(tmp_path / "new.catflap", sharpness=0.07, points={0.01: 0.9}))
        eventually(lambda: "Use one of: cat:max_fpr=0.01." in server.log())
        assert server.predict(RED).json()["version"] == old


@pytest.mark.slow
def test_it_decides_at_another_error_rate_of_the_curve(tmp_path: Path) -> None:
    curve = [
        {"error_rate": 0.01, "threshold": 0.9, "unsure": 0.4},
        {"error_rate": 0.03, "threshold": 0.7, "unsure": 0.1},
    ]
    decision = {"threshold": 0.7, "error_rate": 0.03, "photos": 100, "rule": "top", "curve": curve}
    served = make_bundle(tmp_path / "cat.catflap", decision=decision)
    pinkish = encode(np.full((40, 40, 3), (138, 0, 128), np.uint8), "PNG")  # a cat at 0.73
    for options, expected in (([], "cat"), (["--error-rate", "0.01"], "unsure")):
        with running(served, *options) as server:
            assert server.predict(pinkish).json()["decision"] == expected


def test_a_new_version_replaces_the_old_one_under_load(tmp_path: Path, quick: Path) -> None:
    served = tmp_path / "cat.catflap"
    shutil.copy(quick, served)
    new = make_bundle(tmp_path / "new.catflap", sharpness=0.07)
    done = Event()
    with running(served, "--reload", "0.05") as server, ThreadPoolExecutor(3) as clients:
        asking = [clients.submit(ask_until, server, done) for _ in range(3)]
        eventually(lambda: server.metric("catflap_requests_total", route="/predict", status="200") > 10)
        replace(served, new)
        eventually(lambda: server.predict(RED).json()["version"] == version(new))
        done.set()
        answers = [answer for one in asking for answer in one.result()]
        assert {status for status, _ in answers} == {200}, "a request was dropped"
        assert {answered_by for _, answered_by in answers} == {version(quick), version(new)}
        assert server.metric("catflap_reloads_total", model="cat", result="loaded") == 1
        assert server.metric("catflap_model", model="cat", version=version(new), role="served") == 1
        assert server.metric("catflap_model", model="cat", version=version(quick), role="served") == 0
        assert server.ask(f"/v2/models/cat/versions/{version(quick)}/ready").status == 404


def test_unfit_versions_leave_the_old_one_in_place(tmp_path: Path, quick: Path) -> None:
    served = tmp_path / "cat.catflap"
    shutil.copy(quick, served)
    data = quick.read_bytes()
    middle = len(data) // 2
    unfit = {
        "damaged": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut short": data[:middle],
        "fails its verification": make_bundle(tmp_path / "failing", golden_shift=1.0).read_bytes(),
        "other labels": make_bundle(tmp_path / "foreign", labels=("cat", "dog")).read_bytes(),
        "labels in another order": make_bundle(tmp_path / "other", labels=("not_cat", "cat")).read_bytes(),
        "no embedding of its baseline, for a cat": strange_bundle(tmp_path / "odd", "cat").read_bytes(),
        "nor for others": strange_bundle(tmp_path / "odd", "not_cat").read_bytes(),
        "no bundle at all": b"",
    }
    with running(served, "--reload", "0.05") as server:
        for number, (fault, content) in enumerate(unfit.items(), 1):
            (tmp_path / "unfit").write_bytes(content)
            replace(served, tmp_path / "unfit")

            def refused(number: int = number) -> bool:
                return server.metric("catflap_reloads_total", model="cat", result="refused") == number

            eventually(refused)
            assert server.log().count("was replaced, but the old version stays") == number, fault
            assert server.predict(RED).json()["version"] == version(quick), fault
        served.unlink()
        assert server.predict(RED).json()["version"] == version(quick)
        good = make_bundle(tmp_path / "good.catflap", sharpness=0.09)
        replace(served, good)
        eventually(lambda: server.predict(RED).json()["version"] == version(good))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_bundle_that_could_not_be_read_is_tried_again_once_it_can(tmp_path: Path, quick: Path) -> None:
    served = tmp_path / "cat.catflap"
    shutil.copy(quick, served)
    new = make_bundle(tmp_path / "new.catflap", sharpness=0.07)
    expected = version(new)
    new.chmod(0)
    with running(served, "--reload", "0.05") as server:
        new.replace(served)
        eventually(lambda: server.metric("catflap_reloads_total", model="cat", result="refused") == 1)
        served.chmod(0o644)
        eventually(lambda: server.predict(RED).json()["version"] == expected)


def test_a_bundle_that_is_mended_in_place_is_tried_again_whatever_time_it_bears(
    tmp_path: Path, quick: Path
) -> None:
    served = tmp_path / "cat.catflap"
    shutil.copy(quick, served)
    new = make_bundle(tmp_path / "new.catflap", sharpness=0.07)
    good = new.read_bytes()
    middle = len(good) // 2
    new.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    with running(served, "--reload", "0.05") as server:
        new.replace(served)
        eventually(lambda: server.metric("catflap_reloads_total", model="cat", result="refused") == 1)
        times = served.stat()
        with open(served, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), good[middle : middle + 1], middle)
            os.utime(file.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
        eventually(lambda: server.predict(RED).json()["version"] != version(quick))


@pytest.mark.slow
def test_an_operator_learns_that_another_variant_than_the_default_one_answers(
    tmp_path: Path, quick: Path
) -> None:
    served, reason = tmp_path / "cat.catflap", "tpu cannot run here, so fp32 answers."
    with_foreign_default(quick, served)
    new = with_foreign_default(make_bundle(tmp_path / "a.catflap", sharpness=0.07), tmp_path / "b.catflap")
    with running(served, "--reload", "0.05") as server:
        assert f"cat {version(served)}: {reason}" in server.log()
        assert server.predict(RED).json()["decision"] == "cat"
        replace(served, new)
        eventually(lambda: f"cat {version(new)}: {reason}" in server.log())


@pytest.mark.slow
def test_the_same_bytes_again_are_no_new_version(tmp_path: Path, quick: Path) -> None:
    served = tmp_path / "cat.catflap"
    shutil.copy(quick, served)
    with running(served, "--reload", "0.05") as server:
        replace(served, quick)
        time.sleep(1)  # many looks
        new = make_bundle(tmp_path / "new.catflap", sharpness=0.08)
        replace(served, new)
        eventually(lambda: server.predict(RED).json()["version"] == version(new))
        assert server.metric("catflap_reloads_total", model="cat", result="loaded") == 1


def test_a_canary_answers_its_share(tmp_path: Path, quick: Path) -> None:
    new = make_bundle(tmp_path / "new.catflap", name="next", sharpness=0.07)
    with running(quick, "--canary", new, "--share", "0.25") as server:
        versions = [server.predict(RED).json()["version"] for _ in range(40)]
        assert versions.count(version(new)) == 10
        assert server.ask("/v2/models/cat").json()["versions"] == [version(quick), version(new)]
        stated = f"/predict?version={version(new)}"
        assert server.ask(stated, RED, {"Content-Type": "image/jpeg"}).json()["version"] == version(new)
        assert server.ask("/v2/models/next").status == 404


@pytest.mark.slow
def test_only_requests_with_photos_are_turns_of_the_canary(tmp_path: Path, quick: Path) -> None:
    new = make_bundle(tmp_path / "new.catflap", sharpness=0.07)
    versions = []
    with running(quick, "--canary", new, "--share", "0.25") as server:
        for _ in range(20):
            assert server.ask("/v2/models/cat/ready").status == 200
            assert server.ask("/v2/models/cat").status == 200
            assert server.ask("/predict", *form()).status == 400
            assert server.ask("/predict", *form(("a.jpg", b"no photo"))).status == 422
            assert server.predict(b"no photo").status == 422
            assert server.ask("/v2/models/cat/infer", b"{}").status == 400
            assert server.ask("/v2/models/cat/infer", NO_PHOTO).status == 400
            versions.append(server.predict(RED).json()["version"])
    assert versions.count(version(new)) == 5


def test_a_shadow_is_counted_and_not_heard(tmp_path: Path, quick: Path) -> None:
    opposite = make_bundle(tmp_path / "new.catflap", sharpness=-0.05)
    with running(quick, "--shadow", opposite) as server:
        replies = [server.predict(photo).json() for photo in (RED, BLUE, b"no photo") for _ in range(3)]
        assert {reply.get("label") for reply in replies} == {"cat", "not_cat", None}
        assert {reply["version"] for reply in replies} == {version(quick)}

        def counted(result: str) -> float:
            return server.metric("catflap_shadow_total", result=result)

        eventually(lambda: sum(map(counted, ("same", "other", "skipped"))) == 9)
        assert counted("other") >= 1
        low, high = (server.metric("catflap_shadow_changed", bound=bound) for bound in ("low", "high"))
        assert 0 < low < high <= 1
        assert server.metric("catflap_shadow_verdict") == -1, "it decides the other way round"
        assert counted("skipped") <= 4, "nothing else was to do"


@pytest.mark.slow
@pytest.mark.parametrize(("sharpness", "verdict"), [(0.07, 0), (-0.05, -1)])
def test_a_canary_is_compared_by_the_function_of_diff(
    tmp_path: Path, quick: Path, sharpness: float, verdict: int
) -> None:
    """Twenty photos of which none changes show nothing about a point; all that change show the opposite."""
    new = make_bundle(tmp_path / "new.catflap", sharpness=sharpness)
    with running(quick, "--canary", new, "--share", "0.5") as server:

        def counted(result: str) -> float:
            return server.metric("catflap_shadow_total", result=result)

        for number in range(1, 21):
            for photo in (RED, BLUE):  # one of them by the canary
                server.predict(photo)
            eventually(lambda number=number: sum(map(counted, ("same", "other", "skipped"))) == number)
        assert server.metric("catflap_shadow_verdict") == verdict
        decided = "same" if verdict == 0 else "other"
        assert counted(decided) > 0
        assert counted(decided) + counted("skipped") == 20


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{unfit}"], 1, "fails its verification here: golden:fp32 1"),
        (["{quick}", "{unfit}"], 1, "fails its verification"),
        (["{quick}", "{quick}"], 2, "Two bundles have the same name"),
        (
            ["{quick}", "--shadow", "{foreign}"],
            1,
            "foreign.catflap cannot be the shadow (--shadow). "
            "It decides between dog, cat, cat between cat, not_cat.\n  fix: Name one with the same labels",
        ),
        (
            ["{quick}", "--canary", "{turned}"],
            1,
            "turned.catflap cannot be the canary (--canary). "
            "It decides between not_cat, cat in this order, cat bet",
        ),
        (["{quick}", "--variant", "int4"], 2, "has no variant 'int4'"),
        (["{quick}", "--port", "70000"], 2, "The port (--port) is 70000."),
        (["{quick}", "--canary", "{quick}", "--share", "0"], 2, "The canary's share (--share) is 0.0."),
        (["{quick}", "--reload", "nan"], 2, "The reload interval (--reload) is nan."),
        (["{quick}", "--deadline", "inf"], 2, "The deadline (--deadline) is inf s."),
        (["{quick}", "--queue", "0"], 2, "The queue (--queue) is 0 photos."),
        (["{quick}", "--upload-timeout", "-1"], 2, "The upload timeout (--upload-timeout) is -1 s."),
        (["{quick}", "--max-mb", "2000"], 2, "The size of a body (--max-mb) is 2,000 MB."),
        (["{quick}", "--max-mb", "2000"], 2, "fix: Use more than 0, up to 1,000.\n"),
        (["{quick}", "--max-pixels", "0"], 2, "The size of a photo (--max-pixels) is 0 pixels."),
        (["{quick}", "--connections", "0"], 2, "The number of connections (--connections) is 0."),
        (["{quick}", "--threads", "0"], 2, "The number of threads (--threads) is 0."),
        (["{quick}", "--host", "256.1.1.1"], 2, "Cannot listen on 256.1.1.1"),
        (["{quick}", "--tls-key", "{quick}"], 2, "without its certificate"),
        (["{quick}", "--tls-cert", "{quick}"], 2, "TLS certificate or key cannot be used"),
        (["{quick}", "--keys", "nowhere"], 2, "The keys file nowhere cannot be read"),
        (["{quick}", "--keys", "{quick}"], 2, "fix: Name a UTF-8 text file with one key a line."),
        (["{strange}"], 1, "does not fit its baseline"),
        (["nowhere.catflap"], 2, "nowhere.catflap cannot be read"),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_listens(
    tmp_path: Path, quick: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    names = ("unfit", "foreign", "strange", "turned")
    unfit, foreign, strange, turned = (tmp_path / f"{name}.catflap" for name in names)
    if "{unfit}" in words:
        make_bundle(unfit, name="unfit", golden_shift=1.0)
    if "{foreign}" in words:
        make_bundle(foreign, labels=("dog", "cat"))
    if "{strange}" in words:
        strange_bundle(strange, "cat")
    if "{turned}" in words:
        make_bundle(turned, labels=("not_cat", "cat"), sharpness=-0.05)
    paths = {"unfit": unfit, "quick": quick, "foreign": foreign, "strange": strange, "turned": turned}
    filled = [word.format(**paths) for word in words]
    ports = [] if "--port" in words else ["--port", "0"]
    assert main(["serve", *filled, *ports]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "\n  fix: " in printed.err


def test_every_limit_is_checked() -> None:
    assert set(LIMITS) == set(ServeLimits.__dataclass_fields__)


def test_a_port_that_is_taken_is_one_sentence(
    server: Server, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(quick), "--port", str(server.port)]) == 2
    stderr = capsys.readouterr().err
    assert f"Cannot listen on 127.0.0.1 port {server.port}: Address already in use." in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "{port}"], "Cannot listen on 127.0.0.1 port"),
        (["--port", "0", "--tls-cert", "{unfit}"], "TLS certificate or key cannot be used"),
    ],
)
def test_a_slip_of_the_pen_is_told_before_a_bundle_is_verified(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    unfit = make_bundle(tmp_path / "unfit.catflap", golden_shift=1.0)
    filled = [word.format(port=server.port, unfit=unfit) for word in words]
    assert main(["serve", str(unfit), *filled, "--log", str(tmp_path / "field.log")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "field.log").exists()


def test_a_server_whose_address_nobody_takes_lets_go_of_all(tmp_path: Path, quick: Path) -> None:
    addresses = []

    def gone(fields: dict[str, Any]) -> None:
        addresses.append(fields["url"])
        raise BrokenPipeError

    log = LogSettings(tmp_path / "field.log")
    with pytest.raises(BrokenPipeError) as caught:  # whose traceback would keep a socket that is left open
        serve(ServeSettings((quick,), port=0, log=log), gone)
    with pytest.raises(URLError, match="refused"):
        urlopen(f"{addresses[0]}/healthz", timeout=10)
    assert "field log" not in {thread.name for thread in threading.enumerate()}
    assert caught.tb is not None


@pytest.mark.slow
def test_an_address_for_everybody_without_keys_is_pointed_out(quick: Path) -> None:
    with running(quick, "--host", "0.0.0.0") as server:
        assert server.predict(RED).status == 200
        assert "Warning: no authentication. Anyone who can reach this address can use it." in server.log()
