"""Golden cases that export does not refuse can be read again."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from catflap.artifacts import golden as golden_room
from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.golden import FILE, HEADERS, check_golden, encode_golden, read_golden
from catflap.errors import BadArtifact, CatflapError
from tests.tiny import Exported


def test_what_is_refused_is_what_could_not_be_read(
    drawn_bundle: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a Bundle with probes, recorded decisions and OOD scores every byte is counted."""
    bundle = load_bundle(drawn_bundle.path)
    golden = read_golden(bundle)
    assert set(golden.decisions) == set(bundle.variants)
    scores = {name: np.zeros(len(rows), np.float32) for name, rows in golden.decisions.items()}
    golden = replace(golden, ood=scores, unknown={name: rows > 0 for name, rows in scores.items()})
    bundle = replace(bundle, members={**bundle.members, FILE: encode_golden(golden)})
    size = sum(map(len, golden.photos)) + golden.frames.nbytes + 8 * len(golden.photos)
    recorded = (golden.logits, golden.probes, golden.probabilities, golden.decisions)
    for answers in (*recorded, golden.ood, golden.unknown):
        size += sum(rows.nbytes for rows in answers.values())
    asked = golden.photos, bundle.frame, len(bundle.labels), len(bundle.variants)
    monkeypatch.setattr(golden_room, "MAX_BYTES", size + HEADERS)
    check_golden(*asked)
    read_golden(bundle)
    monkeypatch.setattr(golden_room, "MAX_BYTES", size + HEADERS - 1)
    with pytest.raises(CatflapError, match="--golden"):
        check_golden(*asked)
    with zipfile.ZipFile(io.BytesIO(bundle.members[FILE])) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    monkeypatch.setattr(golden_room, "MAX_BYTES", size)
    read_golden(bundle)
    monkeypatch.setattr(golden_room, "MAX_BYTES", size - 1)
    with pytest.raises(BadArtifact, match="too many bytes"):
        read_golden(bundle)
