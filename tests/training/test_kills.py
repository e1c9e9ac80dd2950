"""kill -9 at random moments of a real run: the next one goes on and ends with the same bits."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from catflap.artifacts.dataset import Dataset
from tests.training.finetune_once import finetune_once

KILLS = 10
STEPS = 15  # 36 photos in batches of 8, three times
CONTEXT = multiprocessing.get_context("forkserver")  # imports torch once for all the processes


def start(dataset: Dataset, resume: Path) -> tuple[ForkServerProcess, Connection]:
    receives, sends = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=finetune_once, args=(str(dataset.path), str(resume), sends))
    process.start()
    sends.close()
    return process, receives


def finish(process: ForkServerProcess, pipe: Connection) -> tuple[list[int], object]:
    """The steps that a process sent, and its last word: the weights and the validation logits."""
    received = []
    while not received or isinstance(received[-1], int):
        received.append(pipe.recv())
    process.join()
    assert process.exitcode == 0
    return received[:-1], received[-1]


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(drawn_dataset: Dataset, tmp_path: Path) -> None:
    CONTEXT.set_forkserver_preload(["tests.training.finetune_once"])
    steps, expected = finish(*start(drawn_dataset, tmp_path / "undisturbed"))
    assert steps == list(range(1, STEPS + 1))
    dice = random.Random(0)
    for _ in range(KILLS):
        process, pipe = start(drawn_dataset, tmp_path / "resume")
        for _ in range(dice.randint(1, 4)):
            step = pipe.recv()
            if not isinstance(step, int) or step >= STEPS - 1:
                break
        time.sleep(dice.uniform(0, 0.2))
        process.kill()
        process.join()
    steps, answer = finish(*start(drawn_dataset, tmp_path / "resume"))
    assert answer == expected
    assert steps == [] or steps[0] > 1, "it began anew"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
