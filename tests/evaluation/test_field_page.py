"""The page of a field log: what it says is what was logged, no label can break it, and it holds no photo."""

from __future__ import annotations

import json
from typing import Any

import pytest

from catflap.evaluation.field_page import MAX_PERIODS, field_page
from tests.evaluation.test_report import HOSTILE, TAGS, Page

WINDOW = 200


def window(number: int, labels: tuple[str, ...], alarm: bool = False) -> dict[str, Any]:
    share = 3 + number % 5
    scores = {"confidence": 0.4, "ood_score": 1.5 if alarm else 0.5, "sharpness": 0.1 * share}
    return {
        "first": 1e9 + 3600 * number,
        "last": 1e9 + 3600 * number + 1800,
        "photos": WINDOW,
        "score": max(scores.values()),
        "most": "ood_score",
        "alarm": alarm,
        "scores": scores,
        "decisions": {labels[0]: 10 * share, labels[-1]: WINDOW - 10 * share - 7, "unsure": 7},
        "confidence": [0.9, 0.97, 0.995],
    }


def report(
    count: int, labels: tuple[str, ...] = ("cat", "other"), alarms: tuple[int, ...] = ()
) -> dict[str, Any]:
    """What `catflap drift --json` answers."""
    windows = [window(number, labels, number in alarms) for number in range(count)]
    return {
        "bundle": labels[0],
        "variant": "int8",
        "baseline": "bundle",
        "photos": WINDOW * count + 3,
        "alarm": count - 1 in alarms,
        "latest": windows[-1] if windows else None,
        "prior": {label: 1 / len(labels) for label in labels} if windows else {},
        "windows": windows,
    }


def parsed(fields: dict[str, Any], labels: tuple[str, ...] = ("cat", "other")) -> Page:
    text = field_page(json.loads(json.dumps(fields)), labels, WINDOW)
    assert "$" not in text.replace("$title ${style}", "")
    assert "default-src 'none'" in text
    page = Page(text)
    assert set(page.tags) <= set(TAGS.split())
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    return page


def test_it_says_what_was_logged() -> None:
    page = parsed(report(5, alarms=(1, 4)))
    words = " ".join(page.words)
    assert "1,003 photos of the field" in words
    assert "alarm" in words
    assert "ood_score: score 1.50, the alarm is at 1" in words
    assert "of 5" in words
    assert page.tags.count("tr") == 1 + 2, "a row for each alarm"
    assert sum("ood_score 1.50" in word for word in page.words) == 2 + 2, "in the picture and in the table"
    assert "30 of 200 cat" in words
    assert "7 of 200 unsure" in words
    assert "97.0 %, half of them 90.0 % to 99.5 %" in words
    calm = " ".join(parsed(report(5)).words)
    assert "as tested" in calm
    assert "scores above 1" not in calm


@pytest.mark.parametrize("count", [0, 1, 2, 3, MAX_PERIODS, MAX_PERIODS + 1, 5000])
def test_a_log_of_any_length_fits(count: int) -> None:
    page = parsed(report(count, alarms=(count // 2,)))
    columns = [value for tag, name, value in page.attributes if (tag, name) == ("rect", "class")]
    assert len(columns) <= 3 * MAX_PERIODS
    assert len(columns) == 0 or count
    places = [
        float(value)
        for tag, name, value in page.attributes
        if name in ("x", "y", "cx", "cy", "width", "height")
    ]
    assert all(-1 <= place <= 440 for place in places)
    reported = " ".join(page.words)
    assert ("too few photos" in reported) == (count == 0)
    if count:
        assert "ood_score 1.50" in reported, "the worst of a period is shown"


def test_many_labels_are_the_most_common_and_others() -> None:
    labels = tuple(f"label {number}" for number in range(12))
    fields = report(3, labels)
    for one in fields["windows"]:
        one["decisions"] = {label: 5 + number for number, label in enumerate(labels)}
    words = " ".join(parsed(fields, labels).words)
    assert "label 11" in words
    assert "label 0" not in words.replace("label 10", "")[words.index("Over time") :]
    assert f"{sum(range(5, 12))} of {sum(range(5, 17))} others" in words


def test_a_label_may_be_called_as_the_rest_is() -> None:
    labels = ("a", "b", "c", "d", "others", "f", "g")
    fields = report(1, labels)
    fields["windows"][0]["decisions"] = dict(zip(labels, (50, 40, 30, 30, 30, 10, 10), strict=True))
    words = " ".join(parsed(fields, labels).words)
    assert "30 of 200 others" in words
    assert "20 of 200 all others" in words


@pytest.mark.parametrize("label", HOSTILE)
def test_no_label_becomes_markup(label: str) -> None:
    page = parsed(report(3, (label, "other"), alarms=(1,)), (label, "other"))
    assert not {"script"} & set(page.tags)
    assert "\x00" not in "".join(page.words)


def test_the_same_log_gives_the_same_page() -> None:
    assert field_page(report(7), ("cat", "other"), WINDOW) == field_page(report(7), ("cat", "other"), WINDOW)
