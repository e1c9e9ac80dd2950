"""Fine-tuning learns, is never worse than its start, and goes on after a stop as if there had been none."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from catflap.artifacts.dataset import INDEX, SHARDS, Dataset, load_dataset
from catflap.artifacts.manifest import load_manifest
from catflap.artifacts.tables import read_table, write_table
from catflap.data.prepare import prepare
from catflap.errors import BadPhoto, CatflapError
from catflap.image import encode
from catflap.machine import describe_machine
from catflap.progress import silent
from catflap.training.heads.head import log_loss
from catflap.training.loop.backward import draw_alike
from catflap.training.loop.curve import remember
from catflap.training.loop.every_weight import _schedule, train_every_weight
from catflap.training.loop.settings import LoopSettings
from catflap.training.networks.backbone import digest_tensors
from catflap.training.networks.network import Network
from catflap.training.precision import Precision, precision_on
from tests.training.small import DividesBySpread, Forgets, Small, SteepAtZero, small_network

RECIPE = LoopSettings(
    epochs=3, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5, save_every=2
)
needs_bf16 = pytest.mark.skipif(precision_on("cpu") == "32-true", reason="this processor is slow in bf16")
ADAMW = replace(RECIPE, optimiser="adamw", learning_rate=0.01)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A second one is of no use to so small a network, and costs much where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Stop(Exception):
    """What a test raises in the middle of a run."""


def run(
    dataset: Dataset, resume: Path, recipe: LoopSettings = RECIPE, *, stop: int = 0, seed: int = 0,
    kind: type[Small] = Small, begin: int = 0, precision: Precision = "32-true",
) -> tuple[Network, np.ndarray, list[dict[str, float]]]:  # fmt: skip
    """A fine-tuned small network; with `stop`, Stop is raised when that step is done."""

    def told(step: str, done: int, total: int) -> None:
        if stop and done == stop:
            raise Stop

    network = small_network(kind, begin)
    logits, history = train_every_weight(
        network, dataset, resume, recipe, seed, "cpu", told if stop else silent, precision=precision
    )
    return network, logits, history


def weights(network: Network) -> str:
    return digest_tensors(network.state_dict())


def blends(history: list[dict[str, float]]) -> dict[float, float]:
    return {e["share"]: e["validation_log_loss"] for e in history if e["step"] == "blend"}  # type: ignore[comparison-overlap]


def share_kept(history: list[dict[str, Any]]) -> float:
    (kept,) = (entry["share"] for entry in history if entry["step"] == "blend" and entry["kept"])
    return float(kept)


def test_it_learns(drawn_dataset: Dataset, tmp_path: Path) -> None:
    longer = LoopSettings(epochs=12, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5)
    _, logits, history = run(drawn_dataset, tmp_path / "resume", longer)
    validation = drawn_dataset.photos("validation")
    losses = blends(history)
    assert log_loss(logits, validation.labels) == min(losses.values()) < 0.5 * losses[0.0]
    assert (logits.argmax(1) == validation.labels).all()
    epochs = [entry["train_loss"] for entry in history if "train_loss" in entry]
    assert len(epochs) == 12
    assert epochs[-1] < epochs[0]
    judged = [entry for entry in history if entry["step"] == "finetune"]
    assert judged[-1]["validation_accuracy"] == 1.0
    best = min(entry["validation_log_loss"] for entry in judged)
    assert best == pytest.approx(losses[1.0], rel=1e-5), "both are of the average after the best epoch"
    assert judged[0]["validation_log_loss"] > 2 * judged[-1]["validation_log_loss"]


def test_every_weight_learns_and_batch_norm_keeps_its_statistics(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    before = small_network().state_dict()
    after = run(drawn_dataset, tmp_path / "resume")[0].state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert kept == {f"backbone.norm.{name}" for name in statistics}


def test_it_is_never_worse_than_its_start(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """At a rate that ruins the weights, what it started from is kept."""
    ruinous = LoopSettings(epochs=2, batch=8, learning_rate=30.0, backbone_rate_ratio=1.0, ema_decay=0.0)
    network, logits, history = run(drawn_dataset, tmp_path / "resume", ruinous)
    losses = blends(history)
    assert losses[1.0] > losses[0.0]
    assert log_loss(logits, drawn_dataset.photos("validation").labels) == min(losses.values()) <= losses[0.0]
    if min(losses, key=losses.__getitem__) == 0.0:
        assert weights(network) == weights(small_network())


def test_the_careful_keep_no_gain_that_may_be_chance(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two of six validation photos labelled wrongly it gets better on four and worse on two."""
    short = replace(RECIPE, epochs=1, learning_rate=0.01)
    assert share_kept(run(drawn_dataset, tmp_path / "sure", replace(short, careful=True))[2]) == 1.0
    known, photos = drawn_dataset.photos("validation"), Dataset.photos
    assert len(np.unique(known.groups)) == len(known) == 6
    puzzling = replace(known, labels=np.where(np.arange(6) < 2, 1 - known.labels, known.labels))
    monkeypatch.setattr(
        Dataset, "photos", lambda of, role: puzzling if role == "validation" else photos(of, role)
    )
    assert share_kept(run(drawn_dataset, tmp_path / "bold", short)[2]) > 0
    network, logits, history = run(drawn_dataset, tmp_path / "careful", replace(short, careful=True))
    assert share_kept(history) == 0.0
    assert weights(network) == weights(small_network())
    assert log_loss(logits, puzzling.labels) == blends(history)[0.0] > min(blends(history).values())


def test_adamw_moves_every_weight_alike(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """Its step is about the rate, whatever the gradient; SGD's of the same rate is as small as that."""
    moved = []
    for recipe in (ADAMW, replace(ADAMW, optimiser="sgd")):
        network, start = run(drawn_dataset, tmp_path / recipe.optimiser, recipe)[0], small_network()
        pairs = zip(network.backbone.parameters(), start.backbone.parameters(), strict=True)
        moved.append([float((after - before).detach().abs().mean()) for after, before in pairs])
    assert min(moved[0]) > 10 * min(moved[1])


@pytest.mark.parametrize(
    ("recipe", "precision"), [(ADAMW, "32-true"), pytest.param(RECIPE, "bf16-mixed", marks=needs_bf16)]
)
def test_the_history_begins_with_what_the_run_is_made_from(
    drawn_dataset: Dataset, tmp_path: Path, recipe: LoopSettings, precision: Precision
) -> None:
    settings = run(drawn_dataset, tmp_path / "resume", recipe, precision=precision)[2][0]
    assert settings == {"step": "settings", **vars(recipe), "precision": precision}


@needs_bf16
def test_bf16_ends_near_fp32(drawn_dataset: Dataset, tmp_path: Path) -> None:
    one, other = (
        run(drawn_dataset, tmp_path / precision, precision=precision)[0].state_dict()
        for precision in ("32-true", "bf16-mixed")
    )
    distances = [
        float((one[name] - other[name]).norm() / one[name].norm()) for name in one if one[name].any()
    ]
    assert 0 < max(distances) < 0.05


@pytest.mark.parametrize(
    ("processor", "instructions", "quick"),
    [
        ("Intel(R) Xeon(R) Processor", ("amx", "avx512", "bf16"), True),
        ("Intel(R) Xeon(R) Processor", ("avx512", "bf16"), False),
        ("AMD EPYC", ("avx512", "bf16"), True),
        ("AMD EPYC", ("avx2",), False),
    ],
)
def test_bf16_is_for_processors_that_are_quick_in_it(
    monkeypatch: pytest.MonkeyPatch, processor: str, instructions: tuple[str, ...], quick: bool
) -> None:
    given = replace(describe_machine(), processor=processor, instructions=instructions)
    monkeypatch.setattr("catflap.training.precision.describe_machine", lambda: given)
    assert precision_on("cpu") == ("bf16-mixed" if quick else "32-true")
    assert precision_on("mps") == "32-true", "not tried"


def test_two_runs_are_bit_equal_and_another_seed_is_not(drawn_dataset: Dataset, tmp_path: Path) -> None:
    one, other, third = (
        weights(run(drawn_dataset, tmp_path / f"resume{n}", seed=n // 2)[0]) for n in range(3)
    )
    assert one == other != third


@pytest.mark.parametrize(
    ("recipe", "stop", "precision"),
    [
        *((RECIPE, stop, "32-true") for stop in (1, 4, 7, 14)),
        (ADAMW, 7, "32-true"),
        pytest.param(RECIPE, 7, "bf16-mixed", marks=needs_bf16),
    ],
)
def test_a_stopped_run_ends_like_an_undisturbed_one(
    drawn_dataset: Dataset, tmp_path: Path, recipe: LoopSettings, stop: int, precision: Precision
) -> None:
    """15 steps, five an epoch; kept after each second step and at the end of each epoch."""
    network, logits, history = run(drawn_dataset, tmp_path / "undisturbed", recipe, precision=precision)
    for at in (stop, stop + 1):
        with pytest.raises(Stop):
            run(drawn_dataset, tmp_path / "resume", recipe, stop=at, precision=precision)
    again, same_logits, same_history = run(drawn_dataset, tmp_path / "resume", recipe, precision=precision)
    assert weights(again) == weights(network)
    assert np.array_equal(same_logits, logits)
    assert same_history == history


@pytest.mark.parametrize("stop", [0, 11])  # after the second of three epochs of five steps
def test_the_best_epoch_is_kept_also_over_a_stop(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Validation's opinion is given here, so that an epoch in the middle is the best."""
    after: list[dict[str, torch.Tensor]] = []

    def judged(*given: Any) -> dict[str, float]:
        after.append({name: tensor.clone() for name, tensor in given[2].items()})
        return {"validation_log_loss": (0.3, 0.1, 0.2)[len(after) - 1]}

    monkeypatch.setattr("catflap.training.loop.every_weight._judged", judged)
    unblended = replace(RECIPE, blended=False)
    if stop:
        with pytest.raises(Stop):
            run(drawn_dataset, tmp_path / "resume", unblended, stop=stop)
    network, _, _ = run(drawn_dataset, tmp_path / "resume", unblended)
    assert len(after) == 3, "no epoch was judged twice"
    different = [not torch.equal(after[1][name], after[2][name]) for name in after[1]]
    assert any(different)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, after[1][name]), name


def test_a_curve_has_few_points_whose_mean_is_the_epochs_loss() -> None:
    """A run of 1,000 steps, 250 an epoch, stopped after each step and gone on from what JSON keeps."""
    history: list[dict[str, Any]] = []
    for step in range(1, 1001):
        remember(history, step, (250, 1000), {"loss": 1 / step, "rate": float(step)})
        history = json.loads(json.dumps(history))
    steps = [entry for entry in history if entry["step"] == "steps"]
    assert len(steps) == 100
    assert [entry["last"] + 1 for entry in steps[:-1]] == [entry["first"] for entry in steps[1:]]
    assert steps[7]["loss"] == pytest.approx(np.mean([1 / step for step in range(71, 81)]))
    assert steps[-1] == {**steps[-1], "first": 991, "last": 1000, "rate": 1000.0}
    epochs = [entry for entry in history if entry["step"] == "finetune"]
    assert [entry["epoch"] for entry in epochs] == [1, 2, 3, 4]
    assert epochs[1]["train_loss"] == pytest.approx(np.mean([1 / step for step in range(251, 501)]))


def test_a_run_that_ends_within_an_epoch_tells_of_the_part() -> None:
    history: list[dict[str, Any]] = []
    for step in range(1, 26):
        remember(history, step, (10, 25), {"loss": float(step), "rate": 1.0})
    epochs = [(entry["epoch"], entry["train_loss"]) for entry in history if entry["step"] == "finetune"]
    assert epochs == [(1, 5.5), (2, 15.5), (2.5, 23.0)]


def test_a_part_of_an_epoch_is_learnt_judged_and_gone_on_from(drawn_dataset: Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=0.4, save_every=1)
    steps = -(-len(drawn_dataset.photos("train")) // recipe.batch)
    network, _, history = run(drawn_dataset, tmp_path / "undisturbed", recipe)
    assert [entry["last"] for entry in history if entry["step"] == "steps"][-1] == round(0.4 * steps)
    (epoch,) = (entry for entry in history if entry["step"] == "finetune")
    assert epoch["epoch"] == round(round(0.4 * steps) / steps, 2)
    assert epoch["validation_log_loss"] > 0
    with pytest.raises(Stop):
        run(drawn_dataset, tmp_path / "stopped", recipe, stop=1)
    assert weights(run(drawn_dataset, tmp_path / "stopped", recipe)[0]) == weights(network)


def test_what_dropout_leaves_out_is_the_same_after_a_stop(drawn_dataset: Dataset, tmp_path: Path) -> None:
    learns = replace(RECIPE, train_batch_norm=True)
    expected = weights(run(drawn_dataset, tmp_path / "undisturbed", learns, kind=Forgets)[0])
    assert expected != weights(run(drawn_dataset, tmp_path / "without", learns)[0]), "or nothing is left out"
    with pytest.raises(Stop):
        run(drawn_dataset, tmp_path / "resume", learns, kind=Forgets, stop=7)
    assert weights(run(drawn_dataset, tmp_path / "resume", learns, kind=Forgets)[0]) == expected


def test_each_step_of_each_process_draws_its_own() -> None:
    drawn = set()
    for seed, step, rank in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63 - 1, 0, 0)):
        draw_alike(seed, step, rank)
        drawn.add(float(torch.rand(1)))
    assert len(drawn) == 5


def test_what_is_kept_is_one_file(drawn_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / ".resume.partial-999999999").write_bytes(b"left by a kill")
    with pytest.raises(Stop):
        run(drawn_dataset, tmp_path / "resume", stop=9)
    assert [path.name for path in tmp_path.iterdir()] == ["resume"]


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_file_is_not_taken_up(drawn_dataset: Dataset, tmp_path: Path, damage: str) -> None:
    expected = weights(run(drawn_dataset, tmp_path / "undisturbed")[0])
    resume = tmp_path / "resume"
    with pytest.raises(Stop):
        run(drawn_dataset, resume, stop=4)
    whole = resume.read_bytes()
    resume.write_bytes({"cut": whole[:-100], "text": b"no tensors", "empty": b""}[damage])
    assert weights(run(drawn_dataset, resume)[0]) == expected


def test_what_another_run_left_is_not_taken_up(
    drawn_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another recipe, seed or start: each begins anew, and ends as it would have without the file.

    That a stopped run is lost is told; those that have ended, as trials of a search do, lose nothing.
    """
    other = LoopSettings(**{**vars(RECIPE), "learning_rate": 0.05})
    resume, alone = tmp_path / "resume", tmp_path / "alone"
    with pytest.raises(Stop):
        run(drawn_dataset, resume, stop=4)
    assert weights(run(drawn_dataset, resume, other)[0]) == weights(run(drawn_dataset, alone, other)[0])
    (told,) = (record.getMessage() for record in caplog.records)
    assert f"{resume} is of another run" in told
    alone.unlink()
    expected = run(drawn_dataset, alone, seed=3, begin=1)[0]
    assert weights(run(drawn_dataset, resume, seed=3, begin=1)[0]) == weights(expected)
    assert weights(run(drawn_dataset, resume, begin=2)[0]) not in (
        weights(expected),
        weights(run(drawn_dataset, alone)[0]),
    )
    assert len(caplog.records) == 1


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [_schedule(step, 100, LoopSettings(warm_up=0.1)) for step in range(100)]
    assert rates[:11] == pytest.approx([*(n / 10 for n in range(1, 11)), 1.0])
    assert all(before >= after for before, after in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01


def with_flat_photo(dataset: Dataset, folder: Path, data: bytes) -> tuple[Dataset, str]:
    """A copy of the Dataset with other bytes in place of one train photo, whose id is told."""
    shutil.copytree(dataset.path, folder)
    (folder / SHARDS / "flat.tar").write_bytes(data)
    rows = read_table(folder / INDEX).to_pylist()
    row = next(row for row in rows if row["role"] == "train")
    row.update(shard="flat.tar", offset=0, length=len(data), crc32=zlib.crc32(data))
    write_table(folder / INDEX, pa.Table.from_pylist(rows, read_table(folder / INDEX).schema))
    return load_dataset(folder), row["id"]


def test_a_loss_that_is_no_number_names_its_photo(drawn_dataset: Dataset, tmp_path: Path) -> None:
    flat = encode(np.full((90, 90, 3), 99, np.uint8), "PNG")
    dataset, photo = with_flat_photo(drawn_dataset, tmp_path / "flat", flat)
    with pytest.raises(CatflapError, match="is not a number for 1 of") as caught:
        run(dataset, tmp_path / "resume", kind=DividesBySpread)
    assert photo in caught.value.what
    assert not any(other in caught.value.what for other in dataset.photos("validation").ids)
    run(drawn_dataset, tmp_path / "other", kind=DividesBySpread)  # without that photo it is trained


def test_gradients_that_are_no_numbers_stop_it(drawn_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="gradients of step 1 are not numbers"):
        run(drawn_dataset, tmp_path / "resume", kind=SteepAtZero)
    assert not (tmp_path / "resume").exists()


def test_it_learns_from_the_memory_map_where_there_is_one(drawn_dataset: Dataset, tmp_path: Path) -> None:
    manifest = load_manifest(drawn_dataset.path.with_name("manifest"))
    mapped = prepare(manifest, tmp_path / "d", frame=drawn_dataset.frame, pixels=True, profile=False)
    assert mapped.sha256 != drawn_dataset.sha256
    (mapped.path / SHARDS / "train-000000.tar").unlink()
    network, logits, _ = run(mapped, tmp_path / "one")
    again, same, _ = run(mapped, tmp_path / "other")
    assert weights(network) == weights(again)
    assert np.array_equal(logits, same)


def test_a_photo_that_cannot_be_read_is_named(drawn_dataset: Dataset, tmp_path: Path) -> None:
    dataset, photo = with_flat_photo(drawn_dataset, tmp_path / "damaged", b"no photo")
    with pytest.raises(BadPhoto, match=photo):
        run(dataset, tmp_path / "resume")
