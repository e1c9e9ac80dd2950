"""What several rooms' tests share: where things are, and what may be missing here."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from catflap.errors import EXTRAS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from catflap.artifacts.checkpoint import Checkpoint
    from catflap.artifacts.dataset import Dataset
    from tests.tiny import Exported

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers share the cores
# Keep compiled modules wherever this runs: tests start hundreds of processes, and pytest compiles each test.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
PROCESSES: list[bool] = []  # the test that runs has the fixture `worker_processes`
LONGEST = (  # files, by the time that their slow tests take
    "house/test_nothing_leaves.py", "pipeline/test_build.py", "studio/test_page.py", "studio/test_server.py",
    "exporting/test_targets.py", "house/test_nothing_leaves_engines.py", "training/test_distributed.py",
    "pipeline/test_drift.py", "comparison/test_compare.py", "house/test_scheduling.py",
    "pages/test_accessibility.py",
    "web/test_camera.py", "web/test_page.py", "exporting/test_unknown.py", "evaluation/test_coverage.py",
    "web/test_bundles.py", "web/test_network.py",
    "web/test_runtimes.py", "serving/test_soak.py", "serving/test_limits.py", "curation/test_audit.py",
    "live/test_watch.py", "training/test_train.py", "curation/test_queue.py", "exporting/test_export.py",
    "data/test_real_photos.py",
)  # fmt: skip


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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is imported now, torch above all, out of the garbage collector's rounds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: a worker takes whole files, and none should get a long one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    browsing = {item.path for item in items if "browser" in getattr(item, "fixturenames", ())}

    def order(item: pytest.Item) -> tuple[int, int, bool]:
        name = item.path.relative_to(TESTS).as_posix()
        return (
            LONGEST.index(name) if name in LONGEST else len(LONGEST),
            -slow[item.path],
            item.path not in browsing,
        )

    items.sort(key=order)


if find_spec("xdist"):
    from tests.scheduling import pytest_xdist_make_scheduler as pytest_xdist_make_scheduler


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end what was skipped, each reason once; a reason says how to get what is missing."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.section("skipped")
    for reason, count in reasons.most_common():
        reason = reason.removeprefix("Skipped: ")
        absent = re.match(r"could not import '(\w+)", reason)
        if absent and absent[1] in EXTRAS:
            reason = f"{absent[1]} is not installed: pip install '.[{EXTRAS[absent[1]]}]'"
        terminalreporter.line(f"{count:4} {reason}")


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


@pytest.fixture(scope="session")
def scene_photo() -> bytes:
    """A real photo that comes with scikit-image, 640 × 480 px, as the browser's camera sees it."""
    data = pytest.importorskip("skimage.data")
    from catflap.image import Frame, encode, read_pixels

    return encode(read_pixels(data.chelsea(), Frame(640, 480)), "JPEG", quality=92)


@pytest.fixture(scope="module")
def browser(scene_photo: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's Chromium, whose camera sees a photo again and again.

    A process has room for one `sync_playwright()` at a time, and while it is open the main thread has an
    event loop: tests run their own coroutines with tests/loops.py.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from tests.chromium import FLAGS, chromium, slow_film

    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    film = tmp_path_factory.mktemp("camera") / "film.y4m"
    film.write_bytes(slow_film(scene_photo))
    camera = f"--use-file-for-fake-video-capture={film}"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, camera])
        yield browser
        browser.close()


@pytest.fixture(scope="session", autouse=True)
def own_cache(shared_by_workers: Path) -> Iterator[Path]:
    """A cache of this run's own, so that no test sees what another run left, nor leaves anything."""
    with pytest.MonkeyPatch.context() as patch:
        folder = shared_by_workers / "cache"
        patch.setenv("CATFLAP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_by_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same for all its workers."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def make_once(target: Path, make: Callable[[], object]) -> Path:
    """The target, written by `make` unless another worker of this run has done so."""
    with FileLock(f"{target}.lock"):
        if not target.exists():
            make()
    return target


@pytest.fixture(scope="session", autouse=True)
def _graphs_kept(request: pytest.FixtureRequest) -> None:
    """Keep graphs wherever tests train, which import tests/tiny.py; others need not wait for torch."""
    if "tests.tiny" in sys.modules:
        request.getfixturevalue("keep_graphs")


@pytest.fixture(scope="session", autouse=True)
def _photos_examined_here() -> Iterator[None]:
    """Let scans examine photos in this process: the start of a worker costs as much as a hundred photos.

    Where a test or a verb asks for several workers, a deadline, or `worker_processes`, they are processes.
    """
    if "catflap.data.scan" not in sys.modules:
        yield
        return
    from catflap.data import workers
    from catflap.data.examine import as_rows, examine_photo

    def here(batches: Iterable[Any], count: int | None = None, *, deadline: float) -> Iterator[Any]:
        if PROCESSES or count not in (None, 1) or deadline != workers.DEADLINE:
            yield from workers.run(batches, count, deadline=deadline)
            return
        for number, photos in batches:
            yield number, as_rows([examine_photo(photo) for photo in photos.to_pylist()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catflap.data.scan.local_workers", SimpleNamespace(run=here))
        yield


@pytest.fixture
def worker_processes() -> Iterator[None]:
    """Let scans of this test examine photos in processes, as users' scans do."""
    PROCESSES.append(True)
    yield
    PROCESSES.pop()


@pytest.fixture(scope="session")
def keep_graphs() -> Iterator[None]:
    """Export each network once, for this run and later ones: torch takes seconds for a tiny one."""
    from tests.tiny import GRAPHS, keeping_graphs

    with keeping_graphs(GRAPHS):
        yield


@pytest.fixture(scope="session")
def drawn_dataset(shared_by_workers: Path, keep_graphs: None) -> Dataset:
    """60 drawn photos of two labels; `photos` and `manifest` lie beside it."""
    from catflap.artifacts.dataset import load_dataset
    from tests.tiny import make_dataset

    folder = shared_by_workers / "drawn"
    folder.mkdir(exist_ok=True)
    return load_dataset(make_once(folder / "dataset", lambda: make_dataset(folder)))


@pytest.fixture(scope="session")
def real_dataset(photos_root: Path, shared_by_workers: Path) -> Dataset:
    """The real photos, prepared for the frame of the shipped bundle; `manifest` lies beside it."""
    from catflap.artifacts.bundle import load_bundle
    from catflap.artifacts.dataset import load_dataset
    from catflap.data.prepare import prepare
    from catflap.data.scan import scan

    folder = shared_by_workers / "real"
    folder.mkdir(exist_ok=True)

    def make() -> None:
        prepare(scan(photos_root, folder / "manifest"), folder / "dataset", frame=load_bundle("cat").frame)

    return load_dataset(make_once(folder / "dataset", make))


@pytest.fixture(scope="session")
def drawn_checkpoint(drawn_dataset: Dataset) -> Checkpoint:
    """A head on the tiny network, trained on them."""
    from catflap.artifacts.checkpoint import load_checkpoint
    from tests.tiny import make_checkpoint

    path = drawn_dataset.path.with_name("checkpoint")
    return load_checkpoint(make_once(path, lambda: make_checkpoint(drawn_dataset)))


@pytest.fixture(scope="session")
def installed_checkpoint(drawn_dataset: Dataset, shared_by_workers: Path) -> Checkpoint:
    """A head on an installed backbone: a converter's own process does not know the tests' tiny network."""
    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.backbones import TINY
    from catflap.training.plan import Plan
    from catflap.training.train import train

    folder = shared_by_workers / "installed"  # beside the dataset it would be a second project for doctor
    folder.mkdir(exist_ok=True)
    path = folder / "installed"
    return load_checkpoint(make_once(path, lambda: train(drawn_dataset, path, Plan(backbone=TINY))))


@pytest.fixture(scope="session")
def three_labels(shared_by_workers: Path, keep_graphs: None) -> Checkpoint:
    """A head for three labels with 50 drawn photos each; `photos`, `manifest` and `dataset` lie beside it."""
    from catflap.artifacts.checkpoint import load_checkpoint
    from tests.tiny import COLOURS, make_checkpoint, make_dataset

    folder = shared_by_workers / "three"
    folder.mkdir(exist_ok=True)
    return load_checkpoint(
        make_once(folder / "checkpoint", lambda: make_checkpoint(make_dataset(folder, tuple(COLOURS), 50)))
    )


@pytest.fixture(scope="session")
def drawn_graph(drawn_checkpoint: Checkpoint) -> bytes:
    """Its float graph as ONNX bytes."""
    from catflap.training.network import load_network
    from tests.tiny import GRAPHS, kept_graph

    frame = drawn_checkpoint.frame
    return kept_graph(GRAPHS, load_network(drawn_checkpoint), frame.height, frame.width)


@pytest.fixture(scope="session")
def drawn_bundle(drawn_checkpoint: Checkpoint, drawn_dataset: Dataset) -> Exported:
    """Its Bundle of int8 and fp32, and what `export` returned."""
    from tests.tiny import Exported, make_bundle

    answer = drawn_dataset.path.with_name("answer.json")

    def make() -> None:
        answer.write_text(json.dumps(make_bundle(drawn_checkpoint, drawn_dataset).answer))

    made = json.loads(make_once(answer, make).read_text("utf-8"))
    return Exported(drawn_dataset.path.with_name("tiny.catflap"), made)
