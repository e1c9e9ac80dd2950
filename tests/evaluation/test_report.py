"""The Report: whole, unchanged, the same bytes twice, and a page that no label can break."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from catflap.artifacts.report import load_report
from catflap.artifacts.schema import digest
from catflap.errors import BadArtifact, CatflapError
from catflap.evaluation.charts import percent
from catflap.evaluation.examples import Answered, Examples, choose_examples
from catflap.evaluation.metrics import curves, measure
from catflap.evaluation.report_page import learning, write_report
from catflap.image import encode
from catflap.runtime.decisions import softmax

HOSTILE = [
    '<script>alert("1")</script>',
    "a' onload=alert(1) \" & <b>",
    "\u202egnp.tac\x00\x1b[31m",
    "$title ${style}",
]
VOID = {"meta", "img", "br"}
TAGS = """html head meta title style body main header footer section details summary h1 h2 h3 p a
div span bdi b br table caption thead tbody tr th td figure figcaption img dl dt dd
svg line circle rect path text"""


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its tags, attributes and text; tags must be balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def answers(n, k, seed=0, shift=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += shift
    return softmax(logits), labels, np.arange(n)


def photo(seed):
    return encode(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8), "JPEG")


def write(out, n=120, labels=("cat", "other"), title="cats", examples=None):
    p, truth, groups = answers(n, len(labels))
    if examples is None:
        names = [f"{place}.jpg" for place in range(n)]
        examples = choose_examples(p, truth, groups, labels, names, [photo(place) for place in range(n)])
    return write_report(
        out,
        {"int8": measure(p, truth, groups, labels), "fp32": measure(p, truth, groups, labels)},
        title=title,
        labels=labels,
        examples=examples,
        curves={"int8": curves(p, truth, groups, labels)},
        ancestors={"bundle": "ab" * 32},
    )


def test_a_report_is_what_was_measured(tmp_path):
    written = write(tmp_path / "report")
    report = load_report(tmp_path / "report")
    assert report == written
    p, truth, groups = answers(120, 2)
    assert report.variants["int8"] == measure(p, truth, groups, ("cat", "other"))
    assert report.labels == ("cat", "other")
    assert report.ancestors == {"bundle": "ab" * 32}
    json.dumps(report.to_json(), allow_nan=False)
    page = Page(report.page.read_text("utf-8"))
    accuracy = report.variants["int8"]["accuracy"]
    for key in ("value", "low", "high"):
        assert percent(accuracy[key]) in " ".join(page.words)
    assert len(report.mistakes) == int((p.argmax(axis=1) != truth).sum())
    cells = report.variants["int8"]["confusion_matrix"]["photos"]
    assert page.tags.count("img") == len(report.mistakes) + sum(min(8, n) for row in cells for n in row)


def test_the_same_measurements_give_the_same_bytes(tmp_path):
    first, again = write(tmp_path / "one"), write(tmp_path / "two")
    for name in ("report.json", "report.html"):
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes()


def test_a_changed_report_is_refused(tmp_path):
    report = write(tmp_path / "report")
    path = report.path / "report.json"
    fields = json.loads(path.read_text("utf-8"))
    fields["variants"]["int8"]["accuracy"]["value"] = 1.0
    path.write_text(json.dumps(fields), "utf-8")
    with pytest.raises(BadArtifact):
        load_report(report.path)
    del fields["curves"]
    path.write_text(json.dumps(fields), "utf-8")
    with pytest.raises(BadArtifact):
        load_report(report.path)


def test_a_report_replaces_a_report_and_nothing_else(tmp_path):
    write(tmp_path / "report")
    assert write(tmp_path / "report", title="dogs").title == "dogs"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(CatflapError):
        write(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]
    with pytest.raises(CatflapError):
        write_report(
            tmp_path / "x", {}, title="x", labels=["a"], examples=Examples(), curves={}, ancestors={}
        )


@pytest.mark.parametrize("count", [2, 4, 40])
def test_no_string_becomes_markup(tmp_path, count):
    labels = tuple([*HOSTILE, *(f"{HOSTILE[0]}{extra}" for extra in range(40))][:count])
    names = ("\udcff<img src=x onerror=alert(1)>.jpg", '/tmp/"><script>x</script>.jpg', "javascript:alert(1)")
    some = tuple(Answered(name, labels[0], labels[1], 0.9, photo(1)) for name in names)
    examples = Examples(some, some, {(0, 1): some})
    report = write(tmp_path / "report", labels=labels, title=HOSTILE[0], examples=examples)
    raw = report.page.read_text("utf-8")
    page = Page(raw)
    assert "script" not in page.tags
    assert set(page.tags) <= set(TAGS.split())
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "srcset"
        assert name != "href" or re.fullmatch(r"#cell-\d+-\d+|file:///[\w/.%()-]+", value)
        assert name != "src" or (tag == "img" and value.startswith("data:image/jpeg;base64,"))
        assert name != "style" or value.startswith("background:rgb(var(--")
    assert HOSTILE[0] in page.words
    assert "\x00" not in raw
    assert "\x1b" not in raw
    assert "\u202e" not in raw


@pytest.mark.parametrize(
    ("n", "labels"), [(0, ("a", "b")), (1, ("a", "b")), (3, ("a", "b", "c")), (300, tuple("abcdefghijkl"))]
)
def test_few_photos_and_many_labels_still_give_a_page(tmp_path, n, labels):
    report = write(tmp_path / "report", n=n, labels=labels, examples=Examples())
    page = Page(report.page.read_text("utf-8"))
    assert "nan" not in " ".join(value for _, name, value in page.attributes if name != "style").lower()


def test_a_photo_that_cannot_be_shown_says_so(tmp_path):
    mistakes = (
        Answered("broken.jpg", "cat", "other", 0.9, b"no photo"),
        Answered("empty.jpg", "cat", "other", 0.8, b""),
    )
    report = write(tmp_path / "report", examples=Examples(mistakes))
    page = Page(report.page.read_text("utf-8"))
    assert "img" not in page.tags
    assert "broken.jpg" in page.words
    assert report.mistakes[0] == {
        "name": "broken.jpg",
        "true": "cat",
        "predicted": "other",
        "probability": 0.9,
    }


def history(epochs=3, steps=40):
    entries = [
        {"step": "head", "c": c, "standardise": s,
         "validation_log_loss": 0.3 - abs(c - 0.01) - 0.1 * s, "validation_accuracy": 0.9,
         "chosen": not s and c == 0.01}
        for s in (False, True) for c in (0.001, 0.01, 0.1)
    ]  # fmt: skip
    for epoch in range(1, epochs + 1):
        for step in range(1, steps + 1):
            last = (epoch - 1) * steps + step
            entries.append({"step": "steps", "first": last, "last": last, "loss": 1 / last, "rate": 0.01})
        judged = {"validation_log_loss": 0.5 / epoch, "validation_accuracy": 1 - 0.1 / epoch}
        entries.append({"step": "finetune", "epoch": epoch, "train_loss": 1 / epoch, **judged})
    entries += [
        {
            "step": "blend",
            "share": share,
            "validation_log_loss": 0.2 - share * (1 - share),
            "kept": share == 0.5,
        }
        for share in (0.0, 0.5, 1.0)
    ]
    return entries


def with_history(out, entries):
    p, truth, groups = answers(40, 2)
    sections = {"checkpoint": measure(p, truth, groups, ("cat", "other"))}
    return write_report(
        out, sections, title="x", labels=("cat", "other"), examples=Examples(), curves={}, ancestors={},
        learnt=learning(entries),
    )  # fmt: skip


def test_a_report_shows_how_it_was_learnt(tmp_path):
    report = with_history(tmp_path / "report", history())
    assert load_report(report.path) == report
    learnt = report.learning
    assert [path["standardise"] for path in learnt["heads"]] == [False, True]
    assert [path.get("chosen") for path in learnt["heads"]] == [1, None]
    assert learnt["heads"][1]["validation_log_loss"] == pytest.approx([0.191, 0.2, 0.11])
    assert learnt["steps"]["last"] == list(range(1, 121))
    assert learnt["epochs"]["validation_accuracy"] == [1 - 0.1 / epoch for epoch in (1, 2, 3)]
    assert learnt["blends"]["kept"] == 1
    raw = report.page.read_text("utf-8")
    page = Page(raw)
    assert raw.split("<h2>Training")[1].count("<svg") == 5
    assert set(page.tags) <= set(TAGS.split())
    assert "standardised per feature: 0.2 at 0.01" in page.words
    assert raw.count('r="5.5"') == 2, "one head was chosen, one blend kept"
    drawn = next(value for tag, name, value in page.attributes if tag == "path" and value.count("L") == 119)
    across = [float(point.split()[0]) for point in drawn[1:].split("L")]
    assert across == sorted(across)
    assert 56 <= across[0] < across[-1] <= 416


def test_a_search_is_a_table(tmp_path):
    trial = {
        "step": "trial",
        "backbone": "lite<0>",
        "size": 288,
        "fit": "crop",
        "share": 1.0,
        "fp32_ms": 7.25,
        "int8_mb": 3.6,
    }
    best = {
        **trial,
        "validation_log_loss": 0.0412,
        "validation_accuracy": 0.9912,
        "picked": True,
        "epochs": 77,
        "recipe": "finetune",
    }
    report = with_history(tmp_path / "report", [best, {**trial, "validation_log_loss": float("inf")}])
    words = Page(report.page.read_text("utf-8")).words
    assert {"lite<0>", " (picked)", "crop", "0.0412", "99.1 %", "77", "finetune", "–"} <= set(words)
    json.dumps(report.to_json() | report.learning, allow_nan=False)


@pytest.mark.parametrize("value", [None, "<b>", float("nan"), float("inf"), -1.0, 0, 10**400, True, [1]])
def test_no_history_breaks_the_page(tmp_path, value):
    odd = [
        {name: value if name != "step" else kind for name, kind in entry.items()} for entry in history(2, 2)
    ]
    odd += [{"step": "blend"}, {"step": value}, {}, {"step": "head", "c": value}]
    report = with_history(tmp_path / "report", odd)
    assert load_report(report.path) == report
    raw = report.page.read_text("utf-8")
    assert set(Page(raw).tags) <= set(TAGS.split()) - {"img"}
    assert "nan" not in raw.split("<h2>Training")[1].split("Worst mistakes")[0].lower()


def test_a_report_of_before_has_no_learning(tmp_path):
    report = write(tmp_path / "report")
    path = report.path / "report.json"
    fields = json.loads(path.read_text("utf-8"))
    for name in ("sha256", "learning"):
        del fields[name]
    content = {name: value for name, value in fields.items() if name not in ("catflap", "version")}
    path.write_text(json.dumps({**fields, "sha256": digest(content)}), "utf-8")
    assert load_report(report.path).learning == {}


def test_examples_are_the_worst_mistakes_the_least_sure_and_some_of_each_cell():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.99, 0.01], [0.95, 0.05], [0.2, 0.8]])
    truth, groups = np.array([1, 1, 0, 1, 0, 1]), np.array([5, 5, 9, 7, 1, 2])
    photos = [b"0", b"1", b"2", b"3", b"4", b"5"]
    found = choose_examples(p, truth, groups, ["cat", "other"], list("abcdef"), photos)
    assert [(one.name, one.probability, one.photo) for one in found.mistakes] == [
        ("d", 0.99, b"3"),
        ("a", 0.9, b"0"),  # b is of the same group
        ("c", 0.7, b"2"),
    ]
    assert (found.mistakes[0].true, found.mistakes[0].predicted) == ("other", "cat")
    assert [one.name for one in found.least_sure] == ["f", "e"]
    named = {cell: "".join(one.name for one in some) for cell, some in found.cells.items()}
    assert named == {(1, 0): "da", (0, 1): "c", (0, 0): "e", (1, 1): "f"}
    assert next(iter(named)) == (1, 0), "the cell with the most mistakes comes first"


def test_a_cell_opens_its_photos_and_a_photo_its_file(tmp_path):
    names = [str(tmp_path / f"{place} é.jpg") for place in range(120)]
    p, truth, groups = answers(120, 2)
    examples = choose_examples(p, truth, groups, ("cat", "other"), names, [photo(1)] * 120)
    page = write(tmp_path / "report", examples=examples).page.read_text("utf-8")
    for true, other in examples.cells:
        assert f'href="#cell-{true}-{other}"' in page
        assert f'id="cell-{true}-{other}"' in page
    worst = Path(examples.mistakes[0].name)
    assert f'href="{worst.as_uri()}"' in page
    assert f"<bdi>{worst.name}</bdi>" in page


def test_curves_hold_every_photo_and_the_roc_of_scikit_learn():
    p, truth, groups = answers(5000, 2, shift=1.0)
    found = curves(p, truth, groups, ["cat", "other"])
    assert sum(point["photos"] for point in found["reliability"]) == 5000
    assert sum(found["histogram"]["up_photos"]) == (truth == 0).sum()
    assert sum(found["histogram"]["down_photos"]) == (truth == 1).sum()
    (line,) = found["roc"]
    fpr, tpr, _ = reference.roc_curve(truth == 0, p[:, 0], drop_intermediate=False)
    points = {(round(x, 6), round(y, 6)) for x, y in zip(fpr.tolist(), tpr.tolist(), strict=True)}
    drawn = list(zip(line["false_positive_rate"], line["recall"], strict=True))
    assert set(drawn) <= points
    assert (drawn[0], drawn[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert drawn == sorted(drawn)
    assert 50 < len(drawn) <= 400
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(drawn))
    assert area == pytest.approx(reference.roc_auc_score(truth == 0, p[:, 0]), abs=0.01)


def test_of_many_labels_the_hardest_get_a_line():
    p, truth, groups = answers(2000, 8, shift=2.0)
    p = p.copy()
    p[truth == 6] = 1 / 8
    found = curves(p, truth, groups, [f"label {c}" for c in range(8)])
    assert len(found["roc"]) == 5
    assert found["roc"][0]["label"] == "label 6"
    assert found["histogram"]["up"] == "right"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "50.0 %"),
        (1.0, "100.0 %"),
        (0.0, "0.0 %"),
        (0.9996, "99.96 %"),
        (0.0004, "0.04 %"),
        (0.9999999, "> 99.99 %"),
    ],
)
def test_only_what_is_whole_is_shown_as_whole(value, shown):
    assert percent(value) == shown


def test_curves_of_many_labels_take_little_memory():
    """Not a line a label: less than the probabilities that they are drawn from."""
    random = np.random.default_rng(0)
    p, truth = random.dirichlet(np.ones(300), 1000), random.integers(0, 300, 1000)
    tracemalloc.start()
    assert len(curves(p, truth, np.arange(1000), [f"label {c}" for c in range(300)])["roc"]) == 5
    assert tracemalloc.get_traced_memory()[1] < p.nbytes
    tracemalloc.stop()
