"""card.md: what a Bundle is, on what it was trained and what it reaches, for people."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from catflap.artifacts.schema import faults
from catflap.evaluation.decision_rates import in_words, sets_in_words, shown_rates
from catflap.version import REPOSITORY

# What the format leaves open and the card states: a bundle of another writer may hold something else there.
_NUMBER, _WHOLE, _TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}
_SHARES = ("value", "low", "high")
_PARTS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "about": {"type": "string", "pattern": "."},
        "training": {
            "type": "object",
            "required": ["backbone", "recipe"],
            "properties": {"backbone": _TEXT, "recipe": _TEXT},
        },
        "rate": {
            "type": "object",
            "required": list(_SHARES),
            "properties": dict.fromkeys(_SHARES, _NUMBER),
        },
        "roles": {"type": "object", "minProperties": 1, "additionalProperties": _WHOLE},
        "metrics": {
            "type": "object",
            "required": ["accuracy", "photos"],
            "properties": {
                "photos": _WHOLE,
                "accuracy": {
                    "type": "object",
                    "required": list(_SHARES),
                    "properties": dict.fromkeys(_SHARES, _NUMBER),
                },
            },
        },
    }
)


def how_to_run(head: Mapping[str, Any]) -> dict[str, str]:
    """One line each: how to run a Bundle in Python, as a page, on Android and in C, and its specification."""
    name, frame, variants = head["name"], head["frame"], head["variants"]
    of = {one["runtime"]: one["file"] for one in reversed(variants.values())}
    decide = "then temperature, softmax and threshold as specified"
    lines = {
        "python": (
            f"pip install catflap or its wheel; catflap verify {name}.catflap; "
            f"catflap predict {name}.catflap PHOTO"
        ),
        "page": f"catflap web {name}.catflap, and put the folder {name}-site on any web server",
    }
    if "litert" in of:
        lines["android"] = (
            f"LiteRT runs {of['litert']}: float32 RGB from 0 to 255, 1 x {frame['height']} x "
            f"{frame['width']} x 3, to logits; {decide}"
        )
    if "onnxruntime" in of:
        lines["c"] = (
            f"ONNX Runtime's C interface runs {of['onnxruntime']}: uint8 RGB, n x {frame['height']} x "
            f"{frame['width']} x 3, to logits; {decide}"
        )
    return {**lines, "format": f"{REPOSITORY}/blob/main/docs/reference/bundle.md"}


def card(head: Mapping[str, Any]) -> str:
    """The card of a Bundle, in Markdown, from its bundle.json; what that does not state is left out."""
    frame = head["frame"]
    lines = [
        f"# {head['name']}",
        "",
        f"Decides between: {', '.join(head['labels'][:20])}{' …' if len(head['labels']) > 20 else ''}.",
        "",
        *([head["about"], ""] if _has(head, "about") else []),
        *_training(head),
        f"- Frame: {frame['width']} × {frame['height']} px, {frame['fit']}, {frame['filter']}, "
        f"{frame['decode']} decode.",
        f"- Golden cases: {head['golden']['cases']}. `catflap verify` runs them on your device.",
        "",
        "Measured on the test photos, from their raw bytes through this file's own preprocessing, "
        "with 95 % intervals:",
        "",
        "| variant | accuracy | flips against the checkpoint | largest change of a probability |",
        "|---|---|---|---|",
        *(_row(name, variant) for name, variant in head["variants"].items()),
        "",
        *([f"Converted, but never run: {', '.join(head['untested'])}.", ""] if "untested" in head else []),
        *(line for name, variant in head["variants"].items() for line in _decision(name, variant)),
        *(
            f"- {name} at an operating point: {point_text(point)}."
            for name, variant in head["variants"].items()
            for point in variant.get("operating_points", ())
        ),
        "",
        *(f"- {where.capitalize()}: {line}." for where, line in how_to_run(head).items()),
        "",
        "Shares of the labels in training: "
        + ", ".join(f"{label} {share:.3f}" for label, share in list(head["prior"].items())[:20])
        + ". Where yours differ, state them (`--prior`).",
        "",
        "Ancestors (sha256): "
        + ", ".join(f"{kind} {sha[:12]}" for kind, sha in head["ancestors"].items())
        + ".",
    ]
    if head["licences"]:
        licences = ", ".join(f"{what}: {licence}" for what, licence in head["licences"].items())
        lines += ["", f"Licences: {licences}."]
    return "\n".join(lines) + "\n"


def _has(part: Any, name: str) -> bool:
    """Whether something of this name is there, in the form that the card can state."""
    return isinstance(part, Mapping) and name in part and not faults(part[name], _PARTS[name])


def _training(head: Mapping[str, Any]) -> list[str]:
    training, catflap = head["training"], head["versions"].get("catflap")
    lines = []
    if _has(head, "training"):
        by = "" if catflap is None else f", trained with Catflap {catflap}"
        lines.append(f"- Backbone {training['backbone']}, recipe {training['recipe']}{by}.")
    if _has(training, "roles"):
        roles = ", ".join(f"{count:,} {role}" for role, count in training["roles"].items())
        lines.append(
            f"- Photos: {roles}. Near-duplicates share a role; no test photo was used for any choice."
        )
    return lines


def _row(name: str, variant: Mapping[str, Any]) -> str:
    lost, right = variant["fidelity"], "not stated"
    if _has(variant, "metrics"):
        value, low, high = (variant["metrics"]["accuracy"][share] for share in _SHARES)
        right = f"{value:.4f} ({low:.4f} to {high:.4f}), n = {variant['metrics']['photos']}"
    return (
        f"| {name} | {right} | {lost['flips']} of {lost['photos']} "
        f"| {lost['max_probability_difference']:.4f} |"
    )


def point_text(point: Mapping[str, Any]) -> str:
    """An operating point for people: its name, its threshold, and what it reaches on the test photos."""
    kind, value = next(iter(point["wish"].items()))
    rates = ", ".join(
        f"{what.replace('_', ' ')} {_rate(point['test'], what)}"
        for what in ("recall", "false_positive_rate", "precision")
    )
    note = f"; {point['note']}" if "note" in point else ""
    return (
        f"{point['label']}:{kind}={value:.12g} says {point['label']} at a probability of "
        f"{point['threshold']:.6g} or more; on the test photos {rates}{note}"
    )


def _rate(figures: Mapping[str, Any], name: str) -> str:
    rate = figures.get(name, {})
    if not _has({"rate": rate}, "rate"):
        return "not known"
    return "{value:.4f} ({low:.4f} to {high:.4f})".format(**rate)


def unknown_text(unknown: Mapping[str, Any]) -> str:
    """What the decision "unknown" does, for people."""
    text = f"says “unknown” to at most {100 * unknown['rate']:.3g} % of photos like the calibration photos"
    if "accepted" in unknown:
        text += f"; it accepts a share of {_rate(unknown, 'accepted')} of the test photos"
    if "left_out" in unknown:
        left_out = unknown["left_out"]
        text += (
            f" and refuses {_rate(left_out, 'refused')} of photos of a label that it never learnt (estimated "
            f"by leaving each label out; AUROC {left_out['auroc']:.3f})"
        )
    return f"{text}."


def _decision(name: str, variant: Mapping[str, Any]) -> list[str]:
    """What a variant promises, and what other error rates would leave unsure."""
    decision = variant["decision"]
    lines = []
    if "decisions" in variant:
        rates = variant["decisions"]
        unsure = rates["counts"]["unsure"]
        habit = f"Says “unsure” on {unsure:,} of {rates['photos']:,}" if unsure else "Never said “unsure” on"
        lines += [
            f"- {name}: {in_words(rates)} {habit} test photos; wrong on a share of {_rate(rates, 'wrong')}, "
            f"of those decided {_rate(rates, 'wrong_when_decided')}."
        ]
    lines += [
        f"- {name}: at most {100 * decision['error_rate']:.2g} % of photos like the {decision['photos']} "
        f"calibration photos get a wrong label; where that is not sure, it says “unsure” (threshold "
        f"{decision['threshold']:.4f})."
    ]
    if "unknown" in variant:
        lines += [f"- {name}: {unknown_text(variant['unknown'])}"]
    elif "decisions" in variant:
        lines += [f"- {name}: never says “unknown”: photos of other things get a label, or “unsure”."]
    if "sets" in variant:
        lines += [f"- {name}: {sets_in_words(variant['sets'])}"]
    if "limits" in variant:
        limits = variant["limits"]
        lines += [f"- {name}, a limit: {sentence}" for sentence in limits["sentences"]] or [
            f"- {name}: no slice of {limits['photos']:,} test photos by size, shape, light or sharpness is "
            f"decided significantly worse ({limits['tests']:,} slices)."
        ]
    if rates := shown_rates(decision):
        lines += ["", "  | error rate | unsure |", "  |---|---|"]
        lines += [f"  | {100 * one['error_rate']:.2g} % | {100 * one['unsure']:.1f} % |" for one in rates]
        lines += [""]
    return lines
