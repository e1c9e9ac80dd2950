"""Dataset to Checkpoint, the verb `train`: search, head, warm-up, fine-tuning, choice."""

from __future__ import annotations

import io
import json
import os
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from catflap.artifacts.checkpoint import CROSS_FITTED, MARKER, Checkpoint, load_checkpoint, save_checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.folder import (
    atomic_folder,
    check_place,
    only_writer,
    refuse_foreign,
    write_atomically,
    write_bytes,
)
from catflap.data.roles import FEW
from catflap.errors import CatflapError
from catflap.evaluation.metrics import measure
from catflap.image import Frame
from catflap.progress import Progress, Record, ignore, silent
from catflap.runtime.engine import Logits
from catflap.runtime.scoring import frames_of
from catflap.training.augment import photo_side
from catflap.training.backbones import PACKAGED, Backbone, check_frame, digest_tensors, load_backbone
from catflap.training.cost import CostMeter, count_flops
from catflap.training.distributed import (
    Precision,
    barrier,
    broadcast,
    common_precision,
    compute_on_rank0,
    is_first_process,
    is_single_process,
    open_fabric,
    pick_device,
    sum_over_processes,
)
from catflap.training.features import counting, labelled_features, open_extractor
from catflap.training.finetune import (
    ALL_PHOTOS_SHARE,
    GOOD_HEAD,
    MIN_GAIN,
    TEACHERS_SHARE,
    History,
    LoopSettings,
    Run,
    Tensors,
    averaged,
    choose_blend,
    copied,
    finetuning,
    mirror_keeps_labels,
    mixed,
    predict_shared,
    scratch,
    soft_targets,
    train_weights,
    usual_epochs,
)
from catflap.training.head import Choice, Head, cross_fit
from catflap.training.network import Network, save_weights
from catflap.training.plan import EPOCHS, Plan
from catflap.training.search import (
    MAX_REPEATS,
    OVERHEAD,
    REPEATED_EPOCHS,
    Clock,
    Pick,
    candidates,
    check_time,
    fit_on_features,
    pixels_of,
    search,
    seconds_a_photo,
    seconds_of_features,
    start_clock,
    usual_seconds,
)
from catflap.training.self_supervised import (
    FROZEN,
    MARGIN,
    MOST_PHOTOS,
    PART,
    epochs_for,
    view_of,
    warmed_up,
)
from catflap.training.slim import slimmed
from catflap.training.step_logging import StepLogger, log_nothing
from catflap.version import VERSION

DEFAULT_PLAN = Plan()
NEAR_PERFECT = 0.98  # of the photos that judge a head: nothing is left for fine-tuning to gain
MIRRORED = 300  # validation photos that show whether mirroring changes labels
WARM_UP_SHARE, WITH_TIME = 1 / 4, 3  # of the minutes that nothing else needs; × the usual epochs, at most
ALL_PHOTOS_FILES = tuple(f"resume-all-{number}" for number in range(1, MAX_REPEATS + 1))
WORK_FILES = ("resume", *ALL_PHOTOS_FILES, "warmed", "decided")
WARM_UP_GAIN = 0.0  # of the head's log loss, from which on the warmed weights are kept


@dataclass
class _Run:
    """What all steps of a training need: its settings and resources."""

    dataset: Dataset
    out: Path
    plan: Plan
    device: str
    precision: Precision
    progress: Progress
    log: StepLogger
    record: Record
    cost: CostMeter
    clock: Clock | None
    fingerprint: str
    decided: dict[str, Any] = field(default_factory=dict)  # by clock or search: a resumed run follows it

    def beside(self, kind: str) -> Path:
        """A file beside the Checkpoint, for a stopped run."""
        return self.out.with_name(f".{self.out.name}.{kind}")

    def load_decided(self) -> None:
        """Read what a stopped run of the same plan and Dataset decided; all processes follow the first."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self.beside("decided").read_bytes())
            if found["made_from"] == self.fingerprint:
                self.decided = dict(found["kept"])
        self.decided = broadcast(self.decided, self.device)

    def decide(self, name: str, value: Any) -> Any:
        """Keep a decision, a JSON value, and return that of the first process."""
        self.decided[name] = broadcast(value, self.device)
        if is_first_process():
            fields = {"made_from": self.fingerprint, "kept": self.decided}
            write_atomically(self.beside("decided"), json.dumps(fields, allow_nan=False).encode())
        return self.decided[name]


@dataclass(frozen=True)
class _Trained:
    """A trained network; `logits` are those of validation photos by weights that have not seen them."""

    recipe: str
    backbone: Backbone
    frame: Frame
    network: Network
    logits: Logits
    history: History
    added: Logits | None = None  # of `cross_fit`, for each calibration photo


def train(
    dataset: Dataset,
    out: Path,
    plan: Plan = DEFAULT_PLAN,
    *,
    device: str = "auto",
    progress: Progress = silent,
    log: StepLogger = log_nothing,
    record: Record = ignore,
) -> Checkpoint:
    """Train a classifier on the train photos, choose by the validation photos, write a Checkpoint.

    A stopped run resumes: features are cached, and the loop continues with the next batch. Under torchrun all
    processes share each batch. `record` gets the entries of the Checkpoint's history while they come, some
    again when they have grown. Raises CatflapError for an impossible plan, or while another process trains
    into `out`.
    """
    plan.check()
    out = Path(out)
    refuse_foreign(out, MARKER)
    check_place(out)
    with only_writer(out, "train") if is_first_process() else nullcontext():  # the others write nothing
        cost = CostMeter()
        progress = cost.metered(progress)
        device = pick_device(device)
        if not is_single_process():
            open_fabric(device)  # gives each process its GPU before anything is computed there
        precision = common_precision(device) if plan.precision == "auto" else "32-true"
        clock = None
        if plan.minutes:
            clock = start_clock(plan.minutes, cost.start, device, precision, finetunes=plan.may_finetune)
        run = _Run(
            dataset, out, plan, device, precision, progress, log, record, cost, clock,
            plan.fingerprint(dataset),
        )  # fmt: skip
        run.load_decided()
        torch.manual_seed(plan.seed)  # of a random start

        if plan.recipe == "scratch":
            pick, trained = None, _from_scratch(run)
        else:
            pick = _pick(run)
            run.dataset = replace(dataset, frame=pick.frame)
            trained = _head_and_finetune(run, pick.backbone)
        if is_first_process():
            _write(run, trained, pick.trials if pick else [])
            for kind in WORK_FILES:
                run.beside(kind).unlink(missing_ok=True)
        barrier(device)
        return load_checkpoint(out)


def _pick(run: _Run) -> Pick:
    """The backbone and frame that the plan names, or that the search picks or had picked before a stop."""
    plan, dataset, device = run.plan, run.dataset, run.device
    photos = dataset.needed("train")
    if plan.searches:
        found = candidates(dataset, plan.trials)
        if "pick" not in run.decided:
            limits = plan.max_ms, plan.size_limit
            pick = search(dataset, found, limits, device, run.progress, run.cost, run.clock, run.record)
            run.decide("pick", {"number": pick.number, "trials": pick.trials})
            return pick
        number, trials = run.decided["pick"]["number"], run.decided["pick"]["trials"]
        for trial in trials:
            run.record(trial)
        name, frame = found[number].backbone, found[number].frame
    else:
        number, trials, name, frame = 0, [], plan.backbone or PACKAGED, dataset.frame
    backbone = load_backbone(name, weights=plan.weights)
    check_frame(backbone, frame)
    backbone = slimmed(backbone, photos, frame, device=device, progress=run.progress)
    if run.clock and not plan.searches:
        extractor = open_extractor(backbone, frame, device=device)
        pace = broadcast(seconds_of_features(extractor, photos, device), device)
        check_time(run.clock, backbone, frame, pace, dataset)
    return Pick(number, backbone, frame, trials)


def _head_and_finetune(run: _Run, backbone: Backbone) -> _Trained:
    """A head on frozen features, then fine-tuning if plan or head ask for it, and the better of both."""
    dataset = run.dataset
    choice = _fit_head(run, backbone, ("features of train", "features of validation"))
    history = list(choice.tried)
    for entry in history:
        run.record(entry)
    warm_up = _warm_up_epochs(run, backbone, choice)
    if warm_up:
        backbone, choice, entry = _warm_up(run, backbone, choice, warm_up)
        history = [*choice.tried, entry]
    network = assemble(backbone, choice.head)
    epochs = _epochs(run, backbone, network, choice.chosen["validation_accuracy"])
    if epochs:
        tuned = _finetune(run, backbone, network, choice, epochs)
        history += tuned.history
        if tuned.recipe == "finetune":
            return replace(tuned, history=history)
    head, added = choice.refitted, None
    if sum(dataset.roles.values()) < FEW and len(dataset.photos("calibration")):
        head, added = _learn_calibration(run, backbone, choice)
    network = assemble(backbone, head)
    return _Trained("head", backbone, dataset.frame, network, choice.validation_logits, history, added)


def _fit_head(run: _Run, backbone: Backbone, steps: tuple[str, str]) -> Choice:
    """The best head on the features of train and validation photos; `steps` name their progress."""
    dataset, before = run.dataset, run.cost.computed
    roles = dataset.needed("train"), dataset.needed("validation")
    choice = fit_on_features(
        backbone, dataset.frame, roles, len(dataset.labels), run.device, run.progress, run.cost,
        steps=steps, final=True,
    )  # fmt: skip
    run.cost.cached += sum(map(len, roles)) - (run.cost.computed - before)
    return choice


def _warm_up_epochs(run: _Run, backbone: Backbone, choice: Choice) -> float:
    """Epochs of self-supervised warm-up: of a poor head, for few photos.

    Within minutes fewer if the usual warm-up and fine-tuning do not fit, and more if time is left over.
    """
    plan, photos = run.plan, sum(len(run.dataset.photos(role)) for role in ("train", "validation"))
    poor = choice.chosen["validation_accuracy"] < GOOD_HEAD
    if plan.recipe is not None or not poor or photos > MOST_PHOTOS or not is_single_process():
        return 0
    network, view = assemble(backbone, choice.head), view_of(run.dataset.frame)
    try:
        check_frame(backbone, view)
    except CatflapError:  # a network for one size only
        return 0
    usual = epochs_for(photos, count_flops(network, view)[0])
    if not run.clock:
        return usual
    if "warm_up_epochs" not in run.decided:
        views = replace(run.dataset, frame=view)
        settings = LoopSettings(batch=2 * PART, frozen=FROZEN)
        pace = seconds_a_photo(network, views, settings, run.device, run.precision) * OVERHEAD
        epoch, left = 2 * photos * pace, run.clock.left()
        at_frame = pace * pixels_of(run.dataset.frame) / pixels_of(view)
        needed = sum(usual_seconds(network, run.dataset, at_frame))
        seconds = usual * epoch * min(1.0, left / needed) + WARM_UP_SHARE * max(0.0, left - needed)
        fitting = min(WITH_TIME * usual, seconds / epoch)
        run.decide("warm_up_epochs", fitting if fitting >= min(1, usual) else 0)
    return float(run.decided["warm_up_epochs"])


def _warm_up(
    run: _Run, backbone: Backbone, choice: Choice, epochs: float
) -> tuple[Backbone, Choice, dict[str, Any]]:
    """The backbone after a self-supervised warm-up, and its head, if that is better; and what was found."""
    both = together(run.dataset.photos("train"), run.dataset.photos("validation"))
    warmed = _warmed_backbone(run, backbone, both, epochs, _mirrors(run, backbone, choice))
    again = _fit_head(run, warmed, ("features after the warm-up",) * 2)
    losses = {name: one.chosen["validation_log_loss"] for name, one in (("before", choice), ("after", again))}
    kept = losses["after"] < (1 - WARM_UP_GAIN) * losses["before"]
    entry = {"step": "warm up", "epochs": epochs, "photos": len(both), **losses, "kept": kept}
    if kept:
        backbone, choice = warmed, again
    for one in (*(again.tried if kept else ()), entry):
        run.record(one)
    return backbone, choice, entry


def _warmed_backbone(run: _Run, backbone: Backbone, photos: Photos, epochs: float, mirror: bool) -> Backbone:
    """`warmed_up`, or what a stopped run has kept of it."""
    kept = run.beside("warmed")
    with suppress(OSError, SafetensorError):
        tensors = load(kept.read_bytes())
        if digest_tensors(tensors) == run.decided.get("warmed"):
            copy = replace(backbone, network=deepcopy(backbone.network), sha256=run.decided["warmed"])
            copy.network.load_state_dict(tensors)
            return copy
    pixels = np.concatenate(list(frames_of(photos, view_of(run.dataset.frame, MARGIN))))
    warmed = warmed_up(
        backbone, pixels, run.dataset.frame, epochs=epochs, mirror=mirror, seed=run.plan.seed,
        device=run.device, precision=run.precision, progress=run.progress,
    )  # fmt: skip
    tensors = {name: tensor.contiguous() for name, tensor in warmed.network.state_dict().items()}
    write_atomically(kept, save(tensors))
    run.decide("warmed", warmed.sha256)
    return warmed


def _learn_calibration(run: _Run, backbone: Backbone, choice: Choice) -> tuple[Head, Logits]:
    """`cross_fit` of the chosen head: of few photos those of calibration are learnt from, too."""
    dataset = run.dataset
    extractor, computed = counting(open_extractor(backbone, dataset.frame, device=run.device))
    parts = [
        labelled_features(extractor, dataset.photos(role), f"features of {role}", run.device, run.progress)
        for role in ("train", "validation", "calibration")
    ]
    new = sum_over_processes(sum(computed), run.device)
    run.cost.computed += new
    run.cost.cached += len(parts[2][1]) - new  # the others were counted before
    learnt = np.concatenate([parts[0][0], parts[1][0]]), np.concatenate([parts[0][1], parts[1][1]])
    if choice.noise:
        learnt = learnt[0][~choice.noise.wrong], learnt[1][~choice.noise.wrong]
    groups = dataset.photos("calibration").groups
    return compute_on_rank0(
        lambda: cross_fit(choice, learnt, parts[2], groups, len(dataset.labels)), run.device
    )


def _epochs(run: _Run, backbone: Backbone, network: Network, head_accuracy: float) -> float:
    """Epochs of fine-tuning: those that the plan names, that fit its minutes, or that pay for a poor head."""
    plan, asked, poor = run.plan, run.plan.recipe == "finetune", head_accuracy < GOOD_HEAD
    if plan.recipe == "head" or (not asked and head_accuracy >= (NEAR_PERFECT if run.clock else GOOD_HEAD)):
        return 0
    if run.clock:
        if "epochs" not in run.decided:
            settings = _settings(run, 1, backbone, head_accuracy)
            run.decide("epochs", run.clock.epochs(network, run.dataset, settings))
        fitting: float = run.decided["epochs"]
        return fitting if fitting >= 1 or poor else 0  # a part of an epoch only harms a good head
    if plan.epochs or asked:
        return float(plan.epochs or EPOCHS)
    train, validation = (len(run.dataset.photos(role)) for role in ("train", "validation"))
    return usual_epochs(train, validation, count_flops(network, run.dataset.frame)[0])


def _finetune(run: _Run, backbone: Backbone, network: Network, choice: Choice, epochs: float) -> _Trained:
    """Fine-tune the network, choose its blend with the start, and let the winner learn from validation, too.

    Of several fine-tunings with all photos the weights are averaged (model soups, Wortsman et al. 2022).
    Recipe "head" in the answer means that the start is expected to be better; the backbone is then as before.
    """
    dataset, plan = run.dataset, run.plan
    accuracy = choice.chosen["validation_accuracy"]
    train, validation = dataset.photos("train"), dataset.photos("validation")
    both = together(train, validation)
    targets, trusted = None, None
    if choice.noise:
        targets, trusted = choice.noise.targets, ~choice.noise.wrong[len(train) :]
    if plan.teachers:
        targets = soft_targets(plan.teachers, dataset.labels, both, TEACHERS_SHARE, run.device, run.progress)
    mirror = _mirrors(run, backbone, choice)
    settings = _settings(run, epochs, backbone, accuracy, mirror)
    start = copied(network)
    first = train_weights(
        network, dataset, run.beside("resume"), settings, plan.seed, run.device, run.progress,
        targets=None if targets is None else targets[: len(train)], log=run.log, record=run.record,
        precision=run.precision,
    )  # fmt: skip
    run.cost.learnt += first.learnt
    run.cost.learnt_before += first.learnt_before
    repeats = _repeats(run, network, settings, len(both)) if epochs >= REPEATED_EPOCHS else 0
    blend = choose_blend(
        network, start, first.weights, dataset, accuracy, forced=plan.recipe == "finetune", trusted=trusted,
        least_gain=0 if repeats else MIN_GAIN,  # an average is better than the weights that are judged
    )  # fmt: skip
    history = [*first.history, *blend.history]
    if not blend.share:
        network.cpu()
        return _Trained("head", backbone, dataset.frame, network, blend.logits, history)
    weight, bias = (torch.from_numpy(each) for each in (choice.refitted.weights, choice.refitted.bias))
    device = start["head.weight"].device
    start |= {"head.weight": weight.to(device), "head.bias": bias.to(device)}
    ended = _learn_all(run, network, (start, first.weights), settings, both, targets, repeats)
    for each in ended:
        run.cost.learnt += each.learnt
        run.cost.learnt_before += each.learnt_before
        history += [{**entry, "photos": "all"} for entry in each.history if entry["step"] == "settings"]
    network.load_state_dict(mixed(start, averaged([each.weights for each in ended]), blend.share))
    network.cpu()
    return _Trained("finetune", backbone, dataset.frame, network, blend.logits, history)


def _learn_all(
    run: _Run,
    network: Network,
    ends: tuple[Tensors, Tensors],
    settings: LoopSettings,
    photos: Photos,
    targets: npt.NDArray[np.float32] | None,
    repeats: int,
) -> list[Run]:
    """Fine-tunings with train and validation photos; `ends` are the weights before and after the first one.

    From the start, each with another seed, as often as the minutes have time for; else on from the first
    one's end, with fewer epochs at half the rate.
    """
    begin, loop = ends[0], settings
    if not repeats:
        begin = ends[1]
        epochs, rate = ALL_PHOTOS_SHARE * settings.epochs, settings.learning_rate / 2
        loop = replace(settings, epochs=epochs, learning_rate=rate)
    ended = []
    for number, kind in enumerate(ALL_PHOTOS_FILES[: max(1, repeats)], 1):
        network.load_state_dict(begin)
        ended.append(
            train_weights(
                network, run.dataset, run.beside(kind), loop, run.plan.seed + number, run.device,
                run.progress, photos=photos, targets=targets, precision=run.precision,
            )
        )  # fmt: skip
    return ended


def _repeats(run: _Run, network: Network, settings: LoopSettings, photos: int) -> int:
    """How many fine-tunings with so many photos the minutes have time for; none without minutes."""
    if run.clock and "repeats" not in run.decided:
        run.decide("repeats", run.clock.repeats(network, run.dataset, settings, photos))
    return int(run.decided.get("repeats", 0))


def _settings(
    run: _Run, epochs: float, backbone: Backbone, head_accuracy: float, mirror: bool = True
) -> LoopSettings:
    return finetuning(epochs, backbone.rate, head_accuracy, _side(run.dataset), mirror)


def _side(dataset: Dataset) -> int:
    """The side in px of what the network sees of most train photos: their own or the frame's, if smaller."""
    return min(photo_side(dataset.photos("train")), max(dataset.frame.width, dataset.frame.height))


def _mirrors(run: _Run, backbone: Backbone, choice: Choice) -> bool:
    """Whether mirrored photos keep their labels, as the head sees it on some validation photos."""
    if "mirror" not in run.decided:
        validation = run.dataset.photos("validation")
        first = np.argsort(validation.ids)[:MIRRORED]
        extractor = open_extractor(backbone, run.dataset.frame, device=run.device)
        some, logits = validation.take(first), choice.validation_logits[first]
        run.decide("mirror", mirror_keeps_labels(extractor, choice.head, some, logits))
    return bool(run.decided["mirror"])


def _from_scratch(run: _Run) -> _Trained:
    """Every weight from a random start, for users without a suitable backbone."""
    dataset, plan = run.dataset, run.plan
    dataset.needed("validation")
    backbone = load_backbone(plan.backbone or PACKAGED, pretrained=False)
    check_frame(backbone, dataset.frame)
    network, photos = Network(backbone, len(dataset.labels)), dataset.needed("train")
    targets = None
    if plan.teachers:
        targets = soft_targets(
            plan.teachers, dataset.labels, photos, TEACHERS_SHARE, run.device, run.progress
        )
    ended = train_weights(
        network, dataset, run.beside("resume"), scratch(plan.epochs or EPOCHS, len(photos), _side(dataset)),
        plan.seed, run.device, run.progress, targets=targets, log=run.log, record=run.record,
        precision=run.precision,
    )  # fmt: skip
    run.cost.learnt, run.cost.learnt_before = ended.learnt, ended.learnt_before
    network.load_state_dict(ended.weights)
    logits = predict_shared(network, dataset.photos("validation"), dataset.frame)
    network.cpu()
    return _Trained("scratch", backbone, dataset.frame, network, logits, ended.history)


def assemble(backbone: Backbone, head: Head) -> Network:
    """A backbone and a head as one network, in eval mode."""
    network = Network(backbone, len(head.bias)).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weights))
        network.head.bias.copy_(torch.from_numpy(head.bias))
    return network


def together(one: Photos, other: Photos) -> Photos:
    """The photos of two roles of a Dataset as one."""
    columns = ("ids", "labels", "groups", "shards", "offsets", "lengths", "crcs")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(photos, name) for photos in (one, other)]) for name in columns
    }
    return replace(one, **joined)


def _write(run: _Run, trained: _Trained, trials: History) -> None:
    """Write the Checkpoint."""
    dataset, plan, backbone = run.dataset, run.plan, trained.backbone
    validation, counts = dataset.photos("validation"), np.bincount(
        dataset.photos("train").labels, minlength=len(dataset.labels)
    ) + 1  # never 0  # fmt: skip
    teachers = plan.teachers if trained.recipe != "head" else ()
    named = {f"teacher_{number}": one.sha256 for number, one in enumerate(teachers, 1)}
    if len(teachers) == 1:
        named = {"teacher": teachers[0].sha256}
    if plan.weights:
        named["weights"] = plan.weights.sha256
    with atomic_folder(run.out, MARKER) as folder:
        save_weights(folder, trained.network)
        ids = dataset.photos("calibration").ids
        added = np.zeros((0, len(dataset.labels)), np.float32) if trained.added is None else trained.added
        buffer = io.BytesIO()
        np.savez(buffer, ids=ids[: len(added)], added=added)
        write_bytes(folder / CROSS_FITTED, buffer.getvalue())
        fields = {
            "cost": run.cost.to_json(trained.network, trained.frame, run.device),
            "made_from": run.fingerprint,
            "history": [*trials, *trained.history],
            "backbone": backbone.name,
            "labels": list(dataset.labels),
            "frame": trained.frame.to_json(),
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "recipe": trained.recipe,
            "seed": plan.seed,
            "prior": {
                label: float(count / counts.sum())
                for label, count in zip(dataset.labels, counts, strict=True)
            },
            "metrics": measure(trained.logits, validation.labels, validation.groups, dataset.labels),
            "dataset": os.path.relpath(dataset.path, run.out),
            "ancestors": {**dataset.ancestors, "dataset": dataset.sha256, **named},
            "licences": {"weights": backbone.licence} if trained.recipe != "scratch" else {},
            "versions": {"catflap": VERSION, "torch": str(torch.__version__)},
        }
        save_checkpoint(folder, fields)
