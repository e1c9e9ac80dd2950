"""The bill of materials names every executable file, ancestor, licence and package of a bundle."""

from __future__ import annotations

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from catflap.artifacts.bundle import load_bundle
from catflap.cli.main import main
from tests.tiny import Exported


def test_it_holds_what_the_bundle_holds(drawn_bundle: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = load_bundle(drawn_bundle.path)
    assert main(["bundle", "sbom", str(drawn_bundle.path), "--json"]) == 0
    bom = json.loads(capsys.readouterr().out)
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    model, parts = bom["metadata"]["component"], bom["components"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": bundle.sha256}]
    assert all({"type", "name", "bom-ref"} <= set(part) for part in [model, *parts])
    assert len({part["bom-ref"] for part in parts}) == len(parts)
    hashes = {entry["content"] for part in parts for entry in part.get("hashes", [])}
    assert hashes >= set(bundle.head["ancestors"].values())
    assert hashes >= {bundle.head["files"][variant.file]["sha256"] for variant in bundle.variants.values()}
    packages = {part["name"]: part["version"] for part in parts if part["type"] == "library"}
    assert packages == bundle.head["versions"]
    licences = [licence["license"] for part in parts for licence in part.get("licenses", [])]
    assert {"id": "Apache-2.0"} in licences
    assert set(bom["dependencies"][0]["dependsOn"]) == {part["bom-ref"] for part in parts}


def test_it_is_valid_cyclonedx(drawn_bundle: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    """By the strict JSON schema of CycloneDX, which knows every field."""
    named = ["--manufacturer", "ACME", "--contact", "security@acme.example"]
    assert main(["bundle", "sbom", str(drawn_bundle.path), *named, "--json"]) == 0
    document = capsys.readouterr().out
    schema = JsonStrictValidator(SchemaVersion.V1_6)
    assert schema.validate_str(document) is None
    assert schema.validate_str(document.replace('"timestamp"', '"times"')) is not None


def test_it_is_the_same_each_time(drawn_bundle: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        main(["bundle", "sbom", str(drawn_bundle.path)])
    first, second = capsys.readouterr().out.split("\n{\n", 1)
    assert json.loads(first) == json.loads("{\n" + second)


def test_it_states_what_the_eu_cra_asks_for(
    drawn_bundle: Exported, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764576000")
    named = ["--manufacturer", "ACME", "--contact", "security@acme.example"]
    assert main(["bundle", "sbom", str(drawn_bundle.path), *named, "--json"]) == 0
    bom = json.loads(capsys.readouterr().out)
    assert bom["metadata"]["timestamp"].startswith("2025-12-01T08:00:00")
    assert bom["metadata"]["manufacturer"]["name"] == "ACME"
    assert bom["metadata"]["manufacturer"]["contact"] == [{"email": "security@acme.example"}]
    assert bom["metadata"]["component"]["purl"].startswith("pkg:generic/")
    assert all("dependsOn" in node for node in bom["dependencies"])
    (tool,) = bom["metadata"]["tools"]["components"]
    assert tool["name"] == "catflap"
    assert all(part.get("licenses") for part in bom["components"] if part["type"] == "library")
    assert main(["bundle", "sbom", str(drawn_bundle.path), "--contact", "nobody"]) == 2
