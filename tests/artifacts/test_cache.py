"""The cache: where it lies when there is no home."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from catflap.artifacts.folder import cache_folder
from catflap.errors import CatflapError

HOMES = ("HOME", "XDG_CACHE_HOME", "CATFLAP_CACHE")
HOMELESS = """
import os
from catflap.artifacts.folder import cache_folder
os.setuid(54321)
print(cache_folder("features"))
"""


def test_a_system_without_numbers_of_users_asks_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows does."""
    monkeypatch.delattr(os, "getuid")
    monkeypatch.setattr(Path, "expanduser", homeless)
    for name in HOMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CatflapError, match="Set CATFLAP_CACHE to a folder"):
        cache_folder("features")


def homeless(path: Path) -> Path:
    raise RuntimeError


def test_without_a_home_the_cache_is_a_temporary_folder_that_only_its_user_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in HOMES:
        monkeypatch.delenv(name, raising=False)
    ours = tmp_path / f"catflap-{os.getuid()}"
    for _ in range(2):  # it is made, and it is there
        assert cache_folder("features") == ours / "features"
        assert ours.stat().st_mode & 0o777 == 0o700
    ours.chmod(0o770)
    with pytest.raises(CatflapError, match="Set CATFLAP_CACHE to a folder"):
        cache_folder("features")
    ours.rmdir()
    (tmp_path / "elsewhere").mkdir(0o700)
    ours.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CatflapError, match="Set CATFLAP_CACHE to a folder"):
        cache_folder("features")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as somebody without a home")
def test_a_user_without_a_home_has_a_temporary_cache_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to others
        Path(name).chmod(0o777)
        kept = {name: value for name, value in os.environ.items() if name not in HOMES}
        command = [sys.executable, "-c", HOMELESS]
        environment = {**kept, "TMPDIR": name}

        def ask() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        ours = Path(name) / "catflap-54321"
        assert ask().stdout == f"{ours / 'features'}\n"
        assert (ours.stat().st_uid, ours.stat().st_mode & 0o777) == (54321, 0o700)
        ours.rmdir()
        ours.mkdir()  # somebody else's
        assert "Set CATFLAP_CACHE to a folder." in ask().stderr
