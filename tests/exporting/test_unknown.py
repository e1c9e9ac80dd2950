"""`unknown`: calibrated by export, answered by the runtime, checked by verify, measured by evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import Bundle, encode_bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.artifacts.golden import read_golden
from catflap.cli.main import main
from catflap.errors import CatflapError, Refused
from catflap.evaluation.conformal import unknown_threshold
from catflap.exporting.export import add_variants, export
from catflap.exporting.repack import strip_bundle
from catflap.exporting.targets.to_coreml import layer_by_layer
from catflap.pipeline.evaluate import evaluate
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import DecisionRule, decide
from catflap.runtime.ood import embedding_models, ood_scores
from catflap.training.backbones import TINY as INSTALLED
from catflap.training.plan import Plan
from catflap.training.train import train
from catflap.verification.verify import verify
from tests.matrix import mostly_slow
from tests.tiny import Exported, draw_photos

LABELS = ("cat", "other", "third")


@pytest.fixture(scope="module")
def bundle(three_labels: Checkpoint) -> Path:
    """Their Bundle, beside the checkpoint."""
    path = three_labels.path.with_name("unknown.catflap")
    export(three_labels, load_dataset(three_labels.dataset_path), path, variants=("int8",))
    return path


def strange() -> list[np.ndarray]:
    """Frames in colours that no photo has, and noise."""
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 255), (255, 255, 0), (0, 255, 255)]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return [*(np.full((64, 64, 3), colour, np.uint8) for colour in colours), noise]


def strangest(classifier: Classifier) -> np.ndarray:
    return max(strange(), key=lambda frame: classifier(frame).ood_score or 0.0)


def test_three_labels_get_it_by_default_and_keep_their_promise(bundle: Path) -> None:
    entry = load_bundle(bundle).head["variants"]["int8"]
    assert entry["unknown"]["rate"] == 0.05
    assert entry["unknown"]["left_out"]["refused"]["value"] > 0.5
    assert entry["unknown"]["accepted"]["high"] >= 0.95
    counts = entry["decisions"]["counts"]
    assert sum(counts.values()) == entry["decisions"]["photos"]
    card = bytes(load_bundle(bundle).members["card.md"]).decode()
    assert "says “unknown” to at most 5 % of photos" in card


def test_the_runtime_says_it_to_noise_and_not_to_photos(bundle: Path, tmp_path: Path) -> None:
    classifier = Classifier(bundle)
    frame = strangest(classifier)
    assert sum(classifier(other).decision == "unknown" for other in strange()) >= 3
    photos = draw_photos(tmp_path / "photos", LABELS, 70)
    new = [path for label in LABELS for path in sorted((photos / label).iterdir())[50:]]
    decided = [classifier(path).decision for path in new]
    assert sum(word == "unknown" for word in decided) <= 6  # of 60
    assert sum(word == path.parent.name for word, path in zip(decided, new, strict=True)) >= 50
    assert classifier(frame).decision == "unknown"
    assert classifier(frame).label in LABELS, "the likeliest label is still reported"
    assert classifier(frame).embedding is None, "it is for the field log, which was not asked for"


def test_verify_checks_scores_and_threshold(bundle: Path, tmp_path: Path) -> None:
    verdict = verify(bundle)
    assert verdict.passed
    assert "unknown:int8" in [check.name for check in verdict.checks]

    def failed(change: dict[str, float]) -> list[str]:
        opened = load_bundle(bundle)
        head = json.loads(json.dumps(opened.head))
        head["variants"]["int8"]["unknown"] |= change
        return [check.name for check in verify(written(opened, head, tmp_path)).checks if not check.passed]

    stated = load_bundle(bundle).variants["int8"].unknown
    assert stated is not None
    for threshold in (0.0, stated["threshold"] * 1.01, stated["threshold"] * 0.99, 1e6):
        assert failed({"threshold": threshold}) == ["unknown:int8"], threshold
    assert failed({"rate": 0.04}) == [], "it is only recorded"


def test_a_bundle_whose_baseline_was_changed_fails(bundle: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    head = json.loads(json.dumps(opened.head))
    for entry in head["variants"]["int8"]["baseline"]["labels"].values():
        entry["embedding"]["limit"] *= 1.5
    failed = [check.name for check in verify(written(opened, head, tmp_path)).checks if not check.passed]
    assert failed == ["unknown:int8"]


def written(opened: Bundle, head: dict, folder: Path) -> Path:  # type: ignore[type-arg]
    files = {name: bytes(data) for name, data in opened.members.items() if name != "bundle.json"}
    del head["files"], head["catflap_bundle"]
    path = folder / "changed.catflap"
    path.write_bytes(encode_bundle(path, head, files))
    return path


def test_evaluate_measures_what_export_measured(bundle: Path, tmp_path: Path) -> None:
    report = evaluate(bundle, bundle.with_name("dataset"), tmp_path / "report")
    entry = load_bundle(bundle).head["variants"]["int8"]
    assert report.passed
    assert report.variants["int8"]["decisions"]["counts"] == entry["decisions"]["counts"]
    assert report.variants["int8"]["unknown"]["accepted"] == entry["unknown"]["accepted"]
    assert "“unknown” is meant to refuse" in report.page.read_text("utf-8")


def test_a_stripped_bundle_still_refuses(bundle: Path, tmp_path: Path) -> None:
    strip_bundle(bundle, tmp_path / "small.catflap", ("int8",))
    assert verify(tmp_path / "small.catflap").passed
    classifier = Classifier(tmp_path / "small.catflap")
    assert classifier(strangest(classifier)).decision == "unknown"


@pytest.mark.parametrize("name", mostly_slow(["onnx-frame", "litert-int8", "openvino-int8"]))
def test_every_runtime_says_it_as_int8_does(bundle: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip({"litert-int8": "ai_edge_litert", "openvino-int8": "nncf"}.get(name, "onnxruntime"))
    out, dataset = tmp_path / "more.catflap", load_dataset(bundle.with_name("dataset"))
    checkpoint = load_checkpoint(bundle.with_name("checkpoint"))
    add_variants(load_bundle(bundle), checkpoint, dataset, out, (name,))
    opened = load_bundle(out)
    stated, golden = opened.variants[name].unknown, read_golden(opened)
    assert stated is not None
    assert golden.unknown[name][:-2].any(), "a golden photo is refused"
    assert golden.unknown[name][-2:].tolist() == [True, False], "the probes stand on both sides"
    assert {check.name for check in verify(out).checks if check.passed} >= {f"unknown:{name}"}
    ours, theirs = Classifier(out, "int8"), Classifier(out, name)
    decisions = [[one(frame).decision for frame in strange()] for one in (ours, theirs)]
    assert "unknown" in decisions[1]
    if name != "openvino-int8":  # of another quantiser, with a threshold of its own
        assert decisions[0] == decisions[1]
    scores = [[one(photo).ood_score or 0.0 for photo in golden.photos] for one in (ours, theirs)]
    near = 1.0 if name == "openvino-int8" else 0.25  # of another quantiser
    assert np.abs(np.array(scores[0]) - scores[1]).max() < near


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncnn-fp32", "litert-micro", "executorch-fp32"])
def test_converters_keep_the_embedding(three_labels: Checkpoint, tmp_path: Path, name: str) -> None:
    """With an installed backbone, which a converter's own process knows."""
    tools = {"ncnn-fp32": "pnnx", "litert-micro": "litert_torch", "executorch-fp32": "executorch"}
    pytest.importorskip(tools[name])
    dataset = load_dataset(three_labels.dataset_path)
    checkpoint = train(dataset, tmp_path / "installed", Plan(backbone=INSTALLED))
    out = tmp_path / "more.catflap"
    export(checkpoint, dataset, out, variants=("fp32", name), unknown_rate=0.1)
    assert verify(out).passed
    variant = load_bundle(out).variants[name]
    assert variant.unknown is not None
    if variant.precision == "fp32":
        assert variant.fidelity["flips"] == 0
        assert variant.fidelity["max_probability_difference"] <= 1e-3
    ours, theirs = Classifier(out, "fp32"), Classifier(out, name)
    decided = [[one(frame).decision == "unknown" for frame in strange()] for one in (ours, theirs)]
    assert decided[0] == decided[1]
    assert any(decided[1])


@pytest.mark.slow
def test_core_ml_carries_the_embedding_from_which_an_app_says_it(
    three_labels: Checkpoint, tmp_path: Path
) -> None:
    """Core ML does not run here: its layers, computed in torch, with the threshold of fp32."""
    coremltools = pytest.importorskip("coremltools", reason="coremltools is not installed: catflap[coreml]")
    import torch

    dataset = load_dataset(three_labels.dataset_path)
    checkpoint = train(dataset, tmp_path / "installed", Plan(backbone=INSTALLED))
    out = tmp_path / "more.catflap"
    export(checkpoint, dataset, out, variants=("fp32", "coreml-fp32"), unknown_rate=0.1)
    opened = load_bundle(out)
    (tmp_path / "fp32.mlmodel").write_bytes(opened.members[opened.untested["coreml-fp32"]["file"]])
    spec = coremltools.utils.load_spec(str(tmp_path / "fp32.mlmodel"))
    ends = {end.name: list(end.type.multiArrayType.shape) for end in spec.description.output}
    stated = opened.variants["fp32"].unknown
    assert stated is not None
    models, classifier = embedding_models(opened.variants["fp32"].baseline, opened.labels), Classifier(out)
    assert ends == {"logits": [1, 3], "embedding": [1, len(models[0].mean)]}  # type: ignore[union-attr]
    for frame in strange():
        answers = layer_by_layer(spec, torch.from_numpy(frame[None]).float())
        best = answers["logits"].argmax(1).numpy()
        (score,), ours = ood_scores(answers["embedding"].numpy(), best, models), classifier(frame)
        assert score == pytest.approx(ours.ood_score, abs=1e-3)
        assert (score > stated["threshold"]) == (ours.decision == "unknown")


@pytest.mark.slow
def test_two_labels_get_it_when_it_is_asked_for(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    assert load_bundle(drawn_bundle.path).variants["int8"].unknown is None
    out = tmp_path / "two.catflap"
    line = ["export", str(drawn_checkpoint.path), "-o", str(out), "--variants", "int8", "--unknown-rate"]
    assert main([*line, "0.2"]) == 0
    assert load_bundle(out).variants["int8"].unknown is not None
    with pytest.raises(Refused, match=r"only 0\.01 of photos are unknown"):
        export(drawn_checkpoint, drawn_dataset, out, variants=("int8",), unknown_rate=0.01)
    with pytest.raises(CatflapError, match=r"The unknown rate is 1\.0\."):
        export(drawn_checkpoint, drawn_dataset, out, unknown_rate=1.0)


def test_the_threshold_keeps_its_rate_on_new_groups() -> None:
    """On average over calibration sets, for few and many groups, with several photos in some."""
    random = np.random.default_rng(0)
    for groups, rate in ((25, 0.05), (200, 0.05), (200, 0.02)):
        refused = []
        for _ in range(400):
            owners = np.repeat(np.arange(groups), random.integers(1, 4, groups))
            scores = random.lognormal(size=groups)[owners]
            threshold = unknown_threshold(scores, owners, rate)
            assert threshold is not None
            refused.append((random.lognormal(size=500) > threshold).mean())
        assert np.mean(refused) <= rate * 1.1
        assert np.mean(refused) >= rate * 0.4
    assert unknown_threshold([1.0] * 18, range(18), 0.05) is None
    assert unknown_threshold([1.0, np.nan], [0, 0], 0.5) is not None


def test_unknown_comes_before_label_and_unsure() -> None:
    rule = DecisionRule(0.8, 0.05)
    rows = [[0.9, 0.1], [0.6, 0.4], [0.9, 0.1]]
    assert decide(rows, ["a", "b"], rule) == ["a", "unsure", "a"]
    assert decide(rows, ["a", "b"], rule, [True, True, False]) == ["unknown", "unknown", "a"]
