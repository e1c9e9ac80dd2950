"""A Bundle written again with more variants, each judged before it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.golden import Golden, check_golden, read_golden
from catflap.errors import CatflapError
from catflap.exporting.export import Judged, all_files, check_roles, export_answer, source_of, write_and_judge
from catflap.exporting.forms import FORMS, Form, as_variant, check_tools, made_elsewhere, tools, untested_of
from catflap.exporting.unpacking.repack import check_new, derived_head, other_files
from catflap.exporting.untested import with_untested, write_untested
from catflap.exporting.writing import write_verified
from catflap.progress import Progress, silent
from catflap.runtime.decisions import point_specs
from catflap.runtime.engine import engine_error
from catflap.runtime.engine_onnx import open_session
from catflap.training.networks.onnx_graph import INPUT, OUTPUT

Forms: TypeAlias = dict[str, tuple[Form, dict[str, bytes] | None]]  # None: still to be written


def add_variants(
    bundle: Bundle,
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    variants: tuple[str, ...],
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a new Bundle with more variants of the Checkpoint that it came from.

    Each is measured from raw photo bytes and gated as `export` does, and gets the operating points that
    the Bundle's default variant has. Raises Refused when one lost too
    much, and CatflapError when the Checkpoint is not the Bundle's own.
    """
    forms: Forms = {name: (FORMS[name], None) for name in variants}
    return _added(bundle, checkpoint, dataset, out, forms, tools(variants), progress)


def add_file(
    bundle: Bundle,
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    model: Path,
    name: str,
    *,
    precision: str = "fp32",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a new Bundle with a model file of another toolchain as a variant, judged like our own.

    The file's suffix tells its runtime, `precision` what it may lose: fp32 nothing.
    """
    forms: Forms = {name: made_elsewhere(model, name, precision)}
    return _added(bundle, checkpoint, dataset, out, forms, {}, progress)


def _added(
    bundle: Bundle,
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    forms: Forms,
    made_by: dict[str, str],
    progress: Progress,
) -> dict[str, Any]:
    check_new(bundle, out)
    if bundle.head["ancestors"].get("checkpoint") != checkpoint.sha256:
        raise CatflapError(
            f"{bundle.path.name} was not made from {checkpoint.path}.",
            "Name the checkpoint it was made from.",
        )
    for name, (form, files) in forms.items():
        _check_form(bundle, name, form, files)
    check_roles(checkpoint, dataset)
    golden = read_golden(bundle)
    unrun = untested_of(name for name, (_, given) in forms.items() if given is None)
    rows = len(bundle.labels) * (len(golden.logits) + len(forms) - len(unrun))
    check_golden(golden.photos, bundle.frame, rows, "Add fewer variants, or strip one first.")
    source = source_of(checkpoint, dataset, progress, point_specs(bundle.variant()))
    judged: dict[str, Judged] = {
        name: write_and_judge(
            name, form, source, golden.frames, progress, files, bundle.head["output"]["name"]
        )
        for name, (form, files) in forms.items()
        if name not in unrun
    }
    untested, unrun_files = write_untested(unrun, source, progress)
    head = derived_head(bundle, ["add", *forms])
    head["variants"] = {**head["variants"], **{name: one.entry for name, one in judged.items()}}
    head["versions"] = {**head["versions"], **made_by}
    logits = {**golden.logits, **{name: one.logits for name, one in judged.items()}}
    files = {**other_files(bundle), **all_files(judged), **unrun_files}
    whole = Golden(golden.photos, golden.frames, logits)
    sha256 = write_verified(out, with_untested(head, untested), files, whole)
    return export_answer(out, sha256, bundle.default_variant, judged, unrun)


def _check_form(bundle: Bundle, name: str, form: Form, files: dict[str, bytes] | None) -> None:
    """Raise CatflapError when a Bundle has such a variant or file, or calls the ends of graphs otherwise.

    MissingExtra when what writes it, or runs its files, is not here.
    """
    if name in bundle.variants or name in bundle.untested:
        raise CatflapError(
            f"{bundle.path.name} has a variant {name!r}.", "Add another one, or strip it first."
        )
    taken = [member for member in form.members if member in bundle.members]
    if taken:
        raise CatflapError(
            f"{bundle.path.name} has a file {taken[0]} of another variant, which {name} would replace.",
            "Strip that variant first.",
        )
    if files is None:
        check_tools(form)
    elif (why := engine_error(as_variant(name, form))) is not None:
        raise why
    if form.runtime != "onnxruntime":
        return
    inputs, outputs = ([INPUT], [OUTPUT]) if files is None else _ends(files[form.file])
    source, target = bundle.head["input"]["name"], bundle.head["output"]["name"]
    if inputs != [source] or target not in outputs:
        raise CatflapError(
            f"The graph of {name} takes {', '.join(inputs)!r:.100} and gives {', '.join(outputs)!r:.100}; "
            f"the graphs of {bundle.path.name} take {source!r:.100} and give {target!r:.100}.",
            "Rename the input and the output of the graph, and add it again.",
        )


def _ends(graph: bytes) -> tuple[list[str], list[str]]:
    """The names of an ONNX graph's inputs and of its outputs."""
    session = open_session(graph, threads=1)
    return [end.name for end in session.get_inputs()], [end.name for end in session.get_outputs()]
