"""Photos of the field become decisions, and decisions become labels for the next build."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from catflap.artifacts.field_log import FieldLog, LogModel, LogRow, read_field_log
from catflap.cli.main import main
from catflap.curation.field_queue import review_queue, take_photos
from catflap.errors import BadArtifact, CatflapError
from catflap.exporting.golden_cases import scene
from catflap.image import Pixels, encode
from catflap.runtime.classifier import Classifier
from catflap.runtime.recording import digest_photo
from tests.curation.test_page import context, downloaded, opened, press  # noqa: F401
from tests.tiny import TINY, Exported, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Page

BY = LogModel("cat", "a" * 64, "int8", ("cat", "other"))
NEXT = LogModel("cat", "b" * 64, "int8", ("cat", "other"))


def photo(seed: int) -> bytes:
    return encode(scene(seed, 200, 150), "JPEG", quality=90)


def seen(data: bytes, share: float, by: LogModel = BY, verb: str = "serve", **fields: Any) -> LogRow:
    """A row of a photo that is a cat with this probability; its picture is kept."""
    answer = np.array([share, 1 - share], np.float32)
    fields = {"picture": data, **fields}
    return LogRow(1e9, digest_photo(data), by, answer, "unsure", verb, **fields)


def write(path: Path, rows: list[LogRow]) -> Path:
    log = FieldLog(path, limit=10**8, note=pytest.fail)
    for row in rows:
        log.add(row)
    log.close()
    return path


def data_of(queue: Path) -> dict[str, Any]:
    """What the page was given."""
    text = (queue / "review.html").read_text("utf-8")
    embedded = text.partition('id="data"')[2].partition(">")[2].partition("</script>")[0]
    return json.loads(embedded)  # type: ignore[no-any-return]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Sure photos, three that are not, two that a shadow disputes, one in the dark, and copies."""
    rows = [seen(photo(number), 0.99) for number in range(30)]
    rows += [seen(photo(100 + number), 0.5 + number / 10) for number in range(3)]
    for number in range(2):
        data = photo(200 + number)
        rows += [seen(data, 0.95), seen(data, 0.1, NEXT, "shadow", picture=None)]
    rows.append(seen(encode((scene(300, 200, 150) // 12), "JPEG"), 0.99))
    rows.append(seen(encode(scene(100, 200, 150), "JPEG", quality=70), 0.52))  # shows what another does
    rows.append(seen(photo(400), 0.51, picture=None))  # nothing is left of it
    return write(tmp_path / "field.log", rows)


def test_the_most_useful_photos_are_chosen_once_each(log: Path, tmp_path: Path) -> None:
    queue = review_queue(log, tmp_path / "queue")
    assert queue.kinds["disagreement"] == 2
    assert queue.kinds["uncertain"] == 3
    assert queue.kinds["unusual"] >= 1
    assert queue.gone == 1
    cards = data_of(queue.path)["cards"]
    assert len(cards) == queue.photos < 20
    labels = data_of(queue.path)["labels"]
    first = cards[0]
    assert first["kind"] == "disagreement"
    assert (labels[first["label"]], labels[first["suggested"]]) == ("cat", "other")
    dark = digest_photo(encode((scene(300, 200, 150) // 12), "JPEG"))
    assert dark in {card["id"] for card in cards if card["kind"] == "unusual"}
    for card in cards:
        assert digest_photo((queue.path / "photos" / card["id"]).read_bytes()) == card["id"]
        assert card["photo"].startswith("data:image/jpeg")


def test_photos_that_are_strange_to_the_network_are_unusual(tmp_path: Path) -> None:
    """Also where they look like the others and the answer is sure; the strangest come first."""
    rows = [seen(photo(number), 0.99, ood_score=0.5 + number / 100) for number in range(12)]
    rows += [seen(photo(500 + number), 0.99, ood_score=1.1 + number / 10) for number in range(3)]
    rows.append(seen(photo(600), 0.99))  # of a variant that has no embedding
    queue = review_queue(write(tmp_path / "field.log", rows), tmp_path / "queue")
    cards = data_of(queue.path)["cards"]
    strange = [card["id"] for card in cards if card["kind"] == "unusual"][:3]
    assert strange == [digest_photo(photo(500 + number)) for number in (2, 1, 0)]
    assert digest_photo(photo(600)) not in strange


def test_a_shadow_may_know_a_label_that_is_new(tmp_path: Path) -> None:
    more = LogModel("cat", "c" * 64, "int8", ("cat", "dog", "other"))
    dog = np.array([0.1, 0.8, 0.1], np.float32)
    data = photo(7)
    rows = [seen(data, 0.95), LogRow(1e9, digest_photo(data), more, dog, "dog", "shadow")]
    assert review_queue(write(tmp_path / "field.log", rows), tmp_path / "queue").kinds == {"disagreement": 1}
    page = data_of(tmp_path / "queue")
    assert page["labels"] == ["cat", "dog", "other"]
    assert page["labels"][page["cards"][0]["suggested"]] == "dog"


def test_the_dark_is_shown_once(tmp_path: Path) -> None:
    """Frames without anything on them have no hash, and those of one shade are the same picture."""
    random, rows = np.random.default_rng(1), []
    for number in range(12):
        level = 4 if number < 10 else 200
        noise = random.integers(0, 3, (150, 200, 3)) + level
        rows.append(seen(encode(noise.astype(np.uint8), "JPEG"), 0.5 + 0.01 * (number % 2)))
    queue = review_queue(write(tmp_path / "field.log", rows), tmp_path / "queue")
    assert queue.photos == 2
    ids = [card["id"] for card in data_of(tmp_path / "queue")["cards"]]
    assert len(set(ids)) == 2


def test_a_queue_has_a_length(log: Path, tmp_path: Path) -> None:
    assert review_queue(log, tmp_path / "queue", shown=2).photos == 2
    with pytest.raises(CatflapError, match="queue of 0 photos"):
        review_queue(log, tmp_path / "queue", shown=0)


def test_a_file_that_is_still_there_needs_no_picture(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(photo(number))
        rows.append(seen(photo(number), 0.5, path=str(path), picture=None))
    (tmp_path / "1.jpg").write_bytes(b"something else by now")
    queue = review_queue(write(tmp_path / "field.log", rows), tmp_path / "queue")
    assert (queue.photos, queue.gone) == (1, 1)


def test_an_empty_log_gives_an_empty_page(tmp_path: Path) -> None:
    queue = review_queue(write(tmp_path / "field.log", []), tmp_path / "queue")
    assert queue.photos == 0
    assert queue.page.exists()


def test_a_damaged_picture_is_left_out(tmp_path: Path) -> None:
    rows = [seen(photo(1), 0.5, picture=b"not a picture"), seen(photo(2), 0.5)]
    assert review_queue(write(tmp_path / "field.log", rows), tmp_path / "queue").photos == 1


def decisions(path: Path, queue: Path, **made: dict[str, str]) -> Path:
    """A decisions file as the page gives it: for each id a decision."""
    data = data_of(queue)
    was = {card["id"]: data["labels"][card["label"]] for card in data["cards"]}
    lines = [{"id": id, "was": was.get(id, "cat"), **decision} for id, decision in made.items()]
    fields = {"catflap": "decisions", "version": 1, "manifest": data["manifest"], "decisions": lines}
    path.write_text(json.dumps(fields))
    return path


def test_decisions_become_class_folders(log: Path, tmp_path: Path) -> None:
    queue = review_queue(log, tmp_path / "queue").path
    one, two, three, *_ = (card["id"] for card in data_of(queue)["cards"])
    made = {
        one: {"decision": "relabel", "label": "other"},
        two: {"decision": "keep"},
        three: {"decision": "drop", "reason": "too poor to tell"},
        "f" * 64: {"decision": "keep"},
    }
    taken = take_photos(queue, decisions(tmp_path / "decisions.json", queue, **made), tmp_path / "out")
    assert taken.labels["other"] >= 1
    assert (sum(taken.labels.values()), taken.dropped, taken.unknown, taken.stale) == (2, 1, 1, 0)
    assert (tmp_path / "out" / "other" / f"field-{one}.jpg").read_bytes() == (
        queue / "photos" / one
    ).read_bytes()
    found = {path.stem.removeprefix("field-") for path in (tmp_path / "out").rglob("*.jpg")}
    assert found == {one, two}


def test_where_nothing_can_be_written_is_told_before_the_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for out, message in ((tmp_path / "mine", "is not a queue"), (tmp_path / "mine/notes.txt/a", "cannot be")):
        with pytest.raises(CatflapError, match=message):
            review_queue(tmp_path / "absent.log", out)


def test_decisions_that_do_not_fit_are_refused(log: Path, tmp_path: Path) -> None:
    queue = review_queue(log, tmp_path / "queue").path
    path = decisions(tmp_path / "decisions.json", queue, **{"f" * 64: {"decision": "keep"}})
    with pytest.raises(CatflapError, match="None of the 1 decisions"):
        take_photos(queue, path, tmp_path / "out")
    with pytest.raises(BadArtifact, match="not a queue"):
        take_photos(tmp_path, path, tmp_path / "out")
    (queue / "queue.json").write_text('{"catflap": "queue", "version": 1}')
    with pytest.raises(BadArtifact, match="damaged"):
        take_photos(queue, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    hostile = LogModel("cat", "a" * 64, "int8", ("../../cat", "other"))
    queue = review_queue(write(tmp_path / "f.log", [seen(photo(1), 0.6, hostile)]), tmp_path / "queue").path
    (card,) = data_of(queue)["cards"]
    path = decisions(tmp_path / "d.json", queue, **{card["id"]: {"decision": "keep"}})
    with pytest.raises(CatflapError, match="cannot be the name of a folder"):
        take_photos(queue, path, tmp_path / "out")


@pytest.mark.slow
def test_the_page_asks_and_gives_decisions(
    log: Path,
    tmp_path: Path,
    opened: Callable[[Path], Page],  # noqa: F811
) -> None:
    queue = review_queue(log, tmp_path / "queue")
    page = opened(queue.page)
    assert "Taken for cat. Is it other?" in page.locator("#question").inner_text()
    assert "Two bundles" in page.locator("#why").inner_text()
    press(page, "a", "r")
    taken = take_photos(queue.path, downloaded(page, tmp_path), tmp_path / "out")
    assert sum(taken.labels.values()) == 2
    assert taken.labels["other"] >= 1


def purple(number: int) -> Pixels:
    """What is neither of the two colours that the bundle was trained on."""
    return drawn("cat", number) // 2 + drawn("other", number) // 2


@pytest.mark.slow
def test_the_loop_is_closed(drawn_bundle: Exported, drawn_dataset: Any, tmp_path: Path) -> None:
    """A bundle meets a new colour and is unsure, a person says what it is, and the next build knows it."""
    field = tmp_path / "field"
    field.mkdir()
    for number in range(40):
        (field / f"{number}.jpg").write_bytes(encode(purple(500 + number), "JPEG", quality=92))
    log = tmp_path / "field.log"
    run("predict", drawn_bundle.path, field, "--log", log, "--log-photos")
    shutil.rmtree(field)
    assert len(list(read_field_log(log))) == 40
    queue = tmp_path / "queue"
    assert run("review", "queue", log, "-o", queue)["photos"] >= 10
    was = data_of(queue)["labels"]
    made = {
        card["id"]: {"decision": "keep"}
        if was[card["label"]] == "other"
        else {"decision": "relabel", "label": "other"}
        for card in data_of(queue)["cards"]
    }
    message = decisions(tmp_path / "decisions.json", queue, **made)
    run("review", "take", queue, message, "-o", tmp_path / "taken")
    photos = tmp_path / "photos"
    shutil.copytree(drawn_dataset.path.parent / "photos", photos)
    shutil.copytree(tmp_path / "taken" / "other", photos / "other", dirs_exist_ok=True)
    words = ("--size", "64", "--backbone", TINY, "--variants", "fp32")
    run("build", photos, "-o", tmp_path / "next.catflap", *words)
    before, after = (
        np.mean([Classifier(path, "fp32")(purple(number)).probabilities["other"] for number in range(40)])
        for path in (drawn_bundle.path, tmp_path / "next.catflap")
    )
    assert before < 0.5
    assert after > 0.65


def run(*words: object) -> dict[str, Any]:
    """The JSON of a command, which must be fine."""
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        code = main([*map(str, words), "--json"])
    assert code == 0, stdout.getvalue()
    return json.loads(stdout.getvalue().splitlines()[-1])  # type: ignore[no-any-return]
