"""What is in a Bundle as a bill of materials: CycloneDX 1.6 JSON, from the Bundle's own facts."""

from __future__ import annotations

import re
import uuid
from typing import Any

from catflap.artifacts.bundle import Bundle

SPDX = re.compile(r"(Apache-2\.0|MIT|BSD-[23]-Clause|MPL-2\.0|CC0-1\.0|CC-BY(?:-SA)?-[234]\.0)(?![\w.-])")


def bill_of_materials(bundle: Bundle) -> dict[str, Any]:
    """The CycloneDX document of a Bundle; the same for the same bytes, without times or machine names.

    Components: the model itself, each executable file, what it was made from by hash, the parts with
    their licences, and the packages that made it with versions.
    """
    head = bundle.head
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"bundle:{bundle.sha256}",
        "name": bundle.name,
        "version": bundle.sha256[:12],
        "hashes": _hashes(bundle.sha256),
        "licenses": [_licence(licence) for licence in head["licences"].values()],
        "modelCard": {"modelParameters": {"task": "image classification"}},
    }
    parts = [
        *_variants(bundle),
        *(
            {
                "type": "machine-learning-model" if kind in ("checkpoint", "bundle") else "data",
                "bom-ref": f"{kind}:{sha256}",
                "name": f"{kind} {sha256[:12]}",
                "hashes": _hashes(sha256),
            }
            for kind, sha256 in sorted(head["ancestors"].items())
        ),
        *(
            {"type": "data", "bom-ref": f"part:{part}", "name": part, "licenses": [_licence(licence)]}
            for part, licence in sorted(head["licences"].items())
        ),
        *(
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{package}@{version}",
                "name": package,
                "version": version,
                "purl": f"pkg:pypi/{package}@{version.replace('+', '%2B')}",
            }
            for package, version in sorted(head["versions"].items())
        ),
    ]
    depends = [part["bom-ref"] for part in parts]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'catflap:{bundle.sha256}')}",
        "version": 1,
        "metadata": {"component": model},
        "components": parts,
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": depends}],
    }


def _variants(bundle: Bundle) -> list[dict[str, Any]]:
    every = [
        *((one.name, one.members, one.runtime, one.precision) for one in bundle.variants.values()),
        *((name, (one["file"],), one["runtime"], one["precision"]) for name, one in bundle.untested.items()),
    ]
    return [
        {
            "type": "file",
            "bom-ref": f"file:{member}",
            "name": member,
            "hashes": _hashes(bundle.head["files"][member]["sha256"]),
            "properties": [
                {"name": "catflap:variant", "value": name},
                {"name": "catflap:runtime", "value": runtime},
                {"name": "catflap:precision", "value": precision},
            ],
        }
        for name, members, runtime, precision in every
        for member in members
    ]


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _licence(text: str) -> dict[str, Any]:
    """An SPDX identifier where the text begins with one, else the text."""
    known = SPDX.match(text)
    return {"license": {"id": known[1]} if known else {"name": text}}
