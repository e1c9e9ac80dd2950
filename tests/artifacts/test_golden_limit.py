"""Golden cases that export does not refuse can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from catflap.artifacts import golden as golden_room
from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.golden import HEADERS, check_golden, read_golden
from catflap.errors import BadArtifact, CatflapError


def test_what_is_refused_is_what_could_not_be_read(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(tiny_bundle)
    golden, logits = read_golden(bundle), len(bundle.labels)
    size = sum(map(len, golden.photos)) + golden.frames.nbytes + golden.logits["fp32"].nbytes
    size += 8 * len(golden.photos)
    monkeypatch.setattr(golden_room, "MAX_BYTES", size + HEADERS)
    check_golden(golden.photos, bundle.frame, logits)
    read_golden(bundle)
    monkeypatch.setattr(golden_room, "MAX_BYTES", size + HEADERS - 1)
    with pytest.raises(CatflapError, match="--golden"):
        check_golden(golden.photos, bundle.frame, logits)
    monkeypatch.setattr(golden_room, "MAX_BYTES", size)
    with pytest.raises(BadArtifact, match="too many bytes"):
        read_golden(bundle)
