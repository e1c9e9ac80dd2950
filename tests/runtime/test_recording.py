"""What `predict` records, and what it keeps of a photo."""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.field_log import LogRow, read_field_log
from catflap.cli.main import main
from catflap.errors import CatflapError
from catflap.exporting.golden_cases import scene
from catflap.image import encode, inspect
from catflap.runtime.classifier import Classifier
from catflap.runtime.recording import LogSettings, Recorder
from tests.tiny import Exported


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(scene(1, 500, 375), "JPEG"))
    return path


def command(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `catflap predict`, run in this process."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["predict", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


def predict(bundle: Path, *words: object) -> list[LogRow]:
    """The rows after `catflap predict --log`."""
    log = bundle.parent / f"{os.urandom(4).hex()}.log"
    _, out, err = command(bundle, *words, "--log", log, "--json")
    assert err == ""
    rows = list(read_field_log(log, pictures=True))
    lines = [json.loads(line) for line in out.splitlines()]
    assert [row.decision for row in rows] == [line["decision"] for line in lines if "decision" in line]
    return rows


def test_predict_records_answers_and_no_picture(tiny_bundle: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    (row,) = predict(tiny_bundle, photo, tmp_path / "bad.jpg", tmp_path / "absent.jpg")
    assert row.photo == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert row.path == str(photo)
    assert row.picture is None
    assert row.model.labels == ("cold", "warm")
    assert row.model.prior == ()
    assert row.verb == "predict"
    assert row.probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_an_embedding_is_recorded_where_the_variant_has_one(
    drawn_bundle: Exported, tiny_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    log = tmp_path / "field.log"
    code, out, _ = command(drawn_bundle.path, photo, "--log", log, "--json")
    assert code == 0
    assert set(json.loads(out)) == {
        "path", "label", "probability", "probabilities", "decision", "ms",
    }  # fmt: skip
    (row,) = read_field_log(log, embeddings=True)
    asked = Classifier(drawn_bundle.path, embed=True)(photo)
    assert asked.embedding is not None
    assert row.embedding is not None
    assert np.abs(row.embedding - asked.embedding).max() <= asked.embedding.max() / 250
    assert row.ood_score == asked.ood_score
    assert row.ood_score is not None
    plain = Classifier(drawn_bundle.path)(photo)
    assert (plain.embedding, plain.ood_score) == (None, None)
    assert plain == replace(asked, ms=plain.ms)
    without = Classifier(tiny_bundle, embed=True)(photo)
    assert (without.embedding, without.ood_score) == (None, None)


def test_pictures_are_kept_only_when_asked_for_and_small(tiny_bundle: Path, photo: Path) -> None:
    (row,) = predict(tiny_bundle, photo, "--log-photos")
    assert row.picture
    assert max(inspect(row.picture).width, inspect(row.picture).height) == 64, "twice the frame"


def test_the_prior_is_recorded(tiny_bundle: Path, photo: Path) -> None:
    (row,) = predict(tiny_bundle, photo, "--prior", "warm=0.01")
    assert dict(row.model.prior) == {"cold": 0.99, "warm": 0.01}


def test_names_that_are_not_utf8_are_recorded(tiny_bundle: Path, photo: Path, tmp_path: Path) -> None:
    strange = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    with open(strange, "wb") as file:
        file.write(photo.read_bytes())
    classifier = Classifier(tiny_bundle, threads=1)
    recorder = Recorder(LogSettings(tmp_path / "x.log"), pytest.fail)
    recorder(classifier, photo.read_bytes(), classifier(photo), "predict", path=os.fsdecode(strange))
    recorder.close()
    (row,) = read_field_log(tmp_path / "x.log")
    assert row.path.endswith("\\xff\\xfe.jpg") or row.path.endswith("\\udcff\\udcfe.jpg")


def test_frames_that_never_were_files_are_recorded(tiny_bundle: Path, tmp_path: Path) -> None:
    classifier = Classifier(tiny_bundle, threads=1)
    recorder = Recorder(LogSettings(tmp_path / "x.log", pictures=True), pytest.fail)
    pixels = scene(2, 90, 60)
    recorder(classifier, pixels, classifier(pixels), "watch", regular=False)
    recorder.close()
    (row,) = read_field_log(tmp_path / "x.log", pictures=True)
    assert row.photo == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert row.picture
    assert not row.regular


def test_a_log_must_have_some_room(tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="1000 bytes"):
        LogSettings(tmp_path / "x.log", limit=1000)


def test_a_log_that_cannot_be_opened_is_one_error(tiny_bundle: Path, photo: Path) -> None:
    code, out, err = command(tiny_bundle, photo, "--log", photo)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 2
