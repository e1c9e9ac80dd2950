"""A decisions file may come from anybody: whatever is in it, one clear error or checked decisions."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catflap.curation.review_page import MAX_REASON, Decision, read_decisions
from catflap.errors import BadArtifact

ID, OTHER = "a" * 64, "b" * 64
LABELS = {"cat", "dog"}
GOOD: dict[str, Any] = {
    "catflap": "decisions",
    "version": 1,
    "manifest": "0" * 64,
    "decisions": [
        {"id": ID, "was": "cat", "decision": "relabel", "label": "dog"},
        {"id": OTHER, "was": "fox", "decision": "drop", "reason": "no\tcat; no dog\u202e"},
    ],
}


def changed(**fields: Any) -> dict[str, Any]:
    """A file with one decision, some of whose fields differ; None leaves a field out."""
    decision = {"id": ID, "was": "cat", "decision": "keep", **fields}
    return {**GOOD, "decisions": [{name: value for name, value in decision.items() if value is not None}]}


def written(folder: Path, value: Any) -> Path:
    path = folder / "decisions.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def test_what_is_well_formed_is_read(tmp_path: Path) -> None:
    found = read_decisions(written(tmp_path, GOOD), LABELS)
    assert found.by_id == {
        ID: Decision(ID, "cat", "dog", ""),
        OTHER: Decision(OTHER, "fox", None, "no cat, no dog"),
    }
    assert found.manifest == "0" * 64


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe{", "cannot be read"),
        (b'{"catflap": "decisions"', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"null", "not of the type object"),
        ([], "not of the type object"),
        ({**GOOD, "catflap": "manifest"}, "catflap is not one of"),
        ({**GOOD, "version": 2}, "version is not one of"),
        ({**GOOD, "version": True}, "version is not of the type integer"),
        ({**GOOD, "manifest": "../../etc/passwd"}, "manifest does not match"),
        ({**GOOD, "script": "rm -r /"}, "script is unknown"),
        ({**GOOD, "decisions": {}}, "not of the type array"),
        (changed(id="A" * 64), "id does not match"),
        (changed(id=None), "id is missing"),
        (changed(was=3), "was is not of the type string"),
        (changed(decision="delete"), "decision is not one of"),
        (changed(decision=["keep"]), "decision is not of the type string"),
        (changed(path="/etc/passwd"), "path is unknown"),
        (changed(label="dog"), "'keep', which takes neither"),
        (changed(decision="relabel"), "'relabel', which takes a label alone"),
        (changed(decision="drop", label="dog", reason="x"), "'drop', which takes a reason alone"),
        (changed(decision="relabel", label="dgo"), "the label 'dgo', which the manifest does not contain"),
        (changed(was="fox"), "the label 'fox'"),
        (changed(decision="drop", reason=" \n"), "a reason of 0 letters"),
        (changed(decision="drop", reason="x" * (MAX_REASON + 1)), "a reason of 201 letters"),
        ({**GOOD, "decisions": [*GOOD["decisions"], *changed()["decisions"]]}, "decides twice"),
    ],
)
def test_what_is_not_is_one_error(value: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as error:
        read_decisions(written(tmp_path, value), LABELS)
    assert says in error.value.what
    assert error.value.fix
    assert len(error.value.what) < 600


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="cannot be read"):
        read_decisions(tmp_path / "nothing.json", LABELS)
    with pytest.raises(BadArtifact, match="cannot be read"):
        read_decisions(tmp_path, LABELS)


@pytest.mark.parametrize("line", ["\n", "\u2028", "\r\n"])
def test_an_id_with_a_line_end_is_no_id(line: str, tmp_path: Path) -> None:
    found = written(tmp_path, changed(id=ID + line))
    with suppress(BadArtifact):
        assert ID not in read_decisions(found, LABELS).by_id


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {}, optional={name: JSON | st.sampled_from([ID, "cat", "keep", "drop", "relabel"])
                  for name in ("id", "was", "decision", "label", "reason")}
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(JSON, st.builds(lambda rows: {**GOOD, "decisions": rows}, st.lists(FIELDS, max_size=3))))
def test_any_json_is_read_or_refused(tmp_path: Path, value: Any) -> None:
    try:
        found = read_decisions(written(tmp_path, value), LABELS)
    except BadArtifact:
        return
    assert all(one.label in LABELS or (one.label is None and one.reason) for one in found.by_id.values())
