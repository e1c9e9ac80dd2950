"""The target interface: what a toolchain writes, how targets are found, and converters in their own process.

A target is one file `to_NAME.py` in targets/ with a `TARGET`; deleting the file removes it. Another package
adds one by an entry point in the group "catflap.targets" whose value is a `Target`.
"""

from __future__ import annotations

import importlib
import pkgutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from catflap.artifacts.bundle import NAME, Bundle, Variant
from catflap.errors import CatflapError, first_line, need, system_reason
from catflap.image import Pixels
from catflap.machine import versions
from catflap.runtime.engine import engine_error, find_engine

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource

ENTRY_POINTS = "catflap.targets"
MAX_SECONDS = 1200  # of a converter
Argument: TypeAlias = bytes | str | Pixels | Path
SUFFIXES: Mapping[str, str] = {
    ".onnx": "onnxruntime",
    ".tflite": "litert",
    ".xml": "openvino",
    ".param": "ncnn",
    ".pte": "executorch",
}


@dataclass(frozen=True)
class Form:
    """What a variant is: the runtime that runs it, its precision, and the names of its files in the Bundle.

    `precision` says what it may lose (fp32, fp16, int8). A runtime without an engine is not run: its
    variant is listed as untested.
    """

    runtime: str
    precision: str
    file: str
    weights: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its files in the Bundle: one, or the graph and its weights."""
        return (self.file, self.weights) if self.weights else (self.file,)

    def as_variant(self, name: str) -> Variant:
        """The Variant that a runtime opens, before anything was measured on it."""
        return Variant(name, self.file, self.runtime, self.precision, 1.0, 1.0, {}, {}, {}, self.weights)


@dataclass(frozen=True)
class Target:
    """A toolchain: the variants it writes, by name, and how.

    `convert(form, source)` returns the bytes of `form.members`. `unpack(bundle, folder)` writes a Bundle in
    the target's own layout, and returns the machine answer of `catflap bundle unpack --for NAME`. `packages`
    are the packages that write and run its variants, `quantisers` those that only int8 needs.
    """

    name: str
    forms: Mapping[str, Form] = field(default_factory=dict)
    convert: Callable[[Form, ExportSource], tuple[bytes, ...]] | None = None
    unpack: Callable[[Bundle, Path], dict[str, Any]] | None = None
    packages: tuple[str, ...] = ()
    quantisers: tuple[str, ...] = ()


@cache
def load_targets() -> dict[str, Target]:
    """All targets by name: those in targets/, then those of other packages."""
    folder = importlib.import_module("catflap.exporting.targets")
    files = (module.name for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."))
    found: list[Target] = [importlib.import_module(name).TARGET for name in sorted(files)]
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            target = entry.load()
        except Exception as error:  # whatever the other package raises
            raise CatflapError(
                f"The target {entry.name} of {entry.value} does not load: {first_line(error)}.",
                "Update or uninstall that package.",
            ) from error
        if not isinstance(target, Target):
            raise CatflapError(
                f"The entry point {entry.name} = {entry.value} is a {type(target).__name__}, not a Target.",
                "Update or uninstall that package.",
            )
        found.append(target)
    names = [name for target in found for name in (target.name, *target.forms)]
    for target in reversed(found):  # that of another package is named
        clash = [name for name in target.forms if names.count(name) > 1 + (name == target.name)]
        if clash or sum(one.name == target.name for one in found) > 1:
            raise CatflapError(
                f"Two targets are called {target.name} or write a variant {(clash or [target.name])[0]}.",
                "Uninstall one of their packages.",
            )
    return {target.name: target for target in found}


def variant_names(targets: Iterable[str], variants: Iterable[str] = ()) -> tuple[str, ...]:
    """The variants named, then all variants of the named targets; CatflapError for an unknown name."""
    names, known = dict.fromkeys(variants), load_targets()
    for name in targets:
        if name not in known or not known[name].forms:
            writing = ", ".join(target.name for target in known.values() if target.forms)
            raise CatflapError(f"There is no target {name!r}.", f"Use: {writing}.")
        names |= dict.fromkeys(known[name].forms)
    every = [form for target in known.values() for form in target.forms]
    unknown = [name for name in names if name not in every]
    if unknown or not names:
        raise CatflapError(f"There is no variant {', '.join(unknown)!r}.", f"Use: {', '.join(every)}.")
    return tuple(names)


def target_of(variant: str) -> Target:
    """The target that writes a variant; CatflapError where none does."""
    variant_names((), (variant,))
    return next(target for target in load_targets().values() if variant in target.forms)


def form_of(variant: str) -> Form:
    """The form of a variant that some target writes; CatflapError where none does."""
    return target_of(variant).forms[variant]


def untested_names(variants: Iterable[str]) -> tuple[str, ...]:
    """The variants whose runtime has no engine: they are converted and never run."""
    return tuple(name for name in variants if find_engine(form_of(name).runtime) is None)


def check_variants(variants: tuple[str, ...]) -> None:
    """Raise CatflapError when a variant cannot be written here, or none of them can be run and tested.

    Called before any work, which may take hours.
    """
    if untested_names(variants) == variants:
        raise CatflapError(
            f"{variants[0]} cannot run here, so nothing would be tested.", "Add --variants int8."
        )
    for name in variants:
        check_tools(name)


def check_tools(variant: str) -> None:
    """Raise MissingExtra when a package that writes or runs this variant is missing or does not load."""
    target, form = target_of(variant), form_of(variant)
    for package in (*target.packages, *(target.quantisers if form.precision == "int8" else ())):
        need(package.replace("-", "_"))
    if find_engine(form.runtime) and (why := engine_error(form.as_variant(variant))) is not None:
        raise why


def convert(variant: str, source: ExportSource) -> dict[str, bytes]:
    """The files of a variant by their names in the Bundle."""
    check_tools(variant)
    target, form = target_of(variant), form_of(variant)
    if target.convert is None:
        raise CatflapError(f"The target {target.name} writes no files.", "Update its package.")
    return dict(zip(form.members, target.convert(form, source), strict=True))


def unpacker(name: str) -> Callable[[Bundle, Path], dict[str, Any]]:
    """The `unpack` of a target; CatflapError for a target without a layout of its own."""
    layouts = {target.name: target.unpack for target in load_targets().values() if target.unpack}
    if name not in layouts:
        raise CatflapError(f"No target {name!r} has a layout.", f"Use: --for {', --for '.join(layouts)}.")
    return layouts[name]


def tool_versions(variants: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that write and run these variants."""
    targets = {target_of(name).name: target_of(name) for name in variants}.values()
    return versions(sorted({package for one in targets for package in (*one.packages, *one.quantisers)}))


def read_model_file(path: Path, name: str, precision: str) -> tuple[Form, dict[str, bytes]]:
    """The form and the bytes of a model file of another toolchain; its suffix names the runtime."""
    runtime = SUFFIXES.get(path.suffix)
    if runtime is None:
        raise CatflapError(f"{path.name} has the suffix of no known runtime.", f"Use: {', '.join(SUFFIXES)}.")
    if not NAME.fullmatch(name + path.suffix) or "/" in name:
        raise CatflapError(f"A variant cannot be named {name!r}.", "Use up to 90 letters, digits, - and _.")
    engine = find_engine(runtime)
    parts = [path, path.with_suffix(".bin")] if engine and engine.files == 2 else [path]
    try:
        data = [part.read_bytes() for part in parts]
    except OSError as error:
        raise CatflapError(
            f"{error.filename} cannot be read: {system_reason(error)}.", "Name a model file."
        ) from error
    form = Form(runtime, precision, *(f"targets/other/{name}{part.suffix}" for part in parts))
    return form, dict(zip(form.members, data, strict=True))


def run_converter(
    module: str, arguments: Mapping[str, Argument], results: tuple[str, ...]
) -> tuple[bytes, ...]:
    """Run `module.work(folder)` in a new process and return the files that it writes there.

    The arguments are files in the folder: pixels a .npy file, a path a symbolic link. A crash of the
    converter is a CatflapError with its last line.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for argument, value in arguments.items():
            _put(value, folder / argument)
        # -P: do not import a random.py or numpy.py from the working directory
        command = [sys.executable, "-P", "-m", "catflap.exporting.target", module, name]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=MAX_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise _failed(module, f"it took more than {MAX_SECONDS} s") from error
        if ended.returncode < 0:
            raise _failed(module, f"it crashed ({signal.Signals(-ended.returncode).name})")
        if ended.returncode:
            lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
            raise _failed(module, lines[-1][:300] if lines else f"exit code {ended.returncode}")
        missing = [result for result in results if not (folder / result).exists()]
        if missing:
            raise _failed(module, f"it wrote no {missing[0]}")
        return tuple((folder / result).read_bytes() for result in results)


def _put(value: Argument, place: Path) -> None:
    if isinstance(value, Path):
        place.symlink_to(value.resolve())
    elif isinstance(value, np.ndarray):
        with place.open("wb") as file:
            np.save(file, value)
    else:
        place.write_bytes(value if isinstance(value, bytes) else value.encode("utf-8"))


def _failed(module: str, why: str) -> CatflapError:
    target = module.rpartition(".")[2].removeprefix("to_")
    return CatflapError(f"The conversion for {target} failed: {why}.", "Export without that target.")


def main(module: str, folder: str) -> None:
    """Run a converter in this process, which exists only for it."""
    importlib.import_module(module).work(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
