"""The software bill of materials of a Bundle: CycloneDX 1.6 JSON, with what the EU CRA profile asks for."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from catflap.artifacts.bundle import SHIPPED, SUFFIX, Bundle
from catflap.errors import CatflapError, need
from catflap.version import VERSION

SPDX = re.compile(r"(Apache-2\.0|MIT|BSD-[23]-Clause|MPL-2\.0|CC0-1\.0|CC-BY(?:-SA)?-[234]\.0)(?![\w.-])")
LICENCES: Mapping[str, str] = {  # of the packages that make or run a variant
    "catflap": "Apache-2.0",
    "onnxruntime": "MIT",
    "onnx": "Apache-2.0",
    "onnxscript": "MIT",
    "torch": "BSD-3-Clause",
    "torchvision": "BSD-3-Clause",
    "timm": "Apache-2.0",
    "numpy": "BSD-3-Clause",
    "pillow": "MIT-CMU",
    "simplejpeg": "MIT",
    "scikit-learn": "BSD-3-Clause",
    "openvino": "Apache-2.0",
    "nncf": "Apache-2.0",
    "ncnn": "BSD-3-Clause",
    "pnnx": "BSD-3-Clause",
    "ai-edge-litert": "Apache-2.0",
    "ai-edge-quantizer": "Apache-2.0",
    "litert-torch": "Apache-2.0",
    "executorch": "BSD-3-Clause",
    "coremltools": "BSD-3-Clause",
}


def bill_of_materials(
    bundle: Bundle, manufacturer: str | None = None, contact: str | None = None
) -> dict[str, Any]:
    """The CycloneDX document of a Bundle; the same Bundle gives the same bytes.

    Components: the model, its executable files, its ancestors by hash, the licensed parts, and the packages
    that made it. `manufacturer` and `contact` (an e-mail address) are those who place it on the market, as
    the EU Cyber Resilience Act asks; without them the document names none. The timestamp is SOURCE_DATE_EPOCH
    where that is set, as in reproducible builds, else the modification time of the Bundle's file.
    """
    need("cyclonedx")
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from packageurl import PackageURL

    if contact is not None and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", contact):
        raise CatflapError(f"The contact {contact!r} is not an e-mail address.", "Use: --contact NAME@HOST")
    head = bundle.head

    def sha256(digest: str) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]

    people = [OrganizationalContact(email=contact)] if contact else []
    maker = OrganizationalEntity(name=manufacturer, contacts=people) if manufacturer or people else None
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"bundle:{bundle.sha256}",
        name=bundle.name,
        version=bundle.sha256[:12],
        hashes=sha256(bundle.sha256),
        purl=PackageURL(
            "generic", None, bundle.name, bundle.sha256[:12], {"checksum": f"sha256:{bundle.sha256}"}
        ),
        licenses=_licences(head["licences"].values()),
        manufacturer=maker,
        supplier=maker,
    )
    every = [
        *((one.name, one.members, one.runtime, one.precision) for one in bundle.variants.values()),
        *((name, (one["file"],), one["runtime"], one["precision"]) for name, one in bundle.untested.items()),
    ]
    parts = [
        Component(
            type=ComponentType.FILE,
            bom_ref=f"file:{member}",
            name=member,
            version=head["files"][member]["sha256"][:12],
            hashes=sha256(head["files"][member]["sha256"]),
            licenses=_licences(head["licences"].values()),
            properties=[
                Property(name="catflap:variant", value=name),
                Property(name="catflap:runtime", value=runtime),
                Property(name="catflap:precision", value=precision),
            ],
        )
        for name, members, runtime, precision in every
        for member in members
    ]
    parts += [
        Component(
            type=ComponentType.MACHINE_LEARNING_MODEL
            if kind in ("checkpoint", "bundle")
            else ComponentType.DATA,
            bom_ref=f"{kind}:{digest}",
            name=f"{kind} {digest[:12]}",
            version=digest[:12],
            hashes=sha256(digest),
        )
        for kind, digest in head["ancestors"].items()
    ]
    parts += [
        Component(
            type=ComponentType.DATA,
            bom_ref=f"part:{part}",
            name=part,
            version="1",
            licenses=_licences([licence]),
        )
        for part, licence in head["licences"].items()
    ]
    packages = [
        Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"pkg:pypi/{name}@{version}",
            name=name,
            version=version,
            purl=PackageURL("pypi", None, name, version),
            licenses=_licences([LICENCES[name]] if name in LICENCES else []),
        )
        for name, version in head["versions"].items()
    ]
    tool = Component(
        type=ComponentType.APPLICATION,
        bom_ref="tool:catflap",
        name="catflap",
        version=VERSION,
        licenses=_licences([LICENCES["catflap"]]),
    )
    metadata = BomMetaData(
        component=model,
        timestamp=_timestamp(bundle),
        manufacturer=maker,
        supplier=maker,
        tools=ToolRepository(components=[tool]),
    )
    bom = Bom(
        components=[*parts, *packages],
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"catflap:{bundle.sha256}"),
        metadata=metadata,
    )
    bom.register_dependency(model, [*parts, *packages])
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    document: dict[str, Any] = json.loads(text)
    for node in document["dependencies"]:
        node.setdefault("dependsOn", [])  # cdx-validate fails on a node without it
    return document


def _licences(texts: Iterable[str]) -> list[Any]:
    """SPDX identifiers where the texts begin with one, else the texts."""
    from cyclonedx.model.license import DisjunctiveLicense

    found = dict.fromkeys(texts)
    ids = {text: match[1] for text in found if (match := SPDX.match(text))}
    return [
        DisjunctiveLicense(id=ids[text]) if text in ids else DisjunctiveLicense(name=text)
        for text in {ids.get(text, text): text for text in found}.values()
    ]


def _timestamp(bundle: Bundle) -> datetime:
    """SOURCE_DATE_EPOCH, else when the Bundle's file was written."""
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    path = bundle.path if bundle.path.is_file() else SHIPPED / f"{bundle.path}{SUFFIX}"
    return datetime.fromtimestamp(int(stated) if stated.isdigit() else int(path.stat().st_mtime), UTC)
