"""Target: LiteRT Micro for microcontrollers. int8 from end to end, and a Bundle unpacked as C++ sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catflap.artifacts.bundle import HEAD, Bundle, Variant
from catflap.artifacts.folder import atomic_folder
from catflap.artifacts.golden import Golden, read_golden
from catflap.errors import CatflapError, Refused
from catflap.exporting.target import Form, Target
from catflap.runtime.decisions import TIE, decision_rule
from catflap.runtime.engine import Logits, engine_error
from catflap.runtime.golden_checks import (
    OOD_TOLERANCE,
    check_decisions,
    check_unknown,
    golden_decisions,
    threshold_probes,
)
from catflap.runtime.ood import unpack_int8

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource
    from catflap.runtime.engine_litert import Quantisation

HEADROOM = 1.1  # times the largest logit of the calibration photos: the range of the int8 output
RUNTIME = "litert-micro"
CASES = 4  # golden frames of 27 kB each, at 96 px
HEADER = """\
// {name}.catflap, variant {variant}, sha256 {sha256}.
// Written by `catflap bundle unpack --c`; do not edit.
#ifndef CATFLAP_MODEL_H_
#define CATFLAP_MODEL_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define CATFLAP_HEIGHT {height}
#define CATFLAP_WIDTH {width}
#define CATFLAP_FRAME_BYTES {frame_bytes}  // height x width x 3, rows from the top, RGB
#define CATFLAP_LABELS {labels}

// value = (whole number - zero point) * scale: pixels 0 to 255 in, logits out
#define CATFLAP_INPUT_SCALE {input_scale}
#define CATFLAP_INPUT_ZERO_POINT {input_zero}
#define CATFLAP_OUTPUT_SCALE {output_scale}
#define CATFLAP_OUTPUT_ZERO_POINT {output_zero}

#define CATFLAP_TEMPERATURE {temperature}  // divides the logits before the softmax
// The probability below which the answer is "unsure".
#define CATFLAP_THRESHOLD {threshold}

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char catflap_model[];
extern const size_t catflap_model_len;
extern const char* const catflap_labels[CATFLAP_LABELS];

#ifdef __cplusplus
}}
#endif

// What the model takes for a pixel.
static inline int8_t catflap_input(uint8_t pixel) {{ return (int8_t)((int)pixel - 128); }}

// Calibrated probabilities, one a label, from what the model answered.
static inline void catflap_probabilities(const int8_t* answer, float* probabilities) {{
  int8_t most = answer[0];
  float sum = 0.0f;
  for (int i = 1; i < CATFLAP_LABELS; ++i) most = answer[i] > most ? answer[i] : most;
  for (int i = 0; i < CATFLAP_LABELS; ++i) {{
    probabilities[i] = expf((float)(answer[i] - most) * CATFLAP_OUTPUT_SCALE / CATFLAP_TEMPERATURE);
    sum += probabilities[i];
  }}
  for (int i = 0; i < CATFLAP_LABELS; ++i) probabilities[i] /= sum;
}}

{decide}
{decision}
#endif  // CATFLAP_MODEL_H_
"""
DECIDE_TOP = """\
// The number of the likeliest label if it reaches the threshold, or -1 for "unsure".
static inline int catflap_decide(const float* probabilities) {
  int best = 0;
  for (int i = 1; i < CATFLAP_LABELS; ++i) best = probabilities[i] > probabilities[best] ? i : best;
  return probabilities[best] >= CATFLAP_THRESHOLD ? best : -1;
}
"""
DECIDE_ONLY = """\
// The number of the label that alone reaches the threshold, or -1 for "unsure".
static inline int catflap_decide(const float* probabilities) {
  int found = -1, reached = 0;
  for (int i = 0; i < CATFLAP_LABELS; ++i) {
    if (probabilities[i] >= CATFLAP_THRESHOLD) found = i, ++reached;
  }
  return reached == 1 ? found : -1;
}
"""
DECISION = """\
// The decision for what the model answered: the number of a label, or -1 for "unsure".
static inline int catflap_decision(const int8_t* answer) {
  float probabilities[CATFLAP_LABELS];
  catflap_probabilities(answer, probabilities);
  return catflap_decide(probabilities);
}
"""
DECISION_UNKNOWN = """\
#define CATFLAP_EMBEDDING {embedding}  // numbers in the model's second output
#define CATFLAP_EMBEDDING_ZERO_POINT {embedding_zero}
#define CATFLAP_UNKNOWN_THRESHOLD {unknown}  // the OOD score above which a photo is "unknown"
#define CATFLAP_UNKNOWN (-2)

// How a label's embeddings are distributed; limit is 0 for a label without one.
typedef struct {{
  const int8_t* mean;  // times mean_scale
  const int8_t* axes;  // count rows, each times its scale
  const float* axis_scales;
  float mean_scale;
  float limit;
  int count;
}} catflap_embedding_model;

#ifdef __cplusplus
extern "C" {{
#endif
extern const catflap_embedding_model catflap_embedding_models[CATFLAP_LABELS];
#ifdef __cplusplus
}}
#endif

// The OOD score of the model's second output, for the likeliest label: 1 is the 99 % quantile of
// calibration photos.
static inline float catflap_ood_score(const int8_t* embedding, int label) {{
  const catflap_embedding_model* of = &catflap_embedding_models[label];
  float along[{most_axes}] = {{0.0f}}, length = 0.0f, rest = 0.0f;
  if (!(of->limit > 0.0f)) return 0.0f;
  for (int i = 0; i < CATFLAP_EMBEDDING; ++i) {{
    float value = (float)(embedding[i] - CATFLAP_EMBEDDING_ZERO_POINT);
    length += value * value;
  }}
  length = length > 0.0f ? 1.0f / sqrtf(length) : 1.0f;
  for (int pass = 0; pass < 2; ++pass) {{
    for (int i = 0; i < CATFLAP_EMBEDDING; ++i) {{
      float left = (float)(embedding[i] - CATFLAP_EMBEDDING_ZERO_POINT) * length;
      left -= of->mean[i] * of->mean_scale;
      for (int k = 0; k < of->count; ++k) {{
        float axis = of->axes[k * CATFLAP_EMBEDDING + i] * of->axis_scales[k];
        if (pass == 0) along[k] += left * axis;
        else left -= along[k] * axis;
      }}
      if (pass == 1) rest += left * left;
    }}
  }}
  return sqrtf(rest) / of->limit;
}}

// The decision for both outputs of the model: the number of a label, -1 for "unsure", or -2 for "unknown".
static inline int catflap_decision(const int8_t* answer, const int8_t* embedding) {{
  float probabilities[CATFLAP_LABELS];
  int best = 0;
  catflap_probabilities(answer, probabilities);
  for (int i = 1; i < CATFLAP_LABELS; ++i) best = answer[i] > answer[best] ? i : best;
  if (catflap_ood_score(embedding, best) > CATFLAP_UNKNOWN_THRESHOLD) return CATFLAP_UNKNOWN;
  return catflap_decide(probabilities);
}}
"""
GOLDEN_HEADER = """\
// Frames and what the model answers to them, to check a board with; link it in tests only.
#ifndef CATFLAP_GOLDEN_H_
#define CATFLAP_GOLDEN_H_

#include "catflap_model.h"

#define CATFLAP_GOLDEN_CASES {cases}
#define CATFLAP_GOLDEN_TOLERANCE {tolerance}  // the most that an int8 answer may differ by
#define CATFLAP_GOLDEN_DECISIONS {decisions}  // the cases, then probabilities on either side of the threshold

#ifdef __cplusplus
extern "C" {{
#endif

extern const int8_t catflap_golden_frames[CATFLAP_GOLDEN_CASES][CATFLAP_FRAME_BYTES];
extern const int8_t catflap_golden_answers[CATFLAP_GOLDEN_CASES][CATFLAP_LABELS];
extern const float catflap_golden_probabilities[CATFLAP_GOLDEN_DECISIONS][CATFLAP_LABELS];
extern const int catflap_golden_decisions[CATFLAP_GOLDEN_DECISIONS];

#ifdef __cplusplus
}}
#endif

// 0 if what a board answers to golden frame n is what was recorded; 1 if the answer differs, 2 if the
// probabilities do, 3 if a decision does.
static inline int catflap_golden_check(int n, const int8_t* answer) {{
  float probabilities[CATFLAP_LABELS];
  for (int k = 0; k < CATFLAP_LABELS; ++k) {{
    int off = answer[k] - catflap_golden_answers[n][k];
    if (off > CATFLAP_GOLDEN_TOLERANCE || -off > CATFLAP_GOLDEN_TOLERANCE) return 1;
  }}
  catflap_probabilities(catflap_golden_answers[n], probabilities);
  for (int k = 0; k < CATFLAP_LABELS; ++k) {{
    if (!(fabsf(probabilities[k] - catflap_golden_probabilities[n][k]) <= 1e-4f)) return 2;
  }}
  for (int i = 0; i < CATFLAP_GOLDEN_DECISIONS; ++i) {{
    if (catflap_decide(catflap_golden_probabilities[i]) != catflap_golden_decisions[i]) return 3;
  }}
  return 0;
}}
{golden_unknown}
#endif  // CATFLAP_GOLDEN_H_
"""
GOLDEN_UNKNOWN = """
#ifdef __cplusplus
extern "C" {{
#endif

extern const int8_t catflap_golden_embeddings[CATFLAP_GOLDEN_CASES][CATFLAP_EMBEDDING];
extern const float catflap_golden_ood[CATFLAP_GOLDEN_DECISIONS];  // the cases, then around the threshold
extern const int catflap_golden_unknown[CATFLAP_GOLDEN_DECISIONS];

#ifdef __cplusplus
}}
#endif

// 0 if a board's second output for golden frame n has the recorded OOD score; 4 if it differs, 5 if the
// threshold refuses other scores than were refused at export, 6 if a decision differs.
static inline int catflap_golden_check_unknown(int n, const int8_t* embedding) {{
  const int8_t* answer = catflap_golden_answers[n];
  int best = 0, decision = catflap_golden_unknown[n] ? CATFLAP_UNKNOWN : catflap_golden_decisions[n];
  for (int k = 1; k < CATFLAP_LABELS; ++k) best = answer[k] > answer[best] ? k : best;
  if (!(fabsf(catflap_ood_score(embedding, best) - catflap_golden_ood[n]) <= {ood_tolerance})) return 4;
  for (int i = 0; i < CATFLAP_GOLDEN_DECISIONS; ++i) {{
    if ((catflap_golden_ood[i] > CATFLAP_UNKNOWN_THRESHOLD) != catflap_golden_unknown[i]) return 5;
  }}
  return catflap_decision(answer, catflap_golden_embeddings[n]) == decision ? 0 : 6;
}}
"""


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The .tflite file: int8 pixels minus 128 in, int8 logits out, integer arithmetic only.

    The output range holds every logit of the calibration photos, plus a tenth. Where photos may be unknown,
    a second output is the embedding.
    """
    from catflap.exporting.targets.to_litert import write_int8

    return write_int8(source, HEADROOM * float(np.abs(source.logits).max()))


def unpack(bundle: Bundle, out: Path) -> dict[str, Any]:
    """Write a Bundle's variant for LiteRT Micro as C++ sources into a new folder.

    `catflap_model.h` and `.cc` hold the model and its decision rule; `catflap_golden.h` and `.cc` hold
    golden frames with LiteRT's outputs, first checked against the Bundle's. Raises CatflapError when
    there is no such variant, Refused when its outputs differ here.
    """
    found = [variant for variant in bundle.variants.values() if variant.runtime == RUNTIME]
    if not found:
        raise CatflapError(
            f"{bundle.path} has no variant for LiteRT Micro.", "Add one with --variants litert-micro."
        )
    why = engine_error(found[0])
    if why is not None:
        raise why
    files = _sources(bundle, found[0])
    with atomic_folder(Path(out), HEAD) as partial:
        (partial / HEAD).write_bytes(bytes(bundle.members[HEAD]))
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
    model = len(bundle.members[found[0].file])
    return {"folder": str(out), "variant": found[0].name, "model_bytes": model, "files": [HEAD, *files]}


def _sources(bundle: Bundle, variant: Variant) -> dict[str, str]:
    """The texts of the four files by their names."""
    from catflap.runtime.engine_litert import open_interpreter, quantised_pixels

    model = bytes(bundle.members[variant.file])
    opened = open_interpreter(model, np.int8, threads=1)
    if (quantised_pixels(opened.input) != np.arange(256) - 128).any():
        raise CatflapError(f"{variant.name} does not take pixels minus 128.", "Export it again.")
    golden = read_golden(bundle)
    frames = quantised_pixels(opened.input)[golden.frames]
    answers, *embeddings = (
        np.concatenate(rows) for rows in zip(*(opened.run_all(frame[None]) for frame in frames), strict=True)
    )
    logits = opened.output.floats(answers)
    if not np.abs(logits - golden.logits[variant.name]).max() <= variant.tolerance:  # nor where it is nan
        raise Refused(f"{variant.name} gives other outputs for its golden cases here.", "Export it again.")
    probabilities, decisions = _recorded(bundle, variant, golden)
    refusals = _refusals(bundle, variant, golden, opened.embedding, embeddings)
    rule = decision_rule(variant.decision)
    fields = {
        "name": re.sub(r"[^\w.-]", "_", bundle.name),
        "variant": variant.name,
        "sha256": bundle.sha256,
        "height": bundle.frame.height,
        "width": bundle.frame.width,
        "frame_bytes": bundle.frame.height * bundle.frame.width * 3,
        "labels": len(bundle.labels),
        "input_scale": _float(opened.input.scale),
        "input_zero": opened.input.zero,
        "output_scale": _float(opened.output.scale),
        "output_zero": opened.output.zero,
        "temperature": _float(variant.temperature),
        "threshold": _float(rule.threshold if rule.top else rule.threshold * (1 - TIE)),
        "decide": DECIDE_TOP if rule.top else DECIDE_ONLY,
        "cases": min(CASES, len(frames)),
        "decisions": len(decisions),
        "tolerance": max(1, int(variant.tolerance / opened.output.scale)),
        "decision": DECISION if refusals is None else DECISION_UNKNOWN.format(**refusals.fields),
        "golden_unknown": "" if refusals is None else GOLDEN_UNKNOWN.format(**refusals.fields),
    }
    labels = ", ".join(_string(label) for label in bundle.labels)
    return {
        "catflap_model.h": HEADER.format(**fields),
        "catflap_model.cc": '#include "catflap_model.h"\n\n'
        f"alignas(16) const unsigned char catflap_model[] = {{\n{_rows(model)}\n}};\n"
        "const size_t catflap_model_len = sizeof(catflap_model);\n"
        f"const char* const catflap_labels[CATFLAP_LABELS] = {{{labels}}};\n"
        + ("" if refusals is None else refusals.models),
        "catflap_golden.h": GOLDEN_HEADER.format(**fields),
        "catflap_golden.cc": '#include "catflap_golden.h"\n\n'
        "alignas(16) const int8_t catflap_golden_frames[CATFLAP_GOLDEN_CASES][CATFLAP_FRAME_BYTES] = {\n"
        f"{_arrays(frames[:CASES])}}};\n"
        "const int8_t catflap_golden_answers[CATFLAP_GOLDEN_CASES][CATFLAP_LABELS] = {\n"
        f"{_arrays(answers[:CASES])}}};\n"
        "const float catflap_golden_probabilities[CATFLAP_GOLDEN_DECISIONS][CATFLAP_LABELS] = {\n"
        + "".join(f"{{{', '.join(map(_float, row))}}},\n" for row in probabilities)
        + "};\n"
        "const int catflap_golden_decisions[CATFLAP_GOLDEN_DECISIONS] = "
        f"{{{', '.join(map(str, decisions))}}};\n" + ("" if refusals is None else refusals.golden),
    }


@dataclass(frozen=True)
class _Refusals:
    """How a variant detects unknown photos, in C: fields of the headers, definitions for both sources."""

    fields: dict[str, Any]
    models: str
    golden: str


def _refusals(
    bundle: Bundle,
    variant: Variant,
    golden: Golden,
    ends: Quantisation | None,
    embeddings: Sequence[np.ndarray],
) -> _Refusals | None:
    """None for a variant that calls nothing unknown; Refused where its OOD scores differ here."""
    if variant.unknown is None:
        return None
    check = check_unknown(bundle, golden, variant, threads=1)
    if not check.passed or ends is None:
        raise Refused(
            f"{variant.name} detects unknown photos differently here: {check.value}.", "Export it again."
        )
    described = (variant.baseline or {"labels": {}})["labels"]
    sources, rows, most = "", [], 1
    for number, label in enumerate(bundle.labels):
        entry = described.get(label, {}).get("embedding")
        if entry is None:
            rows.append("{NULL, NULL, NULL, 0.0f, 0.0f, 0}")
            continue
        mean, axes = unpack_int8(entry)
        most = max(most, len(axes))
        scales = [1 / max(float(np.linalg.norm(axis)), 1e-12) for axis in axes.astype(np.float64)]
        length = entry["length"] / max(float(np.linalg.norm(mean.astype(np.float64))), 1e-12)
        sources += f"static const int8_t mean_{number}[] = {{\n{_rows(mean.tolist())}}};\n"
        if len(axes):
            sources += f"static const int8_t axes_{number}[] = {{\n{_rows(axes.ravel().tolist())}}};\n"
            sources += f"static const float scales_{number}[] = {{{', '.join(map(_float, scales))}}};\n"
        two = f"axes_{number}, scales_{number}" if len(axes) else "NULL, NULL"
        rows.append(f"{{mean_{number}, {two}, {_float(length)}, {_float(entry['limit'])}, {len(axes)}}}")
    refused = golden.unknown[variant.name]
    chosen = [*range(min(CASES, len(golden.frames))), *range(len(golden.frames), len(refused))]
    return _Refusals(
        {
            "embedding": embeddings[0].shape[1],
            "embedding_zero": ends.zero,
            "unknown": _float(variant.unknown["threshold"]),
            "most_axes": most,
            "ood_tolerance": _float(OOD_TOLERANCE),
        },
        f"{sources}const catflap_embedding_model catflap_embedding_models[CATFLAP_LABELS] = {{\n"
        f"{', '.join(rows)}}};\n",
        "const int8_t catflap_golden_embeddings[CATFLAP_GOLDEN_CASES][CATFLAP_EMBEDDING] = {\n"
        f"{_arrays(embeddings[0][:CASES])}}};\n"
        "const float catflap_golden_ood[CATFLAP_GOLDEN_DECISIONS] = "
        f"{{{', '.join(_float(golden.ood[variant.name][place]) for place in chosen)}}};\n"
        "const int catflap_golden_unknown[CATFLAP_GOLDEN_DECISIONS] = "
        f"{{{', '.join(str(int(refused[place])) for place in chosen)}}};\n",
    )


def _recorded(bundle: Bundle, variant: Variant, golden: Golden) -> tuple[Logits, list[int]]:
    """The probabilities and decisions of the first golden cases, then of the probes at the threshold.

    Raises Refused where bundle.json decides otherwise than was recorded at export.
    """
    if variant.name in golden.decisions and not check_decisions(bundle, golden, variant).passed:
        raise Refused(f"{variant.name} decides otherwise than when it was exported.", "Export it again.")
    about = (bundle.labels, variant.temperature, variant.decision)
    probes = threshold_probes(len(bundle.labels), *about[1:])
    logits = np.concatenate([golden.logits[variant.name][:CASES], probes])
    probabilities, decisions = golden_decisions(logits, *about)
    return probabilities, decisions.tolist()


def _arrays(rows: np.ndarray) -> str:
    return "".join(f"{{\n{_rows(row.ravel().tolist())}\n}},\n" for row in rows)


def _rows(numbers: Iterable[int]) -> str:
    """Whole numbers, 24 a line."""
    words: Sequence[str] = [str(number) for number in numbers]
    return ",\n".join(",".join(words[start : start + 24]) for start in range(0, len(words), 24))


def _float(value: float) -> str:
    """A number as C writes it, the same in float32."""
    return f"{np.format_float_scientific(np.float32(value), trim='0')}f"


def _string(text: str) -> str:
    """A label as C writes it, UTF-8; each other byte in three octal digits, so that none runs on."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


TARGET = Target(
    "litert-micro",
    {"litert-micro": Form("litert-micro", "int8", "targets/litert/micro.tflite")},
    convert,
    unpack,
    packages=("litert-torch", "ai-edge-litert"),
    quantisers=("ai-edge-quantizer",),
)
