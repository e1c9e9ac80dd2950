"""What hatchling calls: build the camera page and Studio's (or say why not), README with absolute links."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

STAMP = "sources.sha256"
OUT = Path("src/catflap/serving/static")
STUDIO = Path("src/catflap/studio/static")
BY_HAND = "npm --prefix web ci && npm --prefix web run build"


class ReadmeHook(MetadataHookInterface):
    """Called by hatchling for the package's metadata: the README as an index of packages can show it."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme`."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        source = metadata["urls"]["Source"]
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute_links(text, source)}


def absolute_links(text: str, source: str) -> str:
    """Markdown whose links and pictures in the repository lead to `source`, its address on GitHub."""

    def absolute(match: re.Match[str]) -> str:
        before, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        is_picture = target.endswith((".png", ".webp", ".svg"))
        return f"{before}{source}/{'raw' if is_picture else 'blob'}/main/{target}"

    return re.sub(r"""(\]\(|(?:src|srcset|href)=")([^)\s"]+)""", absolute, text)


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling before it packs a wheel, a source archive or an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make sure that the page is there, and let it be packed although git ignores it."""
        problem = build_page(Path(self.root))
        if problem:
            self.app.display_warning(problem)
        build_data["artifacts"] += [f"/{out.as_posix()}/**" for out in (OUT, STUDIO)]


def build_page(root: Path) -> str | None:
    """Build both pages unless they are there and of these sources; a sentence when they cannot be."""
    web, out = root / "web", root / OUT
    if not (web / "package.json").is_file():
        return None
    stamp = digest(root)
    is_there = (root / STUDIO / "index.html").is_file() and (out / STAMP).is_file()
    if is_there and (out / STAMP).read_text() == stamp:
        return None
    instead = (
        "the one that is there, which may be of other sources, is packed"
        if (out / "index.html").is_file()
        else "`catflap serve` offers its simple upload page instead"
    )
    npm = shutil.which("npm")
    if npm is None:
        return (
            f"Node was not found, so the camera page is not built and {instead}. "
            f"To have it, install Node 20.19 or newer and run: {BY_HAND}"
        )
    for command in (["ci", "--no-audit", "--no-fund", "--ignore-scripts"], ["run", "build"]):
        done = subprocess.run([npm, *command], cwd=web, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            return (
                f"`npm {command[0]}` failed ({' '.join(last)}), so the camera page is not built and "
                f"{instead}. To see why, run: {BY_HAND}"
            )
    (out / STAMP).write_text(stamp)
    return None


def digest(root: Path) -> str:
    """One hash of everything that the pages are made from."""
    web = root / "web"
    files = [
        path
        for folder in ("src", "wasm", "public", "studio")
        for path in sorted((web / folder).rglob("*"))
        if path.is_file()
    ]
    files += [path for path in sorted(web.iterdir()) if path.is_file()]
    files += [root / "src/catflap" / name for name in ("tokens.css", "artifacts/bundle.schema.json")]
    hashes = [
        f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in files
    ]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
