"""torch modules to ONNX graphs; the one file that calls torch's exporter."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from catflap.errors import CatflapError, first_line

INPUT, OUTPUT = "pixels", "logits"
OPSET = 18


def to_onnx(module: nn.Module, height: int, width: int) -> bytes:
    """The ONNX bytes of a module that takes uint8 frames (n, height, width, 3), any n.

    They contain nothing of the machine that wrote them: the same module gives the same bytes anywhere.
    Raises CatflapError that names the operator when the module has one that ONNX lacks.
    """
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("n")},)
    with _quiet(), _quick(), _out_of_place(module), torch.no_grad():
        try:
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
            return _anonymous(program)
        except Exception as error:  # the exporter raises many types for what it cannot translate
            raise CatflapError(
                f"The model cannot be written as ONNX: {first_line(error)}.",
                "Choose another backbone, such as efficientnet_lite0.",
            ) from error


def _anonymous(program: Any) -> bytes:
    """The bytes of an exported program without its remarks, which hold stack traces with local paths."""
    for graph in program.model.graphs():
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
    return bytes(program.model_proto.SerializeToString())


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Keep the garbage collector from looking at all the exporter's nodes again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Let activations give new tensors: the exporter takes longer over those that change their input."""
    changing: list[Any] = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    for part in changing:
        part.inplace = False
    try:
        yield
    finally:
        for part in changing:
            part.inplace = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
