"""`catflap bundle`: inspect, unpack, strip, extend or list the contents of a Bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.export import export_text, variant_arguments, variants_of
from catflap.cli.options import part_of, refuse_alone, split_names
from catflap.cli.output import emit, progress_bar
from catflap.errors import CatflapError

HELP = "Inspect, unpack, strip or extend a Bundle; added variants are judged as in export."
EXAMPLE = "catflap bundle strip cat.catflap -o small.catflap --variants int8"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with which Bundle."""
    verbs = parser.add_subparsers(dest="verb", metavar="inspect|unpack|add|strip|sbom", required=True)
    part_of(verbs, "inspect", "show what is in a bundle", "catflap bundle inspect cat")
    sbom = part_of(
        verbs,
        "sbom",
        "print a bundle's bill of materials: CycloneDX, JSON",
        "catflap bundle sbom cat > cat.json",
    )
    sbom.add_argument("--manufacturer", metavar="NAME", help="who places the model on the market")
    sbom.add_argument(
        "--contact", metavar="EMAIL", help="where that manufacturer answers about vulnerabilities"
    )
    unpack = part_of(
        verbs, "unpack", "write a bundle's files into a new folder", "catflap bundle unpack cat -o files"
    )
    strip = part_of(verbs, "strip", "write a smaller bundle with only some variants", EXAMPLE)
    add = part_of(
        verbs, "add", "write a bundle with more variants, each judged as export does",
        "catflap bundle add small.catflap -o new.catflap --checkpoint cat.checkpoint --variants fp32",
    )  # fmt: skip
    for verb in verbs.choices.values():
        verb.add_argument("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one")
    for verb, what in ((unpack, "folder to write"), (strip, "bundle to write"), (add, "bundle to write")):
        verb.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help=what)
    forms = unpack.add_mutually_exclusive_group()
    forms.add_argument(
        "--c",
        action="store_true",
        help="write the variant litert-micro as C++ sources with golden cases, for a microcontroller",
    )
    forms.add_argument(
        "--triton",
        action="store_true",
        help="write a model repository of Triton: a model for each ONNX variant",
    )
    forms.add_argument(
        "--for",
        dest="layout",
        metavar="TARGET",
        help="write the layout of this target, as --c and --triton do",
    )
    strip.add_argument(
        "--variants", required=True, metavar="LIST", help="variants to keep, the default one first"
    )
    add.add_argument("--checkpoint", type=Path, required=True, help="checkpoint the bundle was made from")
    add.add_argument("--dataset", type=Path, help="where the checkpoint's dataset lies now, if it was moved")
    variant_arguments(add)
    add.add_argument("--file", type=Path, metavar="MODEL", help="a model file that another toolchain wrote")
    add.add_argument(
        "--name", metavar="VARIANT", help="name of that file as a variant (default: MODEL without suffix)"
    )
    add.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"),
        help="precision of that file, which says what it may lose (default: fp32)",
    )  # fmt: skip


def answer(args: argparse.Namespace) -> int:
    """Do it and print what came out."""
    from catflap.exporting.repack import inspect_bundle, strip_bundle

    if args.verb == "inspect":
        emit(inspect_bundle(args.bundle), args)
    elif args.verb == "sbom":
        _sbom(args)
    elif args.verb == "unpack":
        _unpack(args)
    elif args.verb == "strip":
        emit(strip_bundle(args.bundle, args.out, split_names(args.variants)), args)
    else:
        _add(args)
    return 0


def _unpack(args: argparse.Namespace) -> None:
    from catflap.artifacts.bundle import load_bundle
    from catflap.exporting.repack import unpack_bundle
    from catflap.exporting.target import unpacker

    name = "triton" if args.triton else "litert-micro" if args.c else args.layout
    if name is None:
        emit(unpack_bundle(args.bundle, args.out), args)
    else:
        emit(unpacker(name)(load_bundle(args.bundle), args.out), args)


def _sbom(args: argparse.Namespace) -> None:
    import json

    from catflap.artifacts.bundle import load_bundle
    from catflap.exporting.sbom import bill_of_materials

    fields = bill_of_materials(load_bundle(args.bundle), args.manufacturer, args.contact)
    emit(fields, args, json.dumps(fields, indent=2, ensure_ascii=False))


def _add(args: argparse.Namespace) -> None:
    refuse_alone(args, "--file MODEL", "--name", "--precision")
    if args.file and (args.variants or args.targets):
        raise CatflapError(
            "--file cannot be used with --variants or --targets.", "Run catflap bundle add once for each."
        )
    from catflap.artifacts.bundle import load_bundle
    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.artifacts.dataset import load_dataset
    from catflap.exporting.export import VARIANTS, add_file, add_variants

    bundle, checkpoint = load_bundle(args.bundle), load_checkpoint(args.checkpoint)
    parts = (bundle, checkpoint, load_dataset(args.dataset or checkpoint.dataset_path), args.out)
    with progress_bar(args) as progress:
        if args.file:
            name = args.name or args.file.stem
            fields = add_file(*parts, args.file, name, precision=args.precision or "fp32", progress=progress)
        else:
            fields = add_variants(*parts, variants_of(args) or VARIANTS, progress=progress)
    verdicts = [
        f"{name} may replace {bundle.default_variant}: {found['verdict']}. {found['why']}"
        for name, found in fields["diff"].items()
    ]
    emit(fields, args, "\n".join([export_text(fields), *verdicts]))
