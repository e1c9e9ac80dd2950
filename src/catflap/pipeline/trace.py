"""The verb `trace`: the ancestors of an artifact, back to the manifest of its photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import MARKER as CHECKPOINT
from catflap.artifacts.checkpoint import load_checkpoint
from catflap.artifacts.dataset import MARKER as DATASET
from catflap.artifacts.dataset import load_dataset
from catflap.artifacts.manifest import MARKER as MANIFEST
from catflap.artifacts.manifest import load_manifest
from catflap.errors import BadArtifact

ORDER = ("bundle", "checkpoint", "weights", "teacher", "decisions", "dataset", "manifest")


def trace(artefact: Path | str) -> list[dict[str, Any]]:
    """The chain of ancestors, the artifact itself first: kind, sha256 and the known fields of each."""
    path = Path(artefact)
    if not path.is_dir():
        bundle = load_bundle(artefact)
        about = {"name": bundle.name, "labels": list(bundle.labels), "versions": bundle.head["versions"]}
        return _chain("bundle", bundle.sha256, about, bundle.head["ancestors"])
    if (path / CHECKPOINT).is_file():
        checkpoint = load_checkpoint(path)
        about = {
            "backbone": checkpoint.backbone,
            "recipe": checkpoint.recipe,
            "versions": checkpoint.versions,
        }
        older = _before_dataset(checkpoint.dataset_path, checkpoint.ancestors)
        return [*_chain("checkpoint", checkpoint.sha256, about, checkpoint.ancestors), *older]
    if (path / DATASET).is_file():
        dataset = load_dataset(path)
        about = {"roles": dataset.roles, "seed": dataset.seed}
        older = _before_dataset(path, {"dataset": dataset.sha256})
        return [*_chain("dataset", dataset.sha256, about, dataset.ancestors), *older]
    if (path / MANIFEST).is_file():
        manifest = load_manifest(path)
        about = {"source": manifest.source, "photos": manifest.photos, "labels": manifest.labels}
        return _chain("manifest", manifest.sha256, about, manifest.ancestors)
    raise BadArtifact(
        f"{path} is not an artifact of Catflap.", "Name a manifest, dataset, checkpoint or bundle."
    )


def _before_dataset(path: Path, ancestors: dict[str, str]) -> list[dict[str, Any]]:
    """The ancestors of a Dataset's Manifest, where both are still in place."""
    try:
        dataset = load_dataset(path)
        manifest = load_manifest(path / dataset.manifest)
    except BadArtifact:
        return []
    same = dataset.sha256 == ancestors.get("dataset") and manifest.sha256 == dataset.ancestors["manifest"]
    return _links(manifest.ancestors) if same else []


def _chain(kind: str, sha256: str, about: dict[str, Any], ancestors: dict[str, str]) -> list[dict[str, Any]]:
    return [{"kind": kind, "sha256": sha256, **about}, *_links(ancestors)]


def _links(ancestors: dict[str, str]) -> list[dict[str, Any]]:
    names = dict.fromkeys((*ORDER, *sorted(ancestors)))  # also kinds that only a later Catflap knows
    return [{"kind": name, "sha256": ancestors[name]} for name in names if name in ancestors]
