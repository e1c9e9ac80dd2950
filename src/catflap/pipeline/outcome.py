"""The outcome of a build in plain words: the person's own photos, what was reached, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.manifest import Manifest
from catflap.data.refusals import refusal_sentence, refusals
from catflap.evaluation.outlook import FEW, curve_points, next_goal, outlook, promised
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import point_specs

TIMED = 9  # test photos whose answers are timed, after WARM_UP of them
WARM_UP = 2
TIMES = ("ms", "sentences")
WEAK, ACCURATE = 0.5, 0.8  # recall of a label that an accuracy over all labels hides


def outcome(
    bundle: Bundle, manifest: Manifest, dataset: Dataset, checkpoint: Checkpoint, *, ms: float
) -> dict[str, Any]:
    """What a build reached, ready for JSON; `sentences` say it to people.

    `photos` counts those found, used and refused, `refused` by kind; `accuracy` is that of the default
    variant on the test photos and `promised` its lower end; `curve` is the measured learning curve and `more`
    what more photos of each label would promise; `of_100` counts photos that the bundle decides, gets wrong,
    is unsure about and calls unknown. `unproven` are the operating points that have too few photos, each with
    how many are missing. `wrong_labels` says how many photos were not learnt from because their label is
    probably wrong, and what share of all labels are, if some surely are. `ms` is how long an answer takes
    here.
    """
    variant, entry = bundle.variant(), bundle.head["variants"][bundle.default_variant]
    accuracy = entry["metrics"]["accuracy"]
    test, points = dataset.photos("test"), curve_points(checkpoint.history)
    used = sum(dataset.roles.values())
    fields: dict[str, Any] = {
        "photos": {"found": manifest.photos, "used": used, "refused": manifest.photos - used},
        "refused": refusals(manifest),
        "left_out": dataset.left_out,
        "not_photos": dict(manifest.skipped),
        "series": manifest.finding("series"),
        "labels": len(dataset.labels),
        "wrong_labels": _wrong_labels(checkpoint, bundle),
        "test_photos": len(test),
        "test_groups": len({*test.groups.tolist()}),
        "accuracy": accuracy,
        "promised": promised(accuracy),
        "weak": weak_labels(entry["metrics"]),
        "curve": points,
        "of_100": _of(100, entry.get("decisions")),
        "of_test": _of(len(test), entry.get("decisions")),
        "unproven": {
            spec.name: point["note"]
            for spec, point in zip(point_specs(variant), variant.operating_points, strict=True)
            if "note" in point
        },
        "mb": round(bundle.path.stat().st_size / 1e6, 2),
        "model_mb": round(bundle.size_of(bundle.variant()) / 1e6, 2),
        "ms": round(ms, 1),
        "next": f"catflap serve {shlex.quote(str(bundle.path))}",
    }
    fields["more"] = outlook(
        points, accuracy, photos=used, groups=fields["test_groups"], labels=len(dataset.labels)
    )
    return {**fields, "sentences": sentences(fields)}


def _wrong_labels(checkpoint: Checkpoint, bundle: Bundle) -> dict[str, Any] | None:
    for entry in checkpoint.history:
        if entry.get("step") == "noise":
            counts = {name: entry[name] for name in ("share", "wrong", "photos")}
            return counts | {"next": f"catflap audit {shlex.quote(str(bundle.path))}"}
    return None


def weak_labels(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The labels of whose test photos fewer than half got the right answer, the weakest first.

    Empty where the accuracy over all labels is low, too, and so hides none.
    """
    accuracy = metrics["accuracy"]["value"]
    if accuracy is None or accuracy < ACCURATE:
        return []
    rows = [(label, row["recall"]["value"], row["support"]) for label, row in metrics["per_class"].items()]
    weak = [(recall, -photos, label) for label, recall, photos in rows if photos and recall < WEAK]
    return [
        {"label": label, "right": round(-recall * photos), "photos": -photos}
        for recall, photos, label in sorted(weak)
    ]


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two outcomes differ in nothing but the time of an answer."""
    return all(one.get(name) == value for name, value in other.items() if name not in TIMES)


def answer_ms(bundle: Bundle, dataset: Dataset) -> float:
    """The median milliseconds of an answer here, from photo bytes to decision, over a few test photos."""
    classifier, photos = Classifier(bundle), dataset.photos("test")
    taken = []
    for number in range(WARM_UP + TIMED):
        photo = photos[number % len(photos)]
        begun = perf_counter()
        classifier(photo)
        taken.append((perf_counter() - begun) * 1e3)
    return median(taken[WARM_UP:])


def sentences(fields: dict[str, Any]) -> list[str]:
    """The outcome for people: photos, accuracy, what more photos would promise, decisions, size and time."""
    low, few = fields["promised"], fields["test_photos"] < 100
    counts = fields["of_test" if few else "of_100"]
    lines = [_photos_sentence(fields)]
    if low is None:
        lines.append("There are no test photos to measure it on.")
    else:
        right = round(fields["accuracy"]["value"] * fields["test_photos"])
        lines.append(
            f"At least {_of_hundred(low)} of 100 new photos like these get the right answer: "
            f"{right:,} of {fields['test_photos']:,} test photos did (95 % confidence)."
        )
        lines.append(_weak_sentence(fields.get("weak", [])))
        lines.append(_more_sentence(fields, low))
    if wrong := fields.get("wrong_labels"):
        lines.append(
            f"{wrong['wrong']:,} of {wrong['photos']:,} photos to learn from probably have a wrong label and "
            f"were not learnt from. To see them: {wrong['next']}"
        )
    if fields.get("series"):
        lines.append(fields["series"])
    if counts:
        wrong = f", {counts['wrong']} of them wrong" if counts["decided"] else ""
        unsure = f"is unsure about {counts['unsure']}"
        unknown = f", and says “unknown” to {counts['unknown']}" if counts["unknown"] else ""
        photos = f"the {fields['test_photos']} test photos" if few else "100 photos"
        lines.append(
            f"Of {photos} it decides {counts['decided']}{wrong}, "
            f"{'' if unknown else 'and '}{unsure}{unknown}."
        )
    lines += [f"{name} is {note}." for name, note in fields["unproven"].items()]
    lines.append(f"{fields['model_mb']:.1f} MB, {fields['ms']:.3g} ms a photo here.")
    return [line for line in lines if line]


def _photos_sentence(fields: dict[str, Any]) -> str:
    photos, refused = fields["photos"], [refusal_sentence(one) for one in fields["refused"]]
    if fields["left_out"]:
        refused.append(f"{fields['left_out']:,} repeat photos of another role")
    if others := fields["not_photos"]:
        kinds = ", ".join(sorted(others)[:3])
        refused.append(f"{sum(others.values()):,} files are no photos ({kinds})")
    number = "photo" if photos["found"] == 1 else "photos"
    used = f"{photos['used']:,} of {photos['found']:,} {number} used"
    return f"{'; '.join([used, *refused])}."


def _weak_sentence(weak: list[dict[str, Any]]) -> str:
    if not weak:
        return ""
    first, others = weak[0], len(weak) - 1
    more = (
        f", and {others:,} more label{'s are' if others > 1 else ' is'} found in less than half"
        if others
        else ""
    )
    number = f"{first['right']:,} of {first['photos']:,} test photos"
    return f"But of {first['label']!r} only {number} did{more}: add photos of what is rare."


def _more_sentence(fields: dict[str, Any], low: float) -> str:
    """What more photos would promise, and why so little is promised where test photos are few."""
    few = fields["test_groups"] < FEW
    head = f"{fields['test_photos']:,} test photos are too few to say more. " if few else ""
    row = next_goal(fields["more"], low)
    if row is not None:
        goal = _of_hundred(row["promised"])
        more = f"About {row['each_label']:,} more photos of each label would promise at least {goal}."
    elif fields["more"] and fields["more"][-1]["promised"] > low:
        last = fields["more"][-1]
        more = (
            f"Even {last['each_label']:,} more photos of each label would promise only "
            f"{_of_hundred(last['promised'])}: check the labels (catflap audit) or train longer (--minutes)."
        )
    else:
        more = ""
    return f"{head}{more}".strip()


def _of_hundred(share: float) -> str:
    return f"{100 * share:.0f}"


def _of(number: int, decisions: dict[str, Any] | None) -> dict[str, int] | None:
    """Of so many photos: those decided, those of them wrong, those unsure and those unknown."""
    if not decisions or decisions["decided"]["value"] is None:
        return None
    decided = round(number * decisions["decided"]["value"])
    wrong = min(decided, round(number * decisions["wrong"]["value"]))
    refused = decisions.get("unknown", {"value": 0})["value"]  # absent before format 1.1
    unknown = min(number - decided, round(number * refused))
    return {"decided": decided, "wrong": wrong, "unsure": number - decided - unknown, "unknown": unknown}
