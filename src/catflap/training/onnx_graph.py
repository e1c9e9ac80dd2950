"""torch modules to ONNX graphs; the one file that calls torch's exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from catflap.errors import CatflapError

INPUT, OUTPUT = "pixels", "logits"
OPSET = 18


def to_onnx(module: nn.Module, height: int, width: int) -> bytes:
    """The ONNX bytes of a module that takes uint8 frames (n, height, width, 3), any n.

    Raises CatflapError that names the operator when the module has one that ONNX lacks.
    """
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("n")},)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                module.eval(),
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many types for what it cannot translate
            raise CatflapError(
                f"The model cannot be written as ONNX: {str(error).strip().splitlines()[0][:200]}.",
                "Choose another backbone, such as efficientnet_lite0.",
            ) from error
        return path.read_bytes()


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Keep the exporter's chatter off the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
