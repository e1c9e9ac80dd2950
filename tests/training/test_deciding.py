"""What the clock decided is kept over a stop, and is the first process's in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.training.deciding import RunDecisions
from catflap.training.plan import Plan
from catflap.training.train import train
from tests.training.small_search import poor_heads
from tests.training.torchrun import CATFLAP, TORCHRUN


def test_a_decision_is_made_once(tmp_path: Path) -> None:
    path, answers = tmp_path / "decided", iter([3, 5, 7, 9])
    assert RunDecisions(path, "this").keep("epochs", lambda: next(answers)) == 3
    assert RunDecisions(path, "this").keep("epochs", lambda: next(answers)) == 3
    assert RunDecisions(path, "this").keep("pick", lambda: {"number": 1}) == {"number": 1}
    assert RunDecisions(path, "this").keep("epochs", lambda: next(answers)) == 3
    assert RunDecisions(path, "other").keep("epochs", lambda: next(answers)) == 5, "of another run"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b'{"made_from": "this"}', b'{"made_from": "this", "kept": 3}']
)
def test_a_damaged_file_is_decided_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "decided"
    path.write_bytes(damage)
    assert RunDecisions(path, "this").keep("epochs", lambda: 4) == 4
    assert RunDecisions(path, "this").keep("epochs", lambda: 5) == 4


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_what_it_decided(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """One epoch, where the clock finds time for ten; the pick is the second, whatever validation says."""
    plan = Plan(minutes=2.0)
    rows = [{"step": "trial", "backbone": "of the stopped run"}]
    decided = RunDecisions(tmp_path / ".made.decided", plan.fingerprint(drawn_dataset))
    cost = {"passes": 1000, "known": 400}  # features of all candidates, and of the pick
    decided.keep("pick", lambda: {"number": 1, "recipe": "head", "trials": rows, **cost})
    decided.keep("epochs", lambda: 1)
    made = train(drawn_dataset, tmp_path / "made", plan)
    assert [entry for entry in made.history if entry["step"] == "trial"] == rows
    assert [entry["epoch"] for entry in made.history if entry["step"] == "finetune"] == [1]
    assert made.backbone == "efficientnet_lite2_slim"
    looked_at = 2 * drawn_dataset.roles["train"] + drawn_dataset.roles["validation"]  # an epoch and features
    assert made.cost["photo_passes"] + made.cost["cached_photos"] == looked_at + 600
    assert [path.name for path in tmp_path.iterdir()] == ["made"], "nothing is left beside it"


@pytest.mark.slow
def test_a_candidate_is_fine_tuned_once(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the first and the second: what the first reached is known, and wins here."""
    poor_heads(monkeypatch)
    plan = Plan(trials=2, epochs=1)
    decided = RunDecisions(tmp_path / ".made.decided", plan.fingerprint(drawn_dataset))
    decided.keep("candidate 0, fine-tuned", lambda: (0.0, 1.0))
    made = train(drawn_dataset, tmp_path / "made", plan)
    first, second = (entry for entry in made.history if entry.get("recipe") == "finetune")
    assert {first["size"], second["size"]} == {32, 48}
    (picked,) = (entry for entry in (first, second) if entry["picked"])
    assert (picked["size"], picked["validation_log_loss"]) == (32, 0.0)
    assert sum(entry["step"] == "finetune" for entry in made.history) == 1
    assert made.cost["learnt_photos"] == 3 * drawn_dataset.roles["train"], "both trials and the pick"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_what_it_decided(drawn_dataset: Dataset, tmp_path: Path) -> None:
    out = str(tmp_path / "made")
    words = [CATFLAP, "train", str(drawn_dataset.path), "-o", out, "--minutes", "2", "--json"]
    kill_when_there(words, tmp_path / ".made.resume")
    decided = json.loads((tmp_path / ".made.decided").read_text())["kept"]
    finish(words)
    history = load_checkpoint(tmp_path / "made").history
    assert [entry for entry in history if entry["step"] == "trial"] == decided["pick"]["trials"]
    assert sum(entry["step"] == "finetune" for entry in history) == decided["epochs"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [(sys.executable,), TORCHRUN], ids=["one process", "two processes"])
def test_a_search_that_is_killed_while_it_fine_tunes_picks_the_same(
    command: tuple[str, ...], drawn_dataset: Dataset, tmp_path: Path
) -> None:
    words = [*command, "-m", "tests.training.small_search", "train", str(drawn_dataset.path)]
    words += ["--budget", "2", "--epochs", "1", "--json", "-o"]
    finish([*words, str(tmp_path / "undisturbed")])
    kill_when_there([*words, str(tmp_path / "killed")], tmp_path / ".killed.resume")
    decided = tmp_path / ".killed.decided"
    assert not decided.exists() or "pick" not in json.loads(decided.read_text())["kept"]
    finish([*words, str(tmp_path / "killed")])
    expected, made = (load_checkpoint(tmp_path / name) for name in ("undisturbed", "killed"))
    assert (made.recipe, made.sha256) == (expected.recipe, expected.sha256)
    assert [losses(made), len(losses(made))] == [losses(expected), 4], "two heads and two fine-tuned"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]


def losses(made: Checkpoint) -> list[float]:
    """What each trial of a search reached."""
    return [entry["validation_log_loss"] for entry in made.history if entry["step"] == "trial"]


def finish(words: list[str]) -> None:
    """Run a command to its end, which must be good."""
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=300)


def kill_when_there(words: list[str], path: Path) -> None:
    """Start a command, and kill it and all that it started as soon as there is a file."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        waited = time.monotonic()
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() - waited < 200
            time.sleep(0.01)
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            one.kill()


@pytest.mark.slow
def test_two_processes_follow_the_first(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """Each has a clock of its own; with other candidates or epochs one would wait for the other for ever."""
    words = ["train", str(drawn_dataset.path), "-o", str(tmp_path / "made"), "--minutes", "1", "--json"]
    made = subprocess.run(
        [*TORCHRUN, CATFLAP, *words], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (line,) = made.stdout.splitlines()
    steps = {entry["step"] for entry in json.loads(line)["history"]}
    assert steps >= {"trial", "head", "finetune", "blend"}


@pytest.mark.slow
def test_two_processes_try_from_scratch_together(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """The drawn photos' heads are too good to be left, so that what was learnt stands in the history only."""
    words = ["train", str(drawn_dataset.path), "-o", str(tmp_path / "made"), "--minutes", "2", "--json"]
    finish([*TORCHRUN, "-m", "tests.training.small_search", *words])
    made = load_checkpoint(tmp_path / "made")
    (row,) = (entry for entry in made.history if entry.get("recipe") == "scratch")
    (settings,) = (entry for entry in made.history if entry["step"] == "settings")
    learnt = [entry for entry in made.history if entry["step"] == "finetune"]
    assert row["fits"]
    assert len(learnt) == settings["epochs"] > 0
    assert settings["train_batch_norm"], "from a random start"
    kept = [(entry["share"], entry["kept"]) for entry in made.history if entry["step"] == "blend"]
    assert (kept, made.recipe) == ([(0.0, True), (1.0, False)], "head")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.slow
def test_two_processes_search_what_one_searches(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """With nothing cached they share the photos of every candidate, and fine-tune the last two together."""
    small, made = ["-m", "tests.training.small_search"], dict[str, Checkpoint]()
    for name, command in {"one": [sys.executable, *small], "two": [*TORCHRUN, *small]}.items():
        words = ["train", str(drawn_dataset.path), "-o", str(tmp_path / name), "--budget", "3", "--json"]
        run = subprocess.run(
            [*command, *words, "--epochs", "1", "--precision", "fp32"], capture_output=True, text=True,
            check=False, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CATFLAP_CACHE": str(tmp_path / f"cache of {name}")},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        made[name] = load_checkpoint(tmp_path / name)
    heads, tuned = losses(made["one"])[:3], losses(made["one"])[3:]
    assert losses(made["two"])[:3] == heads
    assert losses(made["two"])[3:] == pytest.approx(tuned, abs=1e-3)
    assert len(tuned) == 2
    assert made["one"].cost["photo_passes"] == made["two"].cost["photo_passes"]
