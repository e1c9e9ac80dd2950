"""The Report: what was measured, and whether the model had seen the photos before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catflap.artifacts.schema import digest, read_json, write_json
from catflap.errors import BadArtifact

MARKER = "report.json"
PAGE = "report.html"
SEEN = {
    "no": "that it did not learn from",
    "learnt": "that it learnt from",
    "chosen": "that it was chosen by or learnt from",
    "calibrated": "that it was calibrated by",
    "unknown": "that it may or may not have learnt from",
}
ADDED: dict[str, Any] = {  # absent in older reports
    "learning": {}, "role": "", "seen": "unknown", "verdict": {}, "least_sure": [], "outcome": {},
    "conditions": {}, "corrected": {},
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A folder with `report.json` for machines and `report.html` for people.

    `variants` maps each variant's name to what `measure` found on it, `curves` to what its
    pictures are drawn from; `role` is that of the photos in their Dataset, or empty, and `seen`, a key of
    SEEN, what the model had to do with them before; `mistakes` names the worst ones without their
    pixels, `least_sure` right answers with the lowest probabilities; `outcome` is what `build` reached
    (pipeline/outcome.py), else empty; `learning` has the columns of a Checkpoint's learning curves, and is
    empty for a Bundle; `verdict` says whether a Bundle keeps its promises on these photos, and is empty for
    a Checkpoint; `conditions` has `slices`, `corruptions` where they were asked for, and `review`, how many
    sure mistakes review.html offers; `corrected` counts the labels that a person corrected, with the
    decisions `before` and `after`; `ancestors` maps "bundle", "checkpoint", "dataset" … to their hashes.
    """

    path: Path
    title: str
    labels: tuple[str, ...]
    role: str
    seen: str
    variants: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, Any]]
    mistakes: list[dict[str, Any]]
    least_sure: list[dict[str, Any]]
    outcome: dict[str, Any]
    learning: dict[str, Any]
    sha256: str
    ancestors: dict[str, str]
    versions: dict[str, str]
    verdict: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    corrected: dict[str, Any] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.path / PAGE

    @property
    def passed(self) -> bool:
        """False when a Bundle does not keep its promises on these photos."""
        return bool(self.verdict.get("pass", True))

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap evaluate`."""
        names = (
            "title",
            "role",
            "seen",
            "verdict",
            "variants",
            "mistakes",
            "least_sure",
            "conditions",
            "corrected",
            "sha256",
            "ancestors",
            "versions",
        )
        return {name: getattr(self, name) for name in names} | {
            "labels": list(self.labels),
            "report": str(self.path),
            "page": str(self.page),
        }


def judged_on(photos: int, role: str, seen: str) -> str:
    """The photos of a Report as text: "68 train photos that it learnt from"."""
    return f"{photos:,} {f'{role} ' if role else ''}photo{'' if photos == 1 else 's'} {SEEN[seen]}"


def save_report(folder: Path, fields: dict[str, Any], page: str) -> None:
    """Write both files into a folder; `fields` as in Report, without `path` and `sha256`."""
    (folder / PAGE).write_text(page, "utf-8")
    fields = {**fields, "labels": list(fields["labels"])}
    write_json(folder / MARKER, {"catflap": "report", "version": 1, **fields, "sha256": digest(fields)})


def load_report(path: Path | str) -> Report:
    """Open a Report folder; BadArtifact when it is not one or has changed."""
    path = Path(path)
    fields = read_json(path / MARKER, "report")
    names = set(Report.__dataclass_fields__) - {"path"}
    content = {name: fields[name] for name in names - {"sha256"} if name in fields}
    lacking = names - {"sha256", *ADDED} - content.keys()
    if lacking or digest(content) != fields.get("sha256"):
        raise BadArtifact(f"{path / MARKER} was changed after it was made.", "Run catflap evaluate again.")
    content = {**ADDED, **content, "labels": tuple(content["labels"])}
    return Report(path=path, sha256=fields["sha256"], **content)
