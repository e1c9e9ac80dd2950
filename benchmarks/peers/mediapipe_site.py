"""The same LiteRT model behind MediaPipe's ImageClassifier: a page for browser.py, made with npm."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

PACKAGE = "@mediapipe/tasks-vision@1.1.0"
FILES = ("vision_bundle.mjs", "wasm/vision_wasm_internal.js", "wasm/vision_wasm_internal.wasm")
PAGE = """<!doctype html><link rel="icon" href="data:,"><video id="video" muted playsinline></video>
<script type="module">
import { FilesetResolver, ImageClassifier } from "./vision_bundle.mjs";
window.measured = [];
const wanted = { width: { ideal: 1280 }, height: { ideal: 720 } };
const asked = navigator.mediaDevices.getUserMedia({ video: wanted });
const files = await FilesetResolver.forVisionTasks(location.origin);
const baseOptions = { modelAssetPath: "./model.tflite", delegate: "CPU" };
const classifier = await ImageClassifier.createFromOptions(files, { baseOptions, runningMode: "VIDEO" });
video.srcObject = await asked;
await video.play();
function judge() {
  const startTime = performance.now();
  classifier.classifyForVideo(video, startTime);
  measured.push({ startTime, duration: performance.now() - startTime });
  video.requestVideoFrameCallback(judge);
}
video.requestVideoFrameCallback(judge);
</script>
"""


def write_site(model: bytes, site: Path) -> int:
    """Write the page with a model that takes float32 pixels, 0 to 255; the packed bytes of a visit."""
    site.mkdir()
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    subprocess.run(command, cwd=site, check=True, capture_output=True)
    package = site / "node_modules" / PACKAGE.rpartition("@")[0]
    written = [site / Path(name).name for name in FILES]
    for name, path in zip(FILES, written, strict=True):
        path.write_bytes((package / name).read_bytes())
    (site / "index.html").write_text(PAGE)
    (site / "model.tflite").write_bytes(with_metadata(model))
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in [*written, site / "model.tflite"])


def with_metadata(model: bytes) -> bytes:
    """The model with the metadata without which MediaPipe takes no float32 input: (x - 0) / 1, RGB."""
    found = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    for buffer in found.buffers:
        if buffer.offset > 1:  # its bytes lie behind the flatbuffer
            buffer.data = np.frombuffer(model[buffer.offset : buffer.offset + buffer.size], np.uint8)
            buffer.offset = buffer.size = 0
    about, content = schema.MetadataT(), schema.BufferT()
    content.data = list(_metadata())
    found.buffers.append(content)
    about.name, about.buffer = "TFLITE_METADATA", len(found.buffers) - 1
    found.metadata = [*(found.metadata or []), about]
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(found.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _metadata() -> bytes:
    """ModelMetadata of metadata_schema.fbs (TensorFlow Lite Support), by the numbers of its fields."""
    builder = flatbuffers.Builder(1024)

    def table(fields: int, *filled: tuple[int, int, bool]) -> int:
        builder.StartObject(fields)
        for slot, value, is_offset in filled:
            add = builder.PrependUOffsetTRelativeSlot if is_offset else builder.PrependUint8Slot
            add(slot, value, 0)
        return int(builder.EndObject())

    def one(value: float, is_offset: bool = True) -> int:
        builder.StartVector(4, 1, 4)
        (builder.PrependUOffsetTRelative if is_offset else builder.PrependFloat32)(value)
        return int(builder.EndVector())

    normal = table(2, (0, one(0.0, False), True), (1, one(1.0, False), True))  # NormalizationOptions
    units = one(table(2, (0, 1, False), (1, normal, True)))
    content = table(3, (0, 2, False), (1, table(2, (0, 1, False)), True))  # ImageProperties, RGB
    image, logits = builder.CreateString("image"), builder.CreateString("logits")
    given = one(table(7, (0, image, True), (3, content, True), (4, units, True)))
    answered = one(table(7, (0, logits, True)))
    graph = one(table(9, (2, given, True), (3, answered, True)))
    name, least = builder.CreateString("catflap"), builder.CreateString("1.0.0")
    builder.Finish(table(8, (0, name, True), (3, graph, True), (7, least, True)), b"M001")
    return bytes(builder.Output())
