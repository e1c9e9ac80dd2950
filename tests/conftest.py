"""What several rooms' tests share: where things are, and what may be missing here."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from catflap.artifacts.checkpoint import Checkpoint
    from catflap.artifacts.dataset import Dataset
    from tests.drawn import Exported

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def photos_root() -> Path:
    """The real photos, a class folder: CATFLAP_PHOTOS, or ../shared/data/photos."""
    root = Path(os.environ.get("CATFLAP_PHOTOS") or REPO.parent / "shared" / "data" / "photos")
    if not root.is_dir():
        pytest.skip(f"there are no photos in {root}; set CATFLAP_PHOTOS to a class folder")
    return root


@pytest.fixture(autouse=True)
def _signals_heard() -> Iterator[None]:
    """Let what a test starts hear Ctrl-C and SIGHUP where pytest does not: behind nohup, in a `&`."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    deaf = [number for number in usual if signal.getsignal(number) is signal.SIG_IGN]
    for number in deaf:
        signal.signal(number, usual[number])
    yield
    for number in deaf:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def mount_small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system of a size such as "1m", which fills up like a disk."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        small = tmp_path / "small"
        small.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a small file system")
        mounted.append(small)
        return small

    yield mount
    for small in mounted:
        subprocess.run(["umount", str(small)], check=True)


@pytest.fixture(scope="session")
def base_python() -> Path:
    """The Python of an environment that has the base dependencies and nothing else."""
    python = REPO / ".venv-base" / "bin" / "python"
    if not python.exists():
        pytest.skip("there is no .venv-base; run: make .venv-base/ready")
    return python


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that verifies and answers within milliseconds: is a photo warm or cold?"""
    from tests.artifacts.samples import runnable_bundle

    return runnable_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this run's own, so that no test sees what another run left, nor leaves anything."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CATFLAP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def drawn_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 drawn photos of two labels; `photos` and `manifest` lie beside it."""
    from tests.drawn import make_dataset

    return make_dataset(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="session")
def drawn_checkpoint(drawn_dataset: Dataset) -> Checkpoint:
    """A head trained on them."""
    from tests.drawn import make_checkpoint

    return make_checkpoint(drawn_dataset)


@pytest.fixture(scope="session")
def drawn_bundle(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> Exported:
    """The Bundle of int8 and fp32, and what `export` answered."""
    from tests.drawn import make_bundle

    return make_bundle(drawn_checkpoint, drawn_dataset)
