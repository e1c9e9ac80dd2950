"""Each step's figures reach TensorBoard and MLflow, whose failures do not stop a training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catflap.artifacts.dataset import Dataset
from catflap.cli.main import main
from catflap.errors import CatflapError
from catflap.progress import silent
from catflap.training.finetune import LoopSettings, train_weights
from catflap.training.step_logging import StepLogger, _forgiving, log_nothing, open_step_loggers
from tests.training.small import small_network

ONCE = LoopSettings(epochs=2, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5)


def test_tensorboard_gets_every_step(drawn_dataset: Dataset, tmp_path: Path) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    notes: list[str] = []
    with open_step_loggers(tmp_path / "board", None, "run", notes.append) as watch:
        train_weights(small_network(), drawn_dataset, tmp_path / "resume", ONCE, 0, "cpu", silent, log=watch)
    board = events.EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    epoch = -(-drawn_dataset.roles["train"] // ONCE.batch)
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 2 * epoch + 1))
    assert board.Scalars("rate")[-1].value < board.Scalars("rate")[1].value
    judged = board.Scalars("validation_log_loss")
    assert [event.step for event in judged] == [epoch, 2 * epoch]
    lost, rate = board.Scalars("train_loss")[1].value, board.Scalars("rate")[-1].value
    reported = f"Epoch 2: loss {lost:.4f}, validation log loss {judged[1].value:.4f}, rate {rate:.2g}."
    assert [notes[0].startswith("Epoch 1: loss "), notes[1:]] == [True, [reported]]


@pytest.mark.parametrize("option", ["--tensorboard", "--mlflow"])
def test_a_head_has_no_steps_to_log(
    drawn_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    out = tmp_path / "head"
    words = ["train", str(drawn_dataset.path), "-o", str(out), "--recipe", "head"]
    assert main([*words, option, str(tmp_path / "board")]) == 2
    assert "--recipe head has none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_more_figures_is_told_and_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    notes: list[str] = []
    with open_step_loggers(tmp_path / "board", None, "run", notes.append) as watch:
        watch(1, {"loss": 1.0})
        watch(2, {"loss": object()})  # type: ignore[dict-item]
        watch(3, {"loss": object()})  # type: ignore[dict-item]
    (reported,) = notes
    assert reported.startswith("Step 2 and those after it are not logged: ")


@contextmanager
def cannot_be_closed() -> Iterator[StepLogger]:
    yield log_nothing
    raise OSError("the disk is full")


def test_a_place_that_cannot_be_closed_is_told_and_hides_no_error() -> None:
    """What was trained is whole by then."""
    notes: list[str] = []
    with _forgiving(cannot_be_closed(), notes.append) as watch:
        watch(1, {"loss": 1.0})
    assert notes == ["What was logged may be incomplete: the disk is full."]
    with pytest.raises(ZeroDivisionError), _forgiving(cannot_be_closed(), notes.append):
        raise ZeroDivisionError


def test_mlflow_gets_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store that needs no database
    address = (tmp_path / "runs").as_uri()
    with open_step_loggers(None, address, "run") as watch:
        for step in range(3):
            watch(step, {"loss": 1.0 / (step + 1)})
    client = mlflow.MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("catflap").experiment_id])
    assert [entry.value for entry in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5, 1 / 3]


def test_a_watcher_that_is_not_installed_is_one_error() -> None:
    if "mlflow" in sys.modules:
        pytest.skip("mlflow is installed here")
    with (
        pytest.raises(CatflapError, match="mlflow is not installed"),
        open_step_loggers(None, "file:x", "run"),
    ):
        pass
