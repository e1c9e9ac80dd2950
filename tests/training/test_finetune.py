"""Fine-tuning learns, is never worse than its start, and goes on after a stop as if there had been none."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pytest
import torch

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import INDEX, SHARDS, Dataset, load_dataset
from catflap.artifacts.manifest import load_manifest
from catflap.artifacts.tables import read_table, write_table
from catflap.data.prepare import prepare
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, encode
from catflap.machine import describe_machine
from catflap.progress import silent
from catflap.runtime.scoring import frames_of
from catflap.training.backbones import RESNET8, digest_tensors, load_backbone
from catflap.training.distributed import Precision, fastest_precision
from catflap.training.features import Extractor
from catflap.training.finetune import (
    LoopSettings,
    Run,
    _record,
    _schedule,
    _step_seed,
    averaged,
    choose_blend,
    copied,
    expected_gains,
    finetuning,
    mirror_keeps_labels,
    predict,
    scratch,
    soft_targets,
    train_weights,
)
from catflap.training.head import fit_head, log_loss
from catflap.training.network import Network
from catflap.training.plan import Plan
from catflap.training.train import train
from tests.matrix import mostly_slow
from tests.tiny import TINY
from tests.training.small import DividesBySpread, Forgets, Small, SteepAtZero, small_network

RECIPE = LoopSettings(
    epochs=3, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5, save_every=2
)
needs_bf16 = pytest.mark.skipif(
    fastest_precision("cpu") == "32-true", reason="this processor is slow in bf16"
)
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
    kind: type[Small] = Small, begin: int = 0, precision: Precision = "32-true", **options: Any,
) -> tuple[Network, Run]:  # fmt: skip
    """A fine-tuned small network with the average of its weights; `stop` raises Stop after that step."""

    def stopping(step: str, done: int, total: int) -> None:
        if stop and done == stop:
            raise Stop

    network = small_network(kind, begin)
    ended = train_weights(
        network, dataset, resume, recipe, seed, "cpu", stopping if stop else silent, precision=precision,
        **options,
    )  # fmt: skip
    network.load_state_dict(ended.weights)
    return network, ended


Undisturbed: TypeAlias = Callable[[LoopSettings, Precision], tuple[Network, Run]]


@pytest.fixture(scope="module")
def undisturbed(drawn_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """How a run ends that nothing stops, by recipe and precision, each run once."""

    @cache
    def ended(recipe: LoopSettings, precision: Precision) -> tuple[Network, Run]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return run(drawn_dataset, tmp_path_factory.mktemp("run") / "resume", recipe, precision=precision)
        finally:
            torch.set_num_threads(threads)

    return ended


def weights(network: Network) -> str:
    return digest_tensors(network.state_dict())


def test_it_learns(drawn_dataset: Dataset, tmp_path: Path) -> None:
    longer = replace(RECIPE, epochs=12)
    network, ended = run(drawn_dataset, tmp_path / "resume", longer)
    validation = drawn_dataset.photos("validation")
    logits = predict(network, validation, drawn_dataset.frame)
    assert (logits.argmax(1) == validation.labels).all()
    epochs = [entry for entry in ended.history if entry["step"] == "finetune"]
    assert len(epochs) == 12
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert epochs[-1]["validation_accuracy"] == 1.0
    assert epochs[-1]["validation_log_loss"] == pytest.approx(log_loss(logits, validation.labels), rel=1e-5)
    assert epochs[0]["validation_log_loss"] > 2 * epochs[-1]["validation_log_loss"]
    assert (ended.learnt, ended.learnt_before) == (12 * len(drawn_dataset.photos("train")), 0)


def test_photos_to_learn_from_can_be_given(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """They are not judged; the loop learns from all of them."""
    photos = drawn_dataset.photos("validation")
    network, ended = run(drawn_dataset, tmp_path / "resume", replace(RECIPE, epochs=40), photos=photos)
    logits = predict(network, photos, drawn_dataset.frame)
    assert (logits.argmax(1) == photos.labels).all()
    assert not any("validation_log_loss" in entry for entry in ended.history)
    assert ended.learnt == 40 * len(photos)


def test_every_weight_learns_and_batch_norm_keeps_its_statistics(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    before = small_network().state_dict()
    after = run(drawn_dataset, tmp_path / "resume")[0].state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert kept == {f"backbone.norm.{name}" for name in statistics}


def blended(
    dataset: Dataset, folder: Path, recipe: LoopSettings, head_accuracy: float, forced: bool = False
) -> tuple[Network, dict[float, dict[str, Any]], float]:
    """The network after the choice of its blend, what was tried by share, and the share that was kept."""
    network = small_network()
    start = copied(network)
    ended = train_weights(network, dataset, folder / "resume", recipe, 0, "cpu", silent)
    blend = choose_blend(network, start, ended.weights, dataset, head_accuracy, forced=forced)
    (kept,) = (entry["share"] for entry in blend.history if entry["kept"])
    assert kept == blend.share
    logits = predict(network, dataset.photos("validation"), dataset.frame)
    np.testing.assert_allclose(blend.logits, logits, atol=1e-5)
    return network, {entry["share"]: entry for entry in blend.history}, blend.share


def test_the_blend_with_the_best_expected_loss_is_kept(drawn_dataset: Dataset, tmp_path: Path) -> None:
    _, tried, share = blended(drawn_dataset, tmp_path, replace(RECIPE, epochs=12), 0.5)
    assert list(tried) == [0, 0.25, 0.5, 0.75, 1]
    assert tried[0]["expected_gain"] == 0
    assert share == max(tried, key=lambda each: tried[each]["expected_gain"]) > 0
    assert tried[share]["validation_log_loss"] < 0.75 * tried[0]["validation_log_loss"]


def test_a_small_gain_is_not_enough_unless_weights_are_averaged(
    drawn_dataset: Dataset, tmp_path: Path
) -> None:
    _, tried, share = blended(drawn_dataset, tmp_path, replace(RECIPE, epochs=12), 0.5)
    of_start = tried[share]["expected_gain"] / tried[0]["validation_log_loss"]
    assert 0 < of_start < 1
    network = small_network()
    start = copied(network)
    ended = train_weights(
        network, drawn_dataset, tmp_path / "resume", replace(RECIPE, epochs=12), 0, "cpu", silent
    )
    kept = {}
    for least in (0.0, 0.999):
        network.load_state_dict(start)
        kept[least] = choose_blend(network, start, ended.weights, drawn_dataset, 0.5, least_gain=least).share
    assert kept == {0.0: share, 0.999: 0}


@pytest.mark.parametrize("forced", [False, True])
def test_ruined_weights_are_left_for_the_start(drawn_dataset: Dataset, tmp_path: Path, forced: bool) -> None:
    """Unless fine-tuning was asked for by name: then the least harmful blend is the answer."""
    ruinous = replace(RECIPE, epochs=4, learning_rate=300.0, ema_decay=0.0)
    network, tried, share = blended(drawn_dataset, tmp_path, ruinous, 0.99, forced)
    assert tried[1.0]["validation_log_loss"] > tried[0.0]["validation_log_loss"]
    assert (share > 0) == forced
    if not forced:
        assert weights(network) == weights(small_network())


def test_averaged_weights_are_the_mean() -> None:
    ends = [{"weight": torch.tensor([one, 3.0]), "count": torch.tensor(7)} for one in (0.0, 3.0, 6.0)]
    mean = averaged(ends)
    assert torch.allclose(mean["weight"], torch.tensor([3.0, 3.0]))
    assert mean["count"] == 7
    assert ends[0]["weight"][0] == 0, "the ends stay as they are"


def test_expected_gains_weigh_evidence_against_experience() -> None:
    """Few photos leave the prior, many overrule it; a good head is left for strong evidence only."""
    dice = np.random.default_rng(0)
    start = dice.gamma(1.0, 0.5, 2000)

    def gains(count: int, factor: float, accuracy: float) -> np.ndarray:
        losses = np.stack([start[:count], *[factor * start[:count]] * 4])
        return expected_gains(losses + dice.normal(0, 0.5, losses.shape), np.arange(count), accuracy)

    assert gains(10, 1.0, 0.8).argmax() > 0, "of a poor head fine-tuning is expected to help"
    assert gains(2000, 1.3, 0.8).argmax() == 0, "unless many photos say that it does not"
    assert gains(10, 1.0, 0.99).argmax() == 0
    assert gains(2000, 0.7, 0.99).argmax() > 0
    alike = np.tile(start[:5], (5, 1))
    assert gains(5, 1.0, 0.8).shape == expected_gains(alike, np.zeros(5, int), 0.8).shape == (5,)
    assert np.isfinite(expected_gains(np.zeros((5, 4)), np.arange(4), 1.0)).all()


def test_a_poor_head_lets_every_weight_change() -> None:
    poor = finetuning(2, 0.1, 0.8, 64)
    assert (poor.optimiser, poor.backbone_rate_ratio, poor.shift) == ("adamw", 1.0, 0.125)
    assert finetuning(2, 0.1, 0.8, 65).shift == 0, "larger photos are cropped"
    good = finetuning(2, 0.1, 0.99, 64)
    assert (good.optimiser, good.backbone_rate_ratio, good.label_smoothing) == ("sgd", 0.1, 0.0)
    own_rate = finetuning(2, 1.0, 0.5, 64)
    assert own_rate == LoopSettings(2, backbone_rate_ratio=1), "the backbone asks for its own rate"
    assert finetuning(2, 0.1, 0.8, 64, mirror=False).crops.mirror is False


def test_a_random_start_suits_the_number_and_size_of_the_photos() -> None:
    assert [scratch(2, photos, 64).batch for photos in (9_999, 10_000)] == [32, 128]
    assert [scratch(2, 50, side).shift for side in (64, 65)] == [0.125, 0.0]


@pytest.mark.parametrize(("upright", "keeps"), [(True, False), (False, True)])
def test_mirroring_is_left_out_where_it_changes_labels(upright: bool, keeps: bool) -> None:
    """Labels that a bright left or right half tells, or a bright or dark photo."""
    dice = np.random.default_rng(0)
    labels = np.arange(2).repeat(20)
    files = []
    for label in labels:
        pixels = dice.integers(60, 120, (32, 32, 3)).astype(np.uint8)
        if upright:
            pixels[:, 16 * label : 16 * label + 16] += 100
        else:
            pixels += np.uint8(100 * label)
        files.append(encode(pixels, "PNG"))
    photos: Any = type("Files", (list,), {"labels": labels})(files)

    def halves(frames: np.ndarray) -> np.ndarray:
        return np.stack([frames[:, :, :16].mean((1, 2, 3)), frames[:, :, 16:].mean((1, 2, 3))], 1) / 100

    extractor = Extractor(lambda frames: halves(frames).astype(np.float32), Frame(32, 32), 2, "")
    features = np.concatenate([extractor.model(frames) for frames in frames_of(photos, extractor.frame)])
    head = fit_head([(features, labels)], 2, 1.0, False)
    assert mirror_keeps_labels(extractor, head, photos, head.logits(features)) is keeps


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
    settings = run(drawn_dataset, tmp_path / "resume", recipe, precision=precision)[1].history[0]
    photos = len(drawn_dataset.photos("train"))
    assert settings == {"step": "settings", **vars(recipe), "precision": precision, "photos": photos}


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
    monkeypatch.setattr("catflap.training.distributed.describe_machine", lambda: given)
    assert fastest_precision("cpu") == ("bf16-mixed" if quick else "32-true")
    assert fastest_precision("mps") == "32-true", "not tried"


def test_two_runs_are_bit_equal_and_another_seed_is_not(drawn_dataset: Dataset, tmp_path: Path) -> None:
    one, other, third = (
        weights(run(drawn_dataset, tmp_path / f"resume{n}", seed=n // 2)[0]) for n in range(3)
    )
    assert one == other != third


@pytest.mark.parametrize(
    ("recipe", "stop", "precision"),
    [
        *((RECIPE, stop, "32-true") for stop in (4, 14)),
        *(pytest.param(RECIPE, stop, "32-true", marks=pytest.mark.slow) for stop in (1, 7)),
        (ADAMW, 7, "32-true"),
        pytest.param(RECIPE, 7, "bf16-mixed", marks=needs_bf16),
    ],
)
def test_a_stopped_run_ends_like_an_undisturbed_one(
    drawn_dataset: Dataset,
    tmp_path: Path,
    recipe: LoopSettings,
    stop: int,
    precision: Precision,
    undisturbed: Undisturbed,
) -> None:
    """15 steps, five an epoch; saved after each second step and at the end of each epoch."""
    network, ended = undisturbed(recipe, precision)
    for at in (stop, stop + 1):
        with pytest.raises(Stop):
            run(drawn_dataset, tmp_path / "resume", recipe, stop=at, precision=precision)
    again, same = run(drawn_dataset, tmp_path / "resume", recipe, precision=precision)
    assert weights(again) == weights(network)
    assert same.history == ended.history
    assert same.learnt + same.learnt_before == ended.learnt


def test_a_curve_has_few_points_whose_mean_is_the_epochs_loss() -> None:
    """A run of 1,000 steps, 250 an epoch, stopped after each step and gone on from what JSON keeps."""
    history: list[dict[str, Any]] = []
    for step in range(1, 1001):
        _record(history, step, (250, 1000), {"loss": 1 / step, "rate": float(step)})
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
        _record(history, step, (10, 25), {"loss": float(step), "rate": 1.0})
    epochs = [(entry["epoch"], entry["train_loss"]) for entry in history if entry["step"] == "finetune"]
    assert epochs == [(1, 5.5), (2, 15.5), (2.5, 23.0)]


def test_a_part_of_an_epoch_is_learnt_judged_and_gone_on_from(drawn_dataset: Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=0.4, save_every=1)
    steps = -(-len(drawn_dataset.photos("train")) // recipe.batch)
    network, ended = run(drawn_dataset, tmp_path / "undisturbed", recipe)
    history = ended.history
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
    places = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63 - 1, 0, 0))
    assert len({_step_seed(*place) for place in places}) == 5


def test_what_is_kept_is_one_file(drawn_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / ".resume.partial-999999999").write_bytes(b"left by a kill")
    with pytest.raises(Stop):
        run(drawn_dataset, tmp_path / "resume", stop=9)
    assert [path.name for path in tmp_path.iterdir()] == ["resume"]


@pytest.mark.parametrize(
    "damage", mostly_slow(["cut", "text", "empty", "flipped", "flipped early", "flipped late"], 3)
)
def test_a_damaged_file_is_noticed(
    drawn_dataset: Dataset,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
    undisturbed: Undisturbed,
) -> None:
    """Even by one bit, wherever it is: training starts over, with a warning."""
    expected = weights(undisturbed(RECIPE, "32-true")[0])
    resume = tmp_path / "resume"
    with pytest.raises(Stop):
        run(drawn_dataset, resume, stop=4)
    data = bytearray(resume.read_bytes())
    places = {"flipped": len(data) // 2, "flipped early": 5, "flipped late": len(data) - 1}
    if damage in places:
        data[places[damage]] ^= 1
        resume.write_bytes(data)
    else:
        resume.write_bytes({"cut": data[:-100], "text": b"no tensors", "empty": b""}[damage])
    network, ended = run(drawn_dataset, resume)
    assert weights(network) == expected
    assert ended.learnt_before == 0
    (reported,) = (record.getMessage() for record in caplog.records)
    assert f"{resume} is damaged" in reported


def test_what_another_run_left_is_not_taken_up(
    drawn_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another recipe, seed or start: each begins anew, and ends as it would have without the file.

    A warning says that a stopped run is lost; one that has ended loses nothing.
    """
    other = LoopSettings(**{**vars(RECIPE), "learning_rate": 0.05})
    resume, alone = tmp_path / "resume", tmp_path / "alone"
    with pytest.raises(Stop):
        run(drawn_dataset, resume, stop=4)
    assert weights(run(drawn_dataset, resume, other)[0]) == weights(run(drawn_dataset, alone, other)[0])
    (reported,) = (record.getMessage() for record in caplog.records)
    assert f"{resume} is of another run" in reported
    alone.unlink()
    expected = run(drawn_dataset, alone, seed=3, begin=1)[0]
    assert weights(run(drawn_dataset, resume, seed=3, begin=1)[0]) == weights(expected)
    assert weights(run(drawn_dataset, resume, begin=2)[0]) not in (
        weights(expected),
        weights(run(drawn_dataset, alone)[0]),
    )
    assert len(caplog.records) == 1


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [_schedule(step, 100, 0.1) for step in range(100)]
    assert rates[:11] == pytest.approx([*(n / 10 for n in range(1, 11)), 1.0])
    assert all(before >= after for before, after in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01


def with_flat_photo(dataset: Dataset, folder: Path, data: bytes) -> tuple[Dataset, str]:
    """A copy of the Dataset with other bytes in place of one train photo; return its id."""
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
    assert weights(run(mapped, tmp_path / "one")[0]) == weights(run(mapped, tmp_path / "other")[0])


def test_a_photo_that_cannot_be_read_is_named(drawn_dataset: Dataset, tmp_path: Path) -> None:
    dataset, photo = with_flat_photo(drawn_dataset, tmp_path / "damaged", b"no photo")
    with pytest.raises(BadPhoto, match=photo):
        run(dataset, tmp_path / "resume")


def test_a_random_start_learns_batch_norm_too(drawn_dataset: Dataset, tmp_path: Path) -> None:
    network = small_network()
    before = network.state_dict()["backbone.norm.running_mean"].clone()
    recipe = LoopSettings(**{**vars(scratch(12, photos=36, side=32)), "batch": 8, "ema_decay": 0.5})
    ended = train_weights(network, drawn_dataset, tmp_path / "resume", recipe, 0, "cpu", silent)
    network.load_state_dict(ended.weights)
    logits = predict(network, drawn_dataset.photos("validation"), drawn_dataset.frame)
    assert not torch.equal(network.state_dict()["backbone.norm.running_mean"], before)
    assert not network.training
    assert (logits.argmax(1) == drawn_dataset.photos("validation").labels).mean() >= 0.9


def test_batch_norm_never_learns_from_one_photo(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """Where nothing but one value a channel is left of a photo its variance is none, and torch refuses it."""
    dataset = replace(drawn_dataset, frame=Frame(16, 16))
    recipe = LoopSettings(**{**vars(scratch(2, photos=36, side=16)), "batch": 35})
    network = Network(load_backbone(RESNET8, pretrained=False), 2)
    recorded: list[dict[str, Any]] = []
    ended = train_weights(
        network, dataset, tmp_path / "resume", recipe, 0, "cpu", silent, record=recorded.append
    )
    history = ended.history
    assert history[1:] == recorded, "each entry is recorded once it is whole"
    assert [entry["epoch"] for entry in history if entry["step"] == "finetune"] == [1, 2]
    alone = LoopSettings(**{**vars(recipe), "batch": 1})
    with pytest.raises(CatflapError, match="one photo of a batch"):
        train_weights(network, dataset, tmp_path / "resume", alone, 0, "cpu", silent)


def soft_targets_of(
    teachers: list[Checkpoint], dataset: Dataset, share: float, device: str = "cpu"
) -> np.ndarray:
    return soft_targets(teachers, dataset.labels, dataset.photos("train"), share, device, silent)


def test_a_teacher_moves_the_targets(drawn_dataset: Dataset, drawn_checkpoint: Checkpoint) -> None:
    photos = drawn_dataset.photos("train")
    alone = soft_targets_of([drawn_checkpoint], drawn_dataset, 0.0, "cpu:0")
    assert np.array_equal(alone, np.eye(2, dtype=np.float32)[photos.labels])
    soft = soft_targets_of([drawn_checkpoint], drawn_dataset, 0.7)
    assert soft.sum(1) == pytest.approx(1)
    assert (soft != alone).all()
    assert (soft.argmax(1) == photos.labels).all(), "the teacher knows these photos"


def test_of_an_ensemble_the_mean_is_learnt(
    drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """On "cpu:0", where torch answers and no graph is written."""
    other = train(drawn_dataset, tmp_path / "other", Plan(backbone=TINY, recipe="scratch", epochs=1))
    both = [drawn_checkpoint, other]
    one, two = (soft_targets_of([teacher], drawn_dataset, 0.7, "cpu:0") for teacher in both)
    assert not np.allclose(one, two, atol=1e-3)
    soft = soft_targets_of(both, drawn_dataset, 0.7, "cpu:0")
    assert soft == pytest.approx((one + two) / 2, abs=1e-6)


def test_a_teacher_answers_on_the_device(drawn_dataset: Dataset, drawn_checkpoint: Checkpoint) -> None:
    """ "cpu:0", no name of the CPU here, is taken for a GPU: torch answers there, and not ONNX Runtime."""
    one, other = (
        soft_targets_of([drawn_checkpoint], drawn_dataset, 0.7, device) for device in ("cpu", "cpu:0")
    )
    assert 0 < np.abs(one - other).max() < 1e-4


def test_targets_reach_their_photos(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """A teacher that is always wrong teaches the opposite."""
    photos = drawn_dataset.photos("train")
    wrong = np.eye(2, dtype=np.float32)[1 - photos.labels]
    network = small_network()
    longer = LoopSettings(epochs=12, batch=8, learning_rate=0.1, backbone_rate_ratio=1.0, ema_decay=0.5)
    ended = train_weights(
        network, drawn_dataset, tmp_path / "resume", longer, 0, "cpu", silent, targets=wrong
    )
    network.load_state_dict(ended.weights)
    logits = predict(network, drawn_dataset.photos("validation"), drawn_dataset.frame)
    assert (logits.argmax(1) == drawn_dataset.photos("validation").labels).mean() <= 0.1


def test_a_teacher_of_other_labels_is_refused(drawn_dataset: Dataset, drawn_checkpoint: Checkpoint) -> None:
    photos = drawn_dataset.photos("train")
    with pytest.raises(CatflapError, match="has other labels"):
        soft_targets([drawn_checkpoint], ("dog", "other"), photos, 0.7, "cpu", silent)
