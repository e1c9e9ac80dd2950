"""card.md: what a Bundle is, on what it was trained and what it reaches, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(head: Mapping[str, Any]) -> str:
    """The card of a Bundle, in Markdown, from its bundle.json."""
    frame, training = head["frame"], head["training"]
    roles = ", ".join(f"{count:,} {role}" for role, count in training["roles"].items())
    lines = [
        f"# {head['name']}",
        "",
        f"Decides between: {', '.join(head['labels'][:20])}{' …' if len(head['labels']) > 20 else ''}.",
        "",
        *([head["about"], ""] if head["about"] else []),
        f"- Backbone {training['backbone']}, recipe {training['recipe']}, trained with Catflap "
        f"{head['versions']['catflap']}.",
        f"- Photos: {roles}. Near-duplicates share a role; no test photo was used for any choice.",
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
        *(_decision(name, variant) for name, variant in head["variants"].items()),
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


def _row(name: str, variant: Mapping[str, Any]) -> str:
    accuracy, lost = variant["metrics"]["accuracy"], variant["fidelity"]
    return (
        f"| {name} | {accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}), "
        f"n = {variant['metrics']['photos']} | {lost['flips']} of {lost['photos']} "
        f"| {lost['max_probability_difference']:.4f} |"
    )


def _decision(name: str, variant: Mapping[str, Any]) -> str:
    decision = variant["decision"]
    return (
        f"- {name}: says “unsure” rather than be wrong on more than {100 * decision['error_rate']:.2g} % of "
        f"photos like the {decision['photos']} calibration photos (threshold {decision['threshold']:.4f})."
    )
