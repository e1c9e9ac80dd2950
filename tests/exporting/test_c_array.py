"""The C sources of a Bundle: compiled here, they hold its model and decide as it does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.golden import read_golden
from catflap.cli.main import main
from catflap.exporting.targets.to_litert_micro import _float, _string
from catflap.runtime.classifier import Classifier
from catflap.runtime.decisions import TIE, DecisionRule, decide, decision_rule, softmax
from catflap.runtime.engine import run_with_embedding
from catflap.runtime.ood import embedding_models, ood_scores, pack, residuals, unit
from tests.artifacts.samples import with_litert
from tests.matrix import mostly_slow
from tests.tiny import Exported

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'catflap[targets]'")
MICRO = Path(__file__).parent.parent / "runtime" / "colour_micro.tflite"
PROGRAM = """
#include <stdio.h>
#include "catflap_golden.h"
int main(void) {
  fwrite(catflap_model, 1, catflap_model_len, stdout);
  fwrite(catflap_golden_frames, 1, sizeof(catflap_golden_frames), stdout);
  fwrite(catflap_golden_answers, 1, sizeof(catflap_golden_answers), stdout);
  for (int a = -128; a < 128; ++a) {
    const int8_t answer[CATFLAP_LABELS] = {(int8_t)a, (int8_t)(-1 - a)};
    float probabilities[CATFLAP_LABELS];
    catflap_probabilities(answer, probabilities);
    fprintf(stderr, "%d %.8f %d\\n", (int)catflap_input((uint8_t)(a + 128)), (double)probabilities[0],
            catflap_decide(probabilities));
  }
  for (int i = 0; i < CATFLAP_LABELS; ++i) fprintf(stderr, "%s\\n", catflap_labels[i]);
  fprintf(stderr, "%d %d\\n", (int)((size_t)catflap_model % 16), CATFLAP_GOLDEN_TOLERANCE);
  for (int i = 0; i < CATFLAP_GOLDEN_CASES; ++i) {
    fprintf(stderr, "%d ", catflap_golden_check(i, catflap_golden_answers[i]));
    fprintf(stderr, "%d ", catflap_golden_check(i, catflap_golden_answers[(i + 1) % CATFLAP_GOLDEN_CASES]));
  }
  return 0;
}
"""
TIES = """
#include <stdio.h>
#include "catflap_golden.h"
static const float thresholds[] = {%s};
int main(void) {
  for (unsigned long n = 0; n < sizeof(thresholds) / sizeof(*thresholds); ++n) {
    threshold = thresholds[n];
    for (int a = -128; a < 128; ++a) {
      const int8_t answer[CATFLAP_LABELS] = {(int8_t)a, (int8_t)(-1 - a)};
      float probabilities[CATFLAP_LABELS];
      catflap_probabilities(answer, probabilities);
      printf("%%d ", catflap_decide(probabilities));
    }
  }
  return 0;
}
"""
FLAGS = ["-Wall", "-Wextra", "-Werror"]


ONLY = {"threshold": 0.9, "error_rate": 0.01, "photos": 50}  # before format 1.1
TOP = {**ONLY, "rule": "top", "curve": [{"error_rate": 0.01, "threshold": 0.9, "unsure": 0.2}]}


@pytest.fixture
def bundle(request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path) -> Path:
    from catflap.runtime.engine_litert import open_micro_model

    logits = open_micro_model(MICRO.read_bytes(), 1)(read_golden(load_bundle(tiny_bundle)).frames)
    about = {"runtime": "litert-micro", "precision": "int8", "temperature": 7.5, "tolerance": 2.0}
    decision = getattr(request, "param", ONLY)
    return with_litert(
        tiny_bundle, tmp_path / "micro.catflap", MICRO.read_bytes(),
        name="litert-micro", logits=logits, decision=decision, **about,
    )  # fmt: skip


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    assert main(["bundle", "unpack", str(bundle), "--c", "-o", str(tmp_path / "c")]) == 0
    return tmp_path / "c"


def compiled(folder: Path, program: str, compiler: str) -> subprocess.CompletedProcess[bytes]:
    """What a program prints that was compiled by gcc as C, or by g++, and linked with the two sources."""
    if not shutil.which("g++") or not shutil.which(compiler):
        pytest.skip("no compiler is installed: apt-get install g++")
    source = folder / ("main.c" if compiler == "gcc" else "main.cpp")
    source.write_text(program)
    parts = [folder / "catflap_model.cc", folder / "catflap_golden.cc"]
    objects = []
    for part in (source, *parts):
        with_what = [compiler, "-std=c99"] if part is source and compiler == "gcc" else ["g++", "-std=c++11"]
        objects.append(f"{part}.o")
        subprocess.run([*with_what, *FLAGS, "-c", part, "-o", objects[-1]], check=True)
    subprocess.run(["g++", *objects, "-lm", "-o", folder / "program"], check=True)
    return subprocess.run([folder / "program"], capture_output=True, check=True)


@pytest.mark.parametrize("bundle", [ONLY, TOP], indirect=True, ids=["before 1.1", "top"])
@pytest.mark.parametrize("compiler", ["g++", "gcc"])
def test_what_is_compiled_is_what_was_tested(folder: Path, bundle: Path, compiler: str) -> None:
    ended = compiled(folder, PROGRAM, compiler)
    opened = load_bundle(bundle)
    variant, golden = opened.variant("litert-micro"), read_golden(opened)
    frames = golden.frames[:4].astype(np.int16) - 128
    answers = np.rint(golden.logits["litert-micro"][:4] / (56 / 127.5))
    model = MICRO.read_bytes()
    assert ended.stdout[: len(model)] == model
    rest = np.frombuffer(ended.stdout[len(model) :], np.int8)
    np.testing.assert_array_equal(rest[: frames.size], frames.ravel())
    np.testing.assert_array_equal(rest[frames.size :], answers.ravel())

    lines = ended.stderr.decode().splitlines()
    levels = np.arange(-128, 128)
    pairs = np.stack([levels, -1 - levels], axis=1) * (56 / 127.5)
    expected = softmax(pairs, variant.temperature)
    decisions = decide(expected, ("0", "1"), decision_rule(variant.decision))
    assert {"0", "1", "unsure"} == set(decisions)
    for level, line, row, decision in zip(levels, lines, expected, decisions, strict=False):
        label, probability, number = line.split()
        assert int(label) == level
        assert float(probability) == pytest.approx(row[0], abs=1e-5)
        assert number == {"unsure": "-1"}.get(decision, decision)
    assert lines[256:258] == list(opened.labels)
    assert lines[258] == "0 4"  # aligned; 2.0 logits are four steps
    apart = np.abs(np.roll(answers, -1, axis=0) - answers).max(axis=1) > 4
    assert lines[259].split() == [word for other in apart for word in ("0", str(int(other)))]


@pytest.mark.parametrize("bundle", mostly_slow([ONLY, TOP]), indirect=True, ids=["before 1.1", "top"])
def test_the_golden_check_notices_another_temperature_threshold_and_order(folder: Path) -> None:
    program = """
#include <stdio.h>
#include "catflap_golden.h"
int main(void) { printf("%d", catflap_golden_check(0, catflap_golden_answers[0])); return 0; }
"""
    header, source = folder / "catflap_model.h", folder / "catflap_golden.cc"
    good = header.read_text()
    assert compiled(folder, program, "gcc").stdout == b"0"
    temperature = re.compile(r"(#define CATFLAP_TEMPERATURE) \S+")
    header.write_text(temperature.sub(r"\1 15.0f", good))
    assert compiled(folder, program, "gcc").stdout == b"2"
    for threshold in ("0.0f", "1.0f", "0.5f"):
        header.write_text(re.sub(r"(#define CATFLAP_THRESHOLD) \S+", rf"\1 {threshold}", good))
        assert compiled(folder, program, "gcc").stdout == b"3", threshold
    header.write_text(good)
    recorded = re.search(r"catflap_golden_decisions\[.*\] = \{(.*)\};", source.read_text())[1]
    assert set(recorded.split(", ")) > {"-1"}, "the probes stand on both sides of the threshold"


UNKNOWN = """
#include <stdio.h>
#include "catflap_golden.h"
int main(void) {
  for (int i = 0; i < CATFLAP_GOLDEN_CASES; ++i) {
    const int8_t* embedding = catflap_golden_embeddings[i];
    const int8_t* answer = catflap_golden_answers[i];
    printf("%d %d ", catflap_golden_check(i, answer), catflap_golden_check_unknown(i, embedding));
    for (int k = 0; k < CATFLAP_LABELS; ++k) printf("%.6f ", (double)catflap_ood_score(embedding, k));
    printf("%d\\n", catflap_decision(answer, embedding));
  }
  return 0;
}
"""


def with_two_outputs(model: bytes) -> bytes:
    """The model with the mean colour, the input of its head, as a second output."""
    from ai_edge_litert import schema_py_generated as schema

    from catflap.exporting.tflite_writer import pack

    opened = schema.ModelT.InitFromPackedBuf(model, 0)
    graph = opened.subgraphs[0]
    graph.outputs = np.array([*graph.outputs, graph.operators[-1].inputs[0]], np.int32)
    opened.signatureDefs = []
    return pack(opened)


@pytest.fixture
def refusing(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose variant for LiteRT Micro refuses unknown photos: colours far from red and from blue."""
    from catflap.runtime.engine_litert import open_micro_model

    model = with_two_outputs(MICRO.read_bytes())
    logits, embeddings = run_with_embedding(
        open_micro_model(model, 1), read_golden(load_bundle(tiny_bundle)).frames
    )
    assert embeddings is not None
    random = np.random.default_rng(0)
    entries = []
    for colour in ((200, 80, 60), (60, 80, 200)):
        near = unit(np.array(colour) + random.normal(0, 20, (50, 3)))
        mean = near.mean(axis=0)
        axes = np.linalg.svd(near - mean, full_matrices=False)[2][:1]
        limit = float(np.quantile(residuals(near, mean, axes), 0.99))
        embedding = {**pack(mean, axes), "limit": limit, "groups": 50}
        entries.append({"share": 0.5, "embedding": embedding})
    labels = load_bundle(tiny_bundle).labels
    baseline = {"photos": 100, "labels": dict(zip(labels, entries, strict=True))}
    scores = ood_scores(embeddings, logits.argmax(axis=1), embedding_models(baseline, labels))
    threshold = float(np.median(scores))
    unknown = {"rate": 0.05, "threshold": threshold, "photos": 100, "groups": 100}
    return with_litert(
        tiny_bundle, tmp_path / "refusing.catflap", model, name="litert-micro", runtime="litert-micro",
        precision="int8", temperature=7.5, tolerance=2.0, decision=TOP, logits=logits, unknown=unknown,
        baseline=baseline, ood=scores,
    )  # fmt: skip


@pytest.mark.parametrize("compiler", ["g++", "gcc"])
def test_unknown_is_told_as_the_classifier_tells_it(refusing: Path, tmp_path: Path, compiler: str) -> None:
    assert main(["bundle", "unpack", str(refusing), "--c", "-o", str(tmp_path / "c")]) == 0
    lines = compiled(tmp_path / "c", UNKNOWN, compiler).stdout.decode().splitlines()
    classifier, golden = Classifier(refusing, "litert-micro"), read_golden(load_bundle(refusing))
    numbers = {**{label: n for n, label in enumerate(classifier.labels)}, "unsure": -1, "unknown": -2}
    expected = [classifier(frame) for frame in golden.frames[:4]]
    assert {prediction.decision for prediction in expected} > {"unknown"}
    for line, prediction in zip(lines, expected, strict=True):
        checked, refused, *scores, decision = line.split()
        assert (checked, refused) == ("0", "0")
        assert int(decision) == numbers[prediction.decision]
        score = float(scores[numbers[prediction.label]])
        assert score == pytest.approx(prediction.ood_score, abs=1e-3)


@pytest.mark.slow
def test_the_golden_check_notices_another_ood_threshold_and_baseline(refusing: Path, tmp_path: Path) -> None:
    program = """
#include <stdio.h>
#include "catflap_golden.h"
int main(void) { printf("%d", catflap_golden_check_unknown(0, catflap_golden_embeddings[0])); return 0; }
"""
    folder = tmp_path / "c"
    assert main(["bundle", "unpack", str(refusing), "--c", "-o", str(folder)]) == 0
    header = folder / "catflap_model.h"
    good = header.read_text()
    assert compiled(folder, program, "gcc").stdout == b"0"
    header.write_text(re.sub(r"(#define CATFLAP_UNKNOWN_THRESHOLD) \S+", r"\1 1e6f", good))
    assert compiled(folder, program, "gcc").stdout == b"5"
    header.write_text(good.replace("left -= of->mean[i]", "left -= 0.5f * of->mean[i]"))
    assert compiled(folder, program, "gcc").stdout == b"4"


def test_a_tie_with_the_threshold_is_unsure_in_float32_too(folder: Path, bundle: Path) -> None:
    """The threshold is what a calibration photo had, and answers come in steps: so each step is tried."""
    variant = load_bundle(bundle).variant("litert-micro")
    levels = np.arange(-128, 128)
    logits = (np.stack([levels, -1 - levels], axis=1) * (56 / 127.5)).astype(np.float32)
    expected = softmax(logits, variant.temperature)
    thresholds = [float(row.min()) for row in expected[128:]]

    header = folder / "catflap_model.h"
    line = re.compile(r"#define CATFLAP_THRESHOLD (.*)")
    assert line.search(header.read_text())[1] == _float(variant.decision["threshold"] * (1 - TIE))
    header.write_text(
        line.sub("static float threshold;\n#define CATFLAP_THRESHOLD threshold", header.read_text())
    )
    literals = ", ".join(_float(threshold * (1 - TIE)) for threshold in thresholds)
    ended = compiled(folder, TIES % literals, "gcc")
    printed = np.array(ended.stdout.split(), int).reshape(len(thresholds), 256)
    for row, threshold in zip(printed, thresholds, strict=True):
        decisions = decide(expected, ("0", "1"), DecisionRule(threshold, 0.01, top=False))
        assert "unsure" in decisions
        assert [{-1: "unsure"}.get(number, str(number)) for number in row.tolist()] == decisions


def test_every_label_survives(tmp_path: Path) -> None:
    labels = ['a"b', "back\\slash", "Käfer 1", "what??/", "\x07" + "7"]
    text = ", ".join(map(_string, labels))
    if not shutil.which("gcc"):
        pytest.skip("no compiler is installed: apt-get install gcc")
    source = f"#include <stdio.h>\nint main(void) {{ const char* all[] = {{{text}}};\n"
    source += f"for (int i = 0; i < {len(labels)}; ++i) puts(all[i]);\nreturn 0; }}\n"
    (tmp_path / "labels.c").write_text(source)
    subprocess.run(["gcc", *FLAGS, tmp_path / "labels.c", "-o", tmp_path / "labels"], check=True)
    printed = subprocess.run([tmp_path / "labels"], capture_output=True, check=True).stdout
    assert printed.decode().splitlines() == labels


def test_a_bundle_that_has_no_such_variant_gets_a_sentence(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c"
    assert main(["bundle", "unpack", str(drawn_bundle.path), "--c", "-o", str(out), "--json"]) == 2
    assert "no variant for LiteRT Micro" in json.loads(capsys.readouterr().out)["error"]["what"]
    assert not out.exists()


@pytest.mark.parametrize("scale", [None, np.inf])
def test_a_model_that_answers_otherwise_is_not_written(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: float | None
) -> None:
    """Its golden logits are those of fp32, and no int8 answer is as near; with the scale inf some are nan."""
    model = MICRO.read_bytes()
    if scale is not None:
        model = model.replace(np.float32(0.43921569).tobytes(), np.float32(scale).tobytes())
        assert model != MICRO.read_bytes()
    path = with_litert(
        tiny_bundle, tmp_path / "bad.catflap", model,
        name="litert-micro", runtime="litert-micro", precision="int8", tolerance=1e-6,
    )  # fmt: skip
    assert main(["bundle", "unpack", str(path), "--c", "-o", str(tmp_path / "c"), "--json"]) == 1
    assert "gives other outputs for its golden cases" in json.loads(capsys.readouterr().out)["error"]["what"]
    assert not (tmp_path / "c").exists()


def test_litert_micro_itself_answers_as_the_golden_cases(bundle: Path) -> None:
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime", reason="pip install tflite-micro"
    )
    opened = load_bundle(bundle)
    variant, golden = opened.variant("litert-micro"), read_golden(opened)
    interpreter = runtime.Interpreter.from_bytes(bytes(opened.members[variant.file]))
    scale = interpreter.get_output_details(0)["quantization_parameters"]["scales"][0]
    for frame, logits in zip(golden.frames, golden.logits["litert-micro"], strict=True):
        interpreter.set_input((frame.astype(np.int16) - 128).astype(np.int8)[None], 0)
        interpreter.invoke()
        answer = interpreter.get_output(0)[0].astype(np.int32) * scale
        np.testing.assert_allclose(answer, logits, rtol=1e-6)  # the same steps
