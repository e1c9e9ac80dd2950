"""Bundles inspected, unpacked, stripped and written (verified first), with the base install."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.bundle import (
    HEAD,
    SUFFIX,
    Bundle,
    as_variant,
    encode_bundle,
    load_bundle,
    refuse_foreign_file,
)
from catflap.artifacts.folder import atomic_folder, atomic_path, check_place, write_bytes
from catflap.artifacts.golden import Golden, encode_golden, read_golden
from catflap.artifacts.schema import digest
from catflap.errors import CatflapError, Refused
from catflap.exporting.card import card, how_to_run
from catflap.runtime.decisions import point_specs
from catflap.runtime.engine import engine_error, open_members
from catflap.runtime.golden_checks import check_bundle, golden_decisions, golden_ood_scores, threshold_probes
from catflap.runtime.ood import are_unknown

CARD = "card.md"


def inspect_bundle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The contents of a Bundle, every hash checked: labels, frame, variants, files, ancestors, licences."""
    bundle = load_bundle(path)
    return {
        "bundle": os.fspath(path),
        "name": bundle.name,
        "format": bundle.head["catflap_bundle"],
        "sha256": bundle.sha256,
        "labels": list(bundle.labels),
        "frame": bundle.frame.to_json(),
        "default_variant": bundle.default_variant,
        "variants": [_shown(bundle, name) for name in bundle.variants],
        "untested": bundle.untested,
        "golden_cases": bundle.head["golden"]["cases"],
        "files": [{"file": name, **entry} for name, entry in bundle.head["files"].items()],
        "ancestors": bundle.head["ancestors"],
        "licences": bundle.head["licences"],
        "versions": bundle.head["versions"],
    }


def _shown(bundle: Bundle, name: str) -> dict[str, Any]:
    variant = bundle.variants[name]
    accuracy = variant.metrics.get("accuracy", {})
    return {
        "variant": name,
        "runtime": variant.runtime,
        "precision": variant.precision,
        "bytes": bundle.size_of(variant),
        "accuracy": accuracy.get("value") if isinstance(accuracy, dict) else None,
        "flips": variant.fidelity["flips"],
        "runs_here": engine_error(variant) is None,
        **({"operating_points": points} if (points := [spec.name for spec in point_specs(variant)]) else {}),
    }


def unpack_bundle(path: str | os.PathLike[str], out: Path) -> dict[str, Any]:
    """Write every file of a Bundle into a new folder, for tools that read plain files."""
    bundle = load_bundle(path)
    with atomic_folder(out, HEAD) as partial:
        for name, data in bundle.members.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
    return {
        "folder": str(out),
        "files": list(bundle.members),
        "bytes": sum(map(len, bundle.members.values())),
    }


def strip_bundle(path: str | os.PathLike[str], out: Path, variants: tuple[str, ...]) -> dict[str, Any]:
    """Write a new, smaller Bundle with only some variants; the first is its default.

    Their metrics and golden cases stay as they were measured; the old Bundle becomes an ancestor.
    Raises Refused when a golden case fails here, and CatflapError when the file would be itself.
    """
    bundle = load_bundle(path)
    check_new(bundle, out)
    if not variants:
        raise CatflapError("No variant was named.", f"Use some of: {', '.join(bundle.variants)}.")
    for name in variants:
        bundle.variant(name)
    golden = read_golden(bundle)
    head = derived_head(bundle, ["strip", *variants])
    head["default_variant"] = variants[0]
    head["variants"] = {name: bundle.head["variants"][name] for name in variants}
    kept = {member for name in variants for member in bundle.variants[name].members}
    head.pop("untested", None)
    every = {member for one in bundle.variants.values() for member in one.members}
    dropped = (every | {entry["file"] for entry in bundle.untested.values()}) - kept
    files = {name: data for name, data in other_files(bundle).items() if name not in dropped}
    kept_golden = replace(
        golden,
        logits={name: golden.logits[name] for name in variants},
        probes={name: rows for name, rows in golden.probes.items() if name in variants},
        probabilities={name: rows for name, rows in golden.probabilities.items() if name in variants},
        decisions={name: rows for name, rows in golden.decisions.items() if name in variants},
        ood={name: scores for name, scores in golden.ood.items() if name in variants},
        unknown={name: flags for name, flags in golden.unknown.items() if name in variants},
    )
    sha256 = write_verified(out, head, files, kept_golden)
    return {
        "bundle": str(out),
        "verdict": "pass",
        "sha256": sha256,
        "bytes": out.stat().st_size,
        "before": sum(map(len, bundle.members.values())),
        "default_variant": variants[0],
        "variants": list(variants),
    }


def check_new(bundle: Bundle, out: Path) -> None:
    """Raise CatflapError when a Bundle would be written over itself, or over a foreign file."""
    check_out(out)
    if out.exists() and bundle.path.exists() and out.samefile(bundle.path):
        raise CatflapError(f"{out} is the bundle itself.", "Choose another output name.")


def derived_head(bundle: Bundle, settings: list[str]) -> dict[str, Any]:
    """The bundle.json of a Bundle derived from this one, which becomes its ancestor."""
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    head["made_from"] = digest([bundle.sha256, *settings])
    head["ancestors"] = {**head["ancestors"], "bundle": bundle.sha256}
    return head


def other_files(bundle: Bundle) -> dict[str, bytes]:
    """The files of a Bundle except those written anew: bundle.json, the golden cases and our card."""
    again = {HEAD, bundle.head["golden"]["file"], *([CARD] if "training" in bundle.head else [])}
    return {name: bytes(data) for name, data in bundle.members.items() if name not in again}


def check_out(out: Path) -> None:
    """Raise CatflapError when a Bundle may not be written there; called before any work."""
    if not out.name.endswith(SUFFIX):
        raise CatflapError(f"A bundle's name ends with {SUFFIX}.", f"Use: -o {out.name}{SUFFIX}")
    check_place(out)
    refuse_foreign_file(out)


def name_of(out: Path) -> str:
    """The file name without its suffix, with characters that a bundle's name may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", out.name.removesuffix(SUFFIX)).strip("-.")[:100] or "bundle"


def write_verified(out: Path, head: dict[str, Any], files: Mapping[str, bytes], golden: Golden) -> str:
    """Write a Bundle with card and golden cases, and return its sha256.

    Raises Refused, and leaves nothing behind, when a golden case fails on this machine.
    """
    probes, probabilities = dict(golden.probes), dict(golden.probabilities)
    decisions = dict(golden.decisions)
    for name in sorted(
        head["variants"].keys() - decisions.keys()
    ):  # those of a Bundle before stay as recorded
        variant = head["variants"][name]
        rule = (variant["temperature"], variant["decision"])
        probes[name] = threshold_probes(len(head["labels"]), *rule)
        logits = np.concatenate([golden.logits[name], probes[name]])
        probabilities[name], decisions[name] = golden_decisions(logits, head["labels"], *rule)
    ood, unknown = dict(golden.ood), dict(golden.unknown)
    for name in sorted(head["variants"].keys() - unknown.keys()):
        if (stated := head["variants"][name].get("unknown")) is None:
            continue
        variant = as_variant(name, head["variants"][name])
        model = open_members(files, variant, output=head["output"]["name"])
        ood[name] = golden_ood_scores(variant, head["labels"], model, golden.frames, golden.logits[name])
        unknown[name] = are_unknown(ood[name], stated["threshold"])
    whole = replace(
        golden, probes=probes, probabilities=probabilities, decisions=decisions, ood=ood, unknown=unknown
    )
    head = {**head, "run": how_to_run(head)}
    members = {**files, head["golden"]["file"]: encode_golden(whole)}
    if "training" in head:
        members[CARD] = card(head).encode("utf-8")
    data = encode_bundle(out, head, members)
    with atomic_path(out) as partial:
        write_bytes(partial, data)
        failed = [check.name for check in check_bundle(load_bundle(partial)) if not check.passed]
        if failed:
            raise Refused(f"The new bundle does not pass: {', '.join(failed)}.", "Run: catflap doctor")
    return hashlib.sha256(data).hexdigest()
