"""What happens while a network learns, written where people look at such curves: TensorBoard, MLflow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from catflap.errors import CatflapError, first_line, system_reason
from catflap.installing import install
from catflap.progress import ignore

StepLogger: TypeAlias = Callable[[int, dict[str, float]], None]


def log_nothing(step: int, figures: dict[str, float]) -> None:
    """Watch nothing."""


@contextmanager
def open_step_loggers(
    tensorboard: Path | None, mlflow: str | None, name: str, note: Callable[[str], None] = ignore
) -> Iterator[StepLogger]:
    """A Watch that writes each step's figures into a TensorBoard folder, an MLflow store, or both.

    `mlflow` is a tracking address, such as sqlite:///runs.db; `name` is the run's. `note` gets a line after
    each epoch. A place that takes no more figures is noted, too, and left alone: training goes on.
    Raises CatflapError when the package is not installed or the place cannot be written.
    """
    with ExitStack() as stack:
        watches = []
        if tensorboard is not None:
            watches.append(stack.enter_context(_forgiving(_tensorboard(tensorboard), note)))
        if mlflow is not None:
            watches.append(stack.enter_context(_forgiving(_mlflow(mlflow, name), note)))

        def watch(step: int, figures: dict[str, float]) -> None:
            if "epoch" in figures:
                note(
                    f"Epoch {figures['epoch']:g}: loss {figures['train_loss']:.4f}, validation log loss "
                    f"{figures['validation_log_loss']:.4f}, rate {figures['rate']:.2g}."
                )
            for one in tuple(watches):
                try:
                    one(step, figures)
                except Exception as error:  # network, disk and database errors of several libraries
                    watches.remove(one)
                    note(f"Step {step} and those after it are not logged: {first_line(error)}.")

        yield watch


@contextmanager
def _forgiving(
    place: AbstractContextManager[StepLogger], note: Callable[[str], None]
) -> Iterator[StepLogger]:
    """A place for figures; one that cannot be closed is noted, and what was trained is not lost."""
    watch = place.__enter__()
    try:
        yield watch
    finally:
        try:
            place.__exit__(*sys.exc_info())
        except Exception as error:  # as above
            note(f"What was logged may be incomplete: {first_line(error)}.")


@contextmanager
def _tensorboard(folder: Path) -> Iterator[StepLogger]:
    package = _wanted("torch.utils.tensorboard", "tensorboard")
    try:
        writer = package.SummaryWriter(str(folder))
    except OSError as error:
        raise CatflapError(
            f"{folder} cannot be written: {system_reason(error)}.", "Name another folder."
        ) from error

    def watch(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    with writer:
        yield watch


@contextmanager
def _mlflow(address: str, name: str) -> Iterator[StepLogger]:
    package = _wanted("mlflow", "mlflow")
    try:
        package.set_tracking_uri(address)
        package.set_experiment("catflap")
        run = package.start_run(run_name=name)
    except Exception as error:  # address, network and database errors of several libraries
        raise CatflapError(
            f"MLflow cannot write to {address}: {first_line(error)}.", "Check the address."
        ) from error
    with run:
        yield lambda step, figures: package.log_metrics(figures, step=step)


def _wanted(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise CatflapError(f"{package} is not installed.", f"Run: {install(package)}") from error
