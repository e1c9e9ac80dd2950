"""The verb `explain`: one training step and one prediction of a photo, stage by stage, drawn on a page."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import load_checkpoint
from catflap.artifacts.folder import write_atomically
from catflap.artifacts.golden import load_photo
from catflap.comparison.compare import check_page, check_pair
from catflap.errors import CatflapError, need
from catflap.evaluation.charts import Line, lines, percent, render
from catflap.image import Frame, Pixels, decode, encode, inspect, read_pixels, thumbnail
from catflap.progress import Progress, silent
from catflap.runtime.bench import machine
from catflap.runtime.classifier import Classifier
from catflap.runtime.engine import engine_error

if TYPE_CHECKING:
    from catflap.training.one_step import OneStep, Stage

KICKER = "Catflap: explain"
ROUNDS = 15  # of each stage; the median counts
SHOWN = 6  # labels
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TILES, TILE = 4, 56  # a picture of activations has 4 × 4 channels of at most 56 px
T = TypeVar("T")
Map = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Walk:
    """A prediction in stages: `ms` of each, `logits` and `probabilities` (labels,), decoded size in px."""

    decoded: tuple[int, int]
    frame: Pixels
    logits: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    decision: str
    ms: dict[str, float]


def explain(
    checkpoint: Path | str | None,
    bundle: Path | str,
    photo: Path | str,
    out: Path | str,
    *,
    label: str | None = None,
    variant: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Take a photo through one training step and one prediction, and write both as one page.

    The loss compares with `label`; without it with the name of the photo's folder where that is a label, else
    with the network's own answer. Without a checkpoint only the prediction is shown. Returns the numbers of
    the page. Times are of one thread. Raises BadPhoto, and CatflapError when the bundle was not exported from
    the checkpoint or there is no such label.
    """
    need("jinja2")
    out, shipped = Path(out), load_bundle(bundle)
    check_page(out, KICKER)
    trained = None if checkpoint is None else load_checkpoint(checkpoint)
    check_pair(trained, shipped)
    target = _target(shipped, Path(photo), label)
    data = load_photo(photo, shipped.frame)
    classifier = Classifier(shipped, variant, threads=1)
    progress("explain", 0, 3)
    walk = _walk(classifier, data)
    progress("explain", 1, 3)
    fields: dict[str, Any] = {
        "photo": {"name": Path(photo).name, "bytes": len(data), "format": inspect(data).format},
        "bundle": shipped.name,
        "labels": list(shipped.labels),
        "prediction": _prediction_fields(classifier, walk),
        "variants": _variants(shipped, walk.frame),
        "training": None,
        "machine": machine(),
    }
    pictures: dict[str, Any] = {
        "photo": _jpeg(thumbnail(data, 360)),
        "frame": _uri(walk.frame, quality=85),
    }
    if trained is not None:
        from catflap.training.one_step import take_step

        step = take_step(trained, walk.frame, target)
        fields["training"] = _training_fields(step, shipped)
        pictures["stages"] = [_stage_pictures(stage) for stage in step.stages]
    progress("explain", 2, 3)
    write_atomically(out, explain_page(fields, pictures, shipped.frame).encode("utf-8"))
    progress("explain", 3, 3)
    return {**fields, "page": str(out)}


def _target(shipped: Bundle, photo: Path, label: str | None) -> int | None:
    """The number of the stated label, or of the photo's folder where that is a label, else None."""
    if label is not None and label not in shipped.labels:
        raise CatflapError(f"There is no label {label!r}.", f"Use one of: {', '.join(shipped.labels[:20])}.")
    name = photo.absolute().parent.name if label is None else label
    return shipped.labels.index(name) if name in shipped.labels else None


def _timed(step: Callable[[], T]) -> tuple[T, float]:
    """What a step returns, and its median milliseconds."""
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        found = step()
        times.append((perf_counter() - start) * 1e3)
    return found, median(times)


def _walk(classifier: Classifier, data: bytes) -> Walk:
    """One prediction, each of its stages by itself."""
    ms: dict[str, float] = {}
    classifier(data)
    whole, ms["decode"] = _timed(lambda: decode(data, classifier.frame))
    frame, ms["resize"] = _timed(lambda: read_pixels(whole, classifier.frame))
    logits, ms["network"] = _timed(lambda: classifier.model(frame[None]))
    probabilities, ms["temperature"] = _timed(lambda: classifier.probabilities(logits)[0])
    prediction, ms["decision"] = _timed(lambda: classifier.to_prediction(probabilities, 0.0))
    _, ms["answer"] = _timed(lambda: classifier(data))
    size = (whole.shape[1], whole.shape[0])
    return Walk(size, frame, logits[0].astype(np.float64), probabilities, prediction.decision, ms)


def _prediction_fields(classifier: Classifier, walk: Walk) -> dict[str, Any]:
    variant = classifier.variant
    return {
        "variant": variant.name,
        "decoded": list(walk.decoded),
        "frame_bytes": walk.frame.nbytes,
        "frame_sha256": hashlib.sha256(walk.frame.tobytes()).hexdigest(),
        "model_bytes": classifier.bundle.size_of(variant),
        "logits": walk.logits.tolist(),
        "temperature": variant.temperature,
        "probabilities": walk.probabilities.tolist(),
        "threshold": variant.decision["threshold"],
        "decision": walk.decision,
        "ms": walk.ms,
    }


def _variants(shipped: Bundle, frame: Pixels) -> list[dict[str, Any]]:
    """What each variant that runs here answers for the frame; one that needs a whole photo is left out."""
    rows = []
    for variant in shipped.variants.values():
        if variant.takes_photos or engine_error(variant) is not None:
            continue
        classifier = Classifier(shipped, variant.name, threads=1)
        logits = classifier.model(frame[None])
        probabilities = classifier.probabilities(logits)[0]
        answer = classifier.to_prediction(probabilities, 0.0)
        rows.append(
            {
                "variant": variant.name,
                "bytes": shipped.size_of(variant),
                "logits": logits[0].tolist(),
                "label": answer.label,
                "probability": answer.probability,
                "decision": answer.decision,
            }
        )
    return rows


def _training_fields(step: OneStep, shipped: Bundle) -> dict[str, Any]:
    from catflap.training.one_step import BACKBONE_RATE, HEAD_RATE, repeat_on_head

    reference = "fp32" if "fp32" in shipped.variants else None
    classifier = Classifier(shipped, reference, threads=1)
    zero = np.zeros_like(step.head_weight), np.zeros_like(step.head_bias)
    starts = {"trained": (step.head_weight, step.head_bias), "empty": zero}
    return {
        "label": shipped.labels[step.target],
        "logits": step.logits.tolist(),
        "loss": step.loss,
        "rates": {"head": HEAD_RATE, "backbone": BACKBONE_RATE},
        "weights": step.weights,
        "stages": [_stage_fields(stage) for stage in step.stages],
        "change": vars(step.change),
        "logits_after": step.logits_after.tolist(),
        "loss_after": step.loss_after,
        "ms": step.ms,
        "judged_as": classifier.variant.name,
        "before": _judged(classifier, step.logits),
        "after": _judged(classifier, step.logits_after),
        "head_steps": {
            name: _head_steps(repeat_on_head(step.features, *start, step.target), step.target, classifier)
            for name, start in starts.items()
        },
    }


def _stage_fields(stage: Stage) -> dict[str, Any]:
    shape = None if stage.activations is None else list(stage.activations.shape)
    names = ("name", "weights", "weight_norm", "gradient_norm", "update_norm", "ms", "bytes")
    return {**{name: getattr(stage, name) for name in names}, "shape": shape}


def _judged(classifier: Classifier, logits: npt.NDArray[np.float64]) -> dict[str, Any]:
    """What the bundle's rule makes of logits (labels,)."""
    answer = classifier.to_prediction(classifier.probabilities(logits[None].astype(np.float32))[0], 0.0)
    return {"label": answer.label, "probability": answer.probability, "decision": answer.decision}


def _head_steps(logits: npt.NDArray[np.float64], target: int, classifier: Classifier) -> list[dict[str, Any]]:
    """Loss, the target's probability before any temperature, and the decision, after each step."""
    losses = np.logaddexp.reduce(logits - logits[:, target : target + 1], axis=1)
    return [
        {"loss": float(loss), "probability": float(np.exp(-loss)), **_judged_as(classifier, row)}
        for loss, row in zip(losses, logits, strict=True)
    ]


def _judged_as(classifier: Classifier, logits: npt.NDArray[np.float64]) -> dict[str, str]:
    return {"decision": _judged(classifier, logits)["decision"]}


# --- Pictures


def _stage_pictures(stage: Stage) -> dict[str, str]:
    """The activations of the channels that vary most, and the mean absolute gradient, as images."""
    found = {}
    if stage.activations is not None:
        found["activations"] = _uri(mosaic(stage.activations))
    if stage.output_gradient is not None:
        strength = np.abs(stage.output_gradient).mean(0)
        found["gradient"] = _uri(np.kron(_levels(strength), _block(strength)))
    return found


def mosaic(maps: Map) -> Pixels:
    """The 16 channels of maps (channels, height, width) that vary most, as a grey picture.

    Each is scaled from its own least to its own greatest value, and made smaller than 56 px.
    """
    order = np.argsort(-maps.reshape(len(maps), -1).std(1), kind="stable")[: TILES * TILES]
    tiles = [_shrunk(maps[channel]) for channel in order]
    height, width = tiles[0].shape
    picture = np.full((TILES * (height + 1), TILES * (width + 1)), 128, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // TILES) * (height + 1), (number % TILES) * (width + 1)
        picture[top : top + height, left : left + width] = _levels(tile)
    picture = picture[:-1, :-1]
    return np.kron(picture, _block(tiles[0]))


def _shrunk(channel: Map) -> Map:
    """A channel (height, width) as means over whole blocks, at most 56 px high and wide."""
    step = -(-max(channel.shape) // TILE)
    height, width = (side // step * step for side in channel.shape)
    blocks = channel[:height, :width].reshape(height // step, step, width // step, step)
    return np.asarray(blocks.mean((1, 3)))


def _block(tile: Map) -> Pixels:
    """A block of ones by which a small map is enlarged, so that no page blurs it."""
    side = max(1, TILE // max(tile.shape))
    return np.ones((side, side), np.uint8)


def _levels(values: Map) -> Pixels:
    low, high = float(values.min()), float(values.max())
    levels: Pixels = np.rint((values - low) * (255 / (high - low or 1.0))).astype(np.uint8)
    return levels


def _uri(pixels: Pixels, quality: int = 80) -> str:
    """Pixels as a data URI, as the smaller of PNG and JPEG."""
    png, jpeg = encode(pixels, "PNG", optimize=True), encode(pixels, "JPEG", quality=quality)
    kind, data = ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _jpeg(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


# --- The page


def explain_page(fields: Mapping[str, Any], pictures: Mapping[str, Any], frame: Frame) -> str:
    """The page of what `explain` found; `pictures` are data URIs."""
    script = (Path(__file__).parent / "head_steps.js").read_text("utf-8")
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    training = fields["training"]
    steps = {} if training is None else training["head_steps"]
    prediction = fields["prediction"]
    best = int(np.argmax(prediction["probabilities"]))
    return render(
        "explain.html",
        kicker=KICKER,
        title="One training step and one prediction" if training else "One prediction",
        **{name: fields[name] for name in ("photo", "bundle", "variants", "training", "machine")},
        prediction=prediction,
        best={"label": fields["labels"][best], "probability": prediction["probabilities"][best]},
        step_ms=sum(training["ms"].values()) if training else 0.0,
        chance=math.log(len(fields["labels"])),
        head_steps={start: [_shown_step(row) for row in rows] for start, rows in steps.items()},
        all_labels=fields["labels"],
        shown=_shown_labels(fields),
        pictures=pictures,
        frame=frame,
        chart=_head_chart(steps) if training else "",
        script=script,
        policy=policy,
        size=size,
        sig=_significant,
        unit_ms=_milliseconds,
    )


def _shown_labels(fields: Mapping[str, Any]) -> list[int]:
    """The numbers of the likeliest labels, and of the one that the loss compares with."""
    logits = np.array(fields["prediction"]["logits"])
    order: list[int] = np.argsort(-logits, kind="stable")[:SHOWN].tolist()
    if fields["training"]:
        target = fields["labels"].index(fields["training"]["label"])
        order = order if target in order else [*order[:-1], target]
    return order


def _shown_step(row: Mapping[str, Any]) -> dict[str, Any]:
    """A step as the slider shows it."""
    share = row["probability"]
    return {
        "loss": _significant(row["loss"]),
        "probability": percent(share, 2),
        "share": round(share, 4),
        "decision": row["decision"],
    }


def _head_chart(steps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    names = {"trained": "from the trained head", "empty": "from an empty head"}
    drawn = [
        Line(names[start], list(range(len(rows))), [row["loss"] for row in rows])
        for start, rows in steps.items()
    ]
    return lines("The loss of this photo after each step on the head.", ("step", "loss"), drawn)


def size(count: float) -> str:
    """Bytes with a unit of powers of ten: "13.5 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.3g} {unit}"


def _significant(value: float) -> str:
    """A number with four significant digits, without an exponent where it is of ordinary size."""
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, _, power = f"{value:.3e}".partition("e")
        return f"{digits} × 10{str(int(power)).translate(RAISED)}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _milliseconds(ms: float) -> str:
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.2g} ms" if ms >= 0.01 else "< 0.01 ms"
