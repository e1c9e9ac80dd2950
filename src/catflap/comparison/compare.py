"""The verb `compare`: training beside inference, measured in both environments, as a table and a page."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from catflap.artifacts.dataset import load_dataset
from catflap.artifacts.folder import check_place, write_atomically
from catflap.artifacts.golden import read_golden
from catflap.comparison.environment import licences, vulnerabilities
from catflap.errors import BadArtifact, CatflapError, need
from catflap.evaluation.charts import render
from catflap.machine import installed_packages
from catflap.progress import Progress, silent
from catflap.runtime.bench import device_slowdown, load_profile, machine
from catflap.runtime.engine import choose_variant

STARTS = 3
# Operations that one update takes a weight, counted from the rules of torch's SGD (weight decay, Nesterov
# momentum) and AdamW; 3 more keep the running average. torch's FLOP counter leaves them out.
UPDATE_FLOPS = {"sgd": 8 + 3, "adamw": 14 + 3}
NOT_READABLE = "not readable here"
KICKER = "Catflap: compare"


def compare(
    checkpoint: Path | str | None,
    bundle: Path | str,
    *,
    variant: str | None = None,
    profiles: Sequence[Path | str] = (),
    advisories: Path | None = None,
    out: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Training beside inference, measured here or by `train`; docs/reference/json.md lists the fields.

    Without a checkpoint `training` is None. `profiles` are files that `catflap bench --profile` wrote on
    other devices: the network's time there is estimated from them. `advisories` is an OSV database in which
    the packages of both sides are looked up. With `out` a page is written. What cannot be read is None. The
    photos/s of a training whose features were all cached are None.
    """
    shipped = load_bundle(bundle)
    trained = None if checkpoint is None else load_checkpoint(checkpoint)
    name = choose_variant(shipped, variant).name
    check_pair(trained, shipped)
    if out is not None:
        need("jinja2")
        check_page(out, KICKER)
    devices = [load_profile(path) for path in profiles]
    progress("compare", 0, 2)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo"
        photo.write_bytes(read_golden(shipped).photos[0])
        training = None if trained is None else _training_side(trained, photo, advisories)
        progress("compare", 1, 2)
        inference = _device_side(trained, shipped, name, photo, advisories)
        progress("compare", 2, 2)
    found: dict[str, Any] = {"training": training, "inference": inference, "machine": machine()}
    if devices:
        found["devices"] = [
            {"device": device.name(), "network_ms": device_slowdown(device) * inference["network_ms"]}
            for device in devices
        ]
    if out is not None:
        write_atomically(out, compare_page(found, shipped.name).encode("utf-8"))
        found["page"] = str(out)
    return found


def check_pair(trained: Checkpoint | None, shipped: Bundle) -> None:
    """Raise CatflapError when a Bundle was exported from another Checkpoint."""
    if trained and shipped.head["ancestors"].get("checkpoint") not in (None, trained.sha256):
        raise CatflapError(
            f"{shipped.path} was not exported from {trained.path}.", "Name the checkpoint it came from."
        )


def check_page(out: Path, kicker: str) -> None:
    """Raise CatflapError where no page may be written, as over a file that is not such a page."""
    check_place(out)
    if out.exists() and kicker.encode() not in out.read_bytes():
        raise CatflapError(f"{out} exists and is not such a page.", "Choose another name.")


def _training_side(trained: Checkpoint, photo: Path, advisories: Path | None) -> dict[str, Any]:
    cost = trained.cost
    forward, backward = cost["flops_forward"], cost["flops_backward"]
    seen = cost["photo_passes"] + cost.get("cached_photos", 0)
    learnt = cost.get("learnt_photos", seen)
    settings = _loop_settings(trained)
    weights = _weights(trained)
    update = 0.0
    if learnt and settings:
        update = UPDATE_FLOPS[settings["optimiser"]] * weights / settings["batch"]
    whole = forward * seen + (backward + update) * learnt
    probed = _probed("training", trained.path, photo, "")
    return {
        **_side(probed, ("train",), advisories),
        "flops_a_photo": forward + backward + update,
        "flops_forward": forward,
        "flops_backward": backward,
        "flops_update": update,
        "flops_in_all": whole,
        "predictions_of_the_same_cost": whole / forward if forward else None,
        "seconds": cost["seconds"],
        "photos_per_second": cost["photos_per_second"] or None,
        "peak_memory_mb": cost["peak_memory_mb"],
        "model_bytes": (trained.path / WEIGHTS).stat().st_size,
        "weights": weights,
        "photos_in": _photos_in(trained),
        "recipe": trained.recipe,
        "precision": str(settings.get("precision", "32-true")),
        "batch": settings.get("batch"),
        "device": cost["device"],
        "threads": cost["threads"],
        "joules": cost["joules"],
    }


def _device_side(
    trained: Checkpoint | None, shipped: Bundle, name: str, photo: Path, advisories: Path | None
) -> dict[str, Any]:
    variant = shipped.variant(name)
    probed = _probed("inference", shipped.path, photo, name)
    forward = None if trained is None else trained.cost["flops_forward"]
    return {
        **_side(probed, (), advisories),
        "flops_a_photo": forward,
        "flops_forward": forward,
        "flops_backward": 0,
        "flops_update": 0,
        "flops_in_all": forward,
        "predictions_of_the_same_cost": 1,
        "seconds": probed["milliseconds_an_answer"] / 1e3,
        "photos_per_second": 1e3 / probed["milliseconds_an_answer"],
        "peak_memory_mb": probed["answering_memory_mb"],
        "model_bytes": shipped.size_of(variant),
        "weights": None if trained is None else _weights(trained),
        "photos_in": 1,
        "recipe": variant.name,
        "precision": variant.precision,
        "batch": 1,
        "device": variant.runtime,
        "threads": 1,
        "joules": probed["joules_an_answer"],
    }


def _side(probed: dict[str, Any], extras: tuple[str, ...], advisories: Path | None) -> dict[str, Any]:
    """What both sides have: the probe's figures, and the packages with sizes and licences."""
    packages = installed_packages(extras)
    found = None if advisories is None else vulnerabilities(packages, advisories)
    return {
        **probed,
        "packages": len(packages),
        "packages_mb": sum(packages.values()),
        "licences": licences(packages),
        "vulnerabilities": found,
    }


def _loop_settings(trained: Checkpoint) -> dict[str, Any]:
    """The settings of the loop that trained every weight; empty where none did."""
    return next((entry for entry in trained.history if entry.get("step") == "settings"), {})


def _weights(trained: Checkpoint) -> int:
    """The number of a Checkpoint's weights, from the header of its safetensors file."""
    with open(trained.path / WEIGHTS, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"].startswith(("F", "BF")):
            count = 1
            for side in entry["shape"]:
                count *= side
            total += count
    return total


def _photos_in(trained: Checkpoint) -> int | None:
    """How many photos training learnt from or was chosen by; None when the Dataset is no longer there."""
    try:
        dataset = load_dataset(trained.dataset_path)
    except BadArtifact:
        return None
    if dataset.sha256 != trained.ancestors.get("dataset"):
        return None
    roles = ("train", "validation", *(["calibration"] if trained.has_learnt_calibration else []))
    return sum(dataset.roles[role] for role in roles)


def _probed(side: str, model: Path, photo: Path, variant: str) -> dict[str, Any]:
    """Measure in fresh processes; the cold start is the time of a whole process without its timed runs."""
    probe = "catflap.comparison.probe"  # -P: import nothing from the working directory
    command = [sys.executable, "-P", "-m", probe, side, str(model), str(photo), variant]
    starts, answers = [], []
    for _ in range(STARTS):
        start = perf_counter()
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        whole = perf_counter() - start
        if process.returncode:
            raise CatflapError(
                f"The {side} side cannot be measured: {process.stderr.strip().splitlines()[-1:]}.",
                "Run: catflap doctor",
            )
        answers.append(json.loads(process.stdout))
        starts.append(whole - answers[-1]["timed_seconds"])
    middle = sorted(answers, key=lambda answer: answer["milliseconds"])[STARTS // 2]
    return {
        "seconds_to_first_answer": median(starts),
        "milliseconds_an_answer": middle["milliseconds"],
        "latency": middle["percentiles"],
        "network_ms": middle["network_ms"],
        "answering_memory_mb": max(answer["memory_mb"] for answer in answers),
        "joules_an_answer": middle["joules"],
        "same_bits": all(answer["same_bits"] for answer in answers),
        "connections": max(answer["connections"] for answer in answers),
        "modules": middle["modules"],
        "libraries": middle["libraries"],
    }


# --- The table


Shown = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Row:
    """A line of the table; `training` and `inference` format a side; `number` gives what the ratio is of."""

    what: str
    training: Shown
    inference: Shown
    number: str | None = None
    why: str = ""


def _number(
    field: str, unit: float = 1.0, words: str = "", empty: str = "–"
) -> Callable[[Mapping[str, Any]], str]:
    def shown(side: Mapping[str, Any]) -> str:
        value = side[field]
        return empty if value is None else f"{_plain(value / unit)}{words}"

    return shown


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def _both(what: str, field: str, unit: float, why: str = "", empty: str = "–") -> Row:
    shown = _number(field, unit, "", empty)
    return Row(what, shown, shown, field, why)


def _latency(side: Mapping[str, Any]) -> str:
    taken = side["latency"]
    return " / ".join(f"{taken[p]:.3g}" for p in ("p50", "p90", "p99")) + f" ms (n = {taken['n']})"


def _licences(side: Mapping[str, Any]) -> str:
    entries = list(side["licences"].items())
    rest = sum(count for _, count in entries[8:])
    named = ", ".join(f"{name} {count}" for name, count in entries[:8])
    return named + (f", others {rest}" if rest else "")


def _advisories(side: Mapping[str, Any]) -> str:
    found = side["vulnerabilities"]
    if found is None:
        return "no database given"
    return ", ".join(f"{row['id']} ({row['package']} {row['version']})" for row in found) or "none known"


def _words(words: str) -> Shown:
    return lambda _: words


def _learning_from(side: Mapping[str, Any]) -> str:
    photos = "" if side["photos_in"] is None else f"{side['photos_in']:,} "
    return f"{photos}photos with labels"


def _hardware(side: Mapping[str, Any]) -> str:
    return f"{side['device']}, {side['threads']} threads"


def _precision(side: Mapping[str, Any]) -> str:
    return (
        str(side["precision"])
        .replace("32-true", "fp32")
        .replace("bf16-mixed", "bf16")
        .replace("16-mixed", "fp16")
    )


def _bits(side: Mapping[str, Any]) -> str:
    return "every answer had the same bits" if side["same_bits"] else "answers differed in their bits"


def _connected(side: Mapping[str, Any]) -> str:
    return "none was opened" if not side["connections"] else f"{side['connections']} calls to the network"


GROUPS: Mapping[str, tuple[Row, ...]] = {
    "What it is for": (
        Row("purpose", _words("find weights that fit labelled photos"), _words("decide about one photo")),
        Row("how often", _words("once for each version"), _words("once for each photo, for years")),
        Row("data in", _learning_from, _words("one photo, without a label")),
        Row("data out", _number("weights", 1, " weights and statistics"), _words("a label, or “unsure”")),
        Row("weights", _words("change with every step"), _words("never change")),
    ),
    "Compute": (
        _both("forward pass, MFLOP a photo", "flops_forward", 1e6, "by torch; a multiply-add is two"),
        _both("backward pass, MFLOP a photo", "flops_backward", 1e6, "0 where only a head was trained"),
        _both("optimiser, MFLOP a photo", "flops_update", 1e6, "counted from its rule, for a batch"),
        _both("all of it, GFLOP", "flops_in_all", 1e9, "all photos of the training, or one prediction"),
        _both("predictions of the same compute", "predictions_of_the_same_cost", 1),
    ),
    "Time": (
        _both("in all, s", "seconds", 1, "the whole training, or one answer"),
        _both("photos per second", "photos_per_second", 1, "", "– (features were cached)"),
        Row("one answer, one thread, p50 / p90 / p99", _latency, _latency, "milliseconds_an_answer"),
        _both("start to first answer, s", "seconds_to_first_answer", 1),
    ),
    "Memory, disk and energy": (
        _both("peak memory, MB", "peak_memory_mb", 1),
        _both("memory to answer, MB", "answering_memory_mb", 1),
        _both("packages", "packages", 1),
        _both("packages, MB", "packages_mb", 1),
        _both("model, MB", "model_bytes", 1e6),
        _both("energy in all, J", "joules", 1, "of all programs meanwhile", NOT_READABLE),
    ),
    "Numbers and hardware": (
        Row("precision", _precision, _precision),
        Row(
            "photos at once",
            lambda side: "a head: all features" if side["batch"] is None else f"a batch of {side['batch']}",
            _words("1"),
        ),
        Row("hardware", _hardware, _hardware),
        Row("repeatable", _bits, _bits, None, "50 answers to one photo"),
        Row("network", _connected, _connected, None, "connections that the process asked for"),
    ),
    "What each environment loads": (
        _both("Python modules in the process", "modules", 1),
        _both("shared libraries in the process", "libraries", 1, "", NOT_READABLE),
        Row("licences of the packages", _licences, _licences),
        Row("known vulnerabilities", _advisories, _advisories),
    ),
}
RISKS = (  # what can go wrong, on which side, and the check that catches it
    (
        "training",
        "the same photo, or a burst, in two roles: the test is too easy",
        "catflap prepare",
        "groups of near-duplicates never cross roles",
    ),
    ("training", "wrong labels", "catflap audit", "lists photos whose label may be wrong"),
    (
        "training",
        "the background is learnt instead of the thing",
        "catflap scan",
        "warns of labels that their size, format or look gives away",
    ),
    (
        "training",
        "learning by heart",
        "catflap evaluate",
        "measures on test photos that nothing was chosen by",
    ),
    ("training", "a stop in the middle", "catflap train", "the same command continues with the next batch"),
    (
        "inference",
        "another decoder, resize or colour order than in training",
        "catflap verify",
        "golden cases compare pixels and logits on the device",
    ),
    (
        "inference",
        "int8 answers otherwise than the trained network",
        "catflap export",
        "measures every variant from photo bytes and refuses a bad one",
    ),
    (
        "inference",
        "probabilities that are not calibrated",
        "catflap evaluate",
        "calibration error with its interval",
    ),
    (
        "inference",
        "photos that look different from those of the test",
        "catflap drift",
        "compares the field log with the calibration photos",
    ),
    (
        "inference",
        "a file that was changed or exchanged",
        "catflap verify --key",
        "checks hashes and the signature",
    ),
    (
        "inference",
        "a broken or hostile photo",
        "catflap predict",
        "refuses it with a reason; limits on bytes, pixels and time",
    ),
)


def table(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The comparison as table rows: group, what with unit, training, inference, why, and their ratio.

    The ratio is None where there is nothing to divide.
    """
    training, inference = comparison["training"], comparison["inference"]
    rows = []
    for group, members in GROUPS.items():
        for row in members:
            left = None if training is None else row.training(training)
            ratio = None
            if row.number and training is not None and training[row.number] and inference[row.number]:
                ratio = training[row.number] / inference[row.number]
            rows.append(
                {
                    "group": group, "what": row.what, "training": left, "inference": row.inference(inference),
                    "ratio": ratio, "why": row.why,
                }
            )  # fmt: skip
    return rows


def compare_page(comparison: Mapping[str, Any], name: str) -> str:
    """The comparison as one page that loads nothing."""
    rows = table(comparison)
    return render(
        "compare.html",
        kicker=KICKER,
        title="Training beside inference",
        name=name,
        training=comparison["training"],
        inference=comparison["inference"],
        machine=comparison["machine"],
        devices=comparison.get("devices", []),
        groups={group: [row for row in rows if row["group"] == group] for group in GROUPS},
        risks=RISKS,
        plain=_plain,
        ratio=ratio_words,
    )


def ratio_words(ratio: float | None) -> str:
    """A ratio as text: "1,200 ×", or "1 / 30" where the left is smaller."""
    if ratio is None:
        return ""
    return f"{_plain(ratio)} ×" if ratio >= 1 else f"1 / {_plain(1 / ratio)}"
