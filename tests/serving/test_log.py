"""What a server records: photos, tensors and a shadow's answers; and that a full disk stops nothing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.field_log import LogRow, read_field_log
from catflap.cli.main import main
from catflap.evaluation.drift_baseline import make_baseline
from catflap.image import encode
from catflap.runtime.classifier import Classifier
from catflap.serving.registry import Served
from catflap.serving.serve_settings import ServeSettings
from catflap.serving.service import Service, close_service, judge_one, open_service
from tests.serving.bundles import BLUE, RED, SIDE, make_bundle
from tests.serving.client import eventually, form, running
from tests.tiny import Exported

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")


def rows(log: Path) -> list[LogRow]:
    return list(read_field_log(log, pictures=True))


def test_every_way_to_ask_is_recorded(quick: Path, tmp_path: Path) -> None:
    log = tmp_path / "field.log"
    with running(quick, "--log", log) as server:
        assert server.predict(RED).status == 200
        assert server.predict(b"no photo").status == 422
        body, headers = form(("a.jpg", RED), ("b.jpg", BLUE))
        assert server.ask("/predict", body, headers).status == 200
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        pixels = triton.InferInput("pixels", [1, SIDE, SIDE, 3], "UINT8")
        pixels.set_data_from_numpy(np.zeros((1, SIDE, SIDE, 3), np.uint8))
        client.infer("cat", [pixels])
        client.close()
    found = rows(log)
    assert sorted(row.decision for row in found)[:2] == ["cat", "cat"]
    assert len(found) == 4
    assert {row.verb for row in found} == {"serve"}
    assert found[0].photo == hashlib.sha256(RED).hexdigest()
    assert all(row.picture is None for row in found)


def test_a_log_that_is_moved_away_while_it_is_served_loses_no_row(quick: Path, tmp_path: Path) -> None:
    log = tmp_path / "field.log"
    with running(quick, "--log", log) as server:
        for _ in range(10):
            assert server.predict(RED).status == 200
        log.rename(tmp_path / "field.log.1")
        for _ in range(10):
            assert server.predict(BLUE).status == 200
        (tmp_path / "a.jpg").write_bytes(RED)
        assert main(["predict", str(quick), str(tmp_path / "a.jpg"), "--log", str(log)]) == 0
        assert server.stop() == 0
        assert "field.log was moved or deleted; a new log is begun." in server.log()
    old, new = rows(tmp_path / "field.log.1"), rows(log)
    assert len(old) + len(new) == 21
    assert len(old) >= 10 - sum(row.verb == "serve" and row.decision == "cat" for row in new)
    assert "predict" in {row.verb for row in new}


def test_embeddings_are_recorded_and_not_answered(drawn_bundle: Exported, tmp_path: Path) -> None:
    log = tmp_path / "field.log"
    with running(drawn_bundle.path, "--log", log) as server:
        assert "embedding" not in server.predict(RED).body.decode()
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        pixels = triton.InferInput("pixels", [1, 64, 64, 3], "UINT8")
        pixels.set_data_from_numpy(np.zeros((1, 64, 64, 3), np.uint8))
        assert "embedding" not in str(client.infer("tiny", [pixels]).get_response())
        client.close()
    found = list(read_field_log(log, embeddings=True))
    assert [row.embedding is not None and row.ood_score is not None for row in found] == [True, True]


def test_a_shadow_is_recorded_beside_what_was_answered(quick: Path, tmp_path: Path) -> None:
    log = tmp_path / "field.log"
    shadow = make_bundle(tmp_path / "next.catflap", sharpness=-0.05)  # decides the other way round
    with running(quick, "--shadow", shadow, "--log", log, "--log-photos") as server:
        server.predict(RED)
        eventually(lambda: server.metric("catflap_shadow_total", result="other") == 1)
    found = {row.verb: row for row in rows(log)}
    assert (found["serve"].decision, found["shadow"].decision) == ("cat", "not_cat")
    assert found["serve"].photo == found["shadow"].photo
    assert found["serve"].model.version != found["shadow"].model.version
    assert found["serve"].picture


def test_a_full_disk_does_not_stop_the_answers(quick: Path, mount_small: Callable[[str], Path]) -> None:
    small = mount_small("512k")
    with running(quick, "--log", small / "field.log") as server:
        (small / "ballast").write_bytes(bytes(440_000 - sum(f.stat().st_size for f in small.iterdir())))
        for number in range(3000):
            assert server.predict(RED if number % 2 else BLUE).status == 200
            if "cannot be written" in server.log():
                break
        assert server.log().count("cannot be written") == 1
        assert server.predict(RED).json()["decision"] == "cat"


def coloured(random: np.random.Generator, paleness: int = 0) -> bytes:
    """A photo that is somewhat red or somewhat blue."""
    strong = int(random.integers(20, 120)) - paleness
    colour = (130 + strong, 90, 130 - strong) if random.integers(2) else (130 - strong, 90, 130 + strong)
    return encode(np.full((40, 40, 3), np.clip(colour, 0, 255), np.uint8), "PNG")


def baseline_of(bundle: Path, random: np.random.Generator) -> dict[str, Any]:
    """What a bundle says of 400 such photos."""
    classifier = Classifier(bundle)
    answers = [list(classifier(coloured(random)).probabilities.values()) for _ in range(400)]
    return make_baseline(answers, classifier.labels, np.arange(400))


@pytest.mark.slow
def test_drift_is_measured_every_200_photos(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    baseline = baseline_of(make_bundle(tmp_path / "plain.catflap"), random)
    with running(make_bundle(tmp_path / "cat.catflap", baseline=baseline)) as server:

        def score() -> float:
            return server.metric("catflap_drift_score", model="cat", version=server.models["cat"])

        for _ in range(199):
            server.predict(coloured(random))
        assert score() == 0
        server.predict(coloured(random))
        assert 0 < score() < 1
        assert "differ from those" not in server.log()
        for _ in range(200):
            server.predict(coloured(random, paleness=30))
        assert score() > 1
        assert server.log().count("differ from those") == 1


@pytest.fixture
def versions(tmp_path: Path) -> list[bytes]:
    """Three versions of a bundle that measure drift."""
    made = []
    for number in range(3):
        plain = make_bundle(tmp_path / "plain.catflap", sharpness=0.05 + number / 100)
        baseline = baseline_of(plain, np.random.default_rng(number))
        whole = make_bundle(tmp_path / "whole.catflap", sharpness=0.05 + number / 100, baseline=baseline)
        made.append(whole.read_bytes())
    return made


def put(service: Service, data: bytes, served: Path) -> None:
    """Replace a file that is served, and take it up."""
    new = served.with_name("new")
    new.write_bytes(data)
    new.replace(served)
    service.models.refresh(service.note)


def scored(service: Service) -> set[str]:
    """The versions that have a drift score."""
    return set(
        re.findall(r'catflap_drift_score{model="cat",version="(\w+)"}', service.metrics.page()[0].decode())
    )


def judge_many(service: Service, served: Served, count: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(count):
        judge_one(service, served, coloured(random, paleness=30))


@pytest.mark.slow
def test_a_drift_score_goes_with_its_version(tmp_path: Path, versions: list[bytes]) -> None:
    file, notes = tmp_path / "cat.catflap", list[str]()
    file.write_bytes(versions[0])
    service = open_service(ServeSettings((file,)), notes.append)
    old = service.models.default
    judge_many(service, old, 199)
    put(service, versions[1], file)
    judge_many(service, old, 1)  # it was in hand when the new version came
    assert scored(service) == set()
    assert not any("differ from those" in note for note in notes)
    judge_many(service, service.models.default, 200)
    assert scored(service) == {service.models.default.version}
    judge_many(service, service.models.default, 199)
    put(service, versions[0], file)
    assert scored(service) == set()
    put(service, versions[1], file)
    judge_many(service, service.models.default, 1)
    assert scored(service) == set(), "what was seen before it was replaced no longer counts"
    close_service(service)


@pytest.mark.slow
def test_a_drift_score_stays_while_its_version_has_another_role(
    tmp_path: Path, versions: list[bytes]
) -> None:
    file, rival = tmp_path / "cat.catflap", tmp_path / "next.catflap"
    file.write_bytes(versions[0])
    rival.write_bytes(versions[1])
    service = open_service(ServeSettings((file,), canary=rival), print)
    put(service, versions[1], file)
    both = service.models.default.version
    judge_many(service, service.models.default, 200)
    assert scored(service) == {both}
    put(service, versions[2], rival)
    assert scored(service) == {both}, "it is still served"
    put(service, versions[0], file)
    assert scored(service) == set()
    close_service(service)
