"""Which share of seeded defects in the code that decides does the fast suite notice?

    python benchmarks/mutants.py                          # 420 mutants of this checkout, two at a time
    python benchmarks/mutants.py --repo ../before         # of another checkout, also an older one
    python benchmarks/mutants.py --n 30 --group 'image=src/catflap/image.py:tests/image'

A mutant is one small change of one expression or statement: `<` to `<=`, `+` to `-`, `and` to `or`, a
condition turned round, a number plus one, a call or `raise` left out, a result that is None. First every
test file runs once, and each test's lines are noted. Then each mutant is written into a copy of the
checkout and judged by the tests that ran its lines, quickest first, up to the first failure; no end within
the time limit counts as noticed, too. A process that has imported the heavy libraries is forked for each.
Whoever stops it and starts it again with the same --out goes on. At its end it prints n and the share
noticed for each group and file; the lines of --out name each mutant that nobody noticed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import header

# name -> source patterns and tests. After # stand the functions and classes meant, if not all of the file. A
# pattern that fits nothing in a checkout is passed over, so that older checkouts can be measured, too.
GROUPS = {
    "image": (
        "src/catflap/image.py"
        ":tests/image,tests/runtime/test_classifier.py,tests/hostile/test_photos.py,tests/exporting/test_cam.py"
    ),
    "decisions": (
        "src/catflap/runtime/decisions.py,src/catflap/runtime/points.py,src/catflap/evaluation/operating.py,"
        "src/catflap/evaluation/decision_rates.py,src/catflap/evaluation/calibration.py,src/catflap/evaluation/conformal.py"
        ":tests/evaluation,tests/runtime,tests/exporting/test_points.py"
    ),
    "intervals": "src/catflap/evaluation/intervals.py:tests/evaluation",
    "roles": "src/catflap/data/**/roles.py:tests/data/test_roles.py,tests/data/test_line.py",
    "bundle": (
        "src/catflap/artifacts/bundle.py,src/catflap/artifacts/golden.py,src/catflap/artifacts/schema.py"
        ":tests/artifacts,tests/verification"
    ),
    "resume": (
        "src/catflap/training/**/resume.py,src/catflap/training/finetune.py#_identity+save_state+load_state,"
        "src/catflap/artifacts/folder.py"
        ":tests/training,tests/artifacts,tests/data/test_engine.py,tests/pipeline/test_build.py"
    ),
}
HEAVY = (
    "numpy", "scipy", "PIL", "pyarrow", "onnxruntime", "onnx", "torch", "timm", "sklearn", "jsonschema",
    "hypothesis", "pytest",
)  # fmt: skip
LEFT_OUT = (
    ".git",
    ".venv",
    ".venv-base",
    "node_modules",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".cache",
)
COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
TRACER = '''"""Notes the lines of our files that a process of a test runs."""
import atexit, json, os, sys, threading
if os.environ.get("MUTANTS_LINES"):
    files, lines = set(json.loads(os.environ["MUTANTS_FILES"])), set()
    def local(frame, event, _):
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return local
    def trace(frame, event, _):
        return local(frame, event, _) if frame.f_code.co_filename in files else None
    @atexit.register
    def write():
        name = os.environ["MUTANTS_LINES"] + "/" + str(os.getpid()) + ".json"
        with open(name, "w") as out:
            json.dump([os.environ.get("MUTANTS_TEST", ""), sorted(lines)], out)
    sys.settrace(trace)
    threading.settrace(trace)
'''


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes from `start` to `end` of a file become `new`."""

    group: str
    file: str
    line: int
    last: int
    start: int
    end: int
    old: str
    new: str

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def mutants_of(group: str, file: str, source: bytes, names: set[str]) -> Iterator[Mutant]:
    """Every mutant of a file, or of what has these names; annotations and texts are left alone."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def changed(node: Any, new: str, within: Any) -> Mutant:
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        old = source[start:end].decode()
        return Mutant(group, file, within.lineno, node.end_lineno, start, end, old, new)

    def walk(node: ast.AST, statement: Any) -> Iterator[Mutant]:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    within = child if isinstance(child, ast.stmt) else statement
                    yield from (changed(child, new, within) for new in replacements(child))
                    yield from walk(child, within)

    module = ast.parse(source)
    if names:
        module.body = [part for part in module.body if getattr(part, "name", "") in names]
    yield from walk(module, None)


def replacements(node: Any) -> Iterator[str]:
    """What an expression or a statement may become."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            terms = [node.left, *node.comparators]
            words = [COMPARISONS[type(op)] if n == place else symbol(op) for n, op in enumerate(node.ops)]
            parts = [f"({ast.unparse(terms[0])})"]
            parts += [f"{w} ({ast.unparse(t)})" for w, t in zip(words, terms[1:], strict=True)]
            if type(operator) in COMPARISONS:
                yield "(" + " ".join(parts) + ")"
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not any(
            isinstance(side, (ast.JoinedStr, ast.Constant)) and is_text(side)
            for side in (node.left, node.right)
        ):
            yield f"({ast.unparse(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))})"
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"({ast.unparse(ast.BoolOp(other, node.values))})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield repr(node.value + 1 if isinstance(node.value, int) else node.value * 2 + 0.5)
    elif isinstance(node, ast.IfExp):
        yield f"({ast.unparse(ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse))})"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        yield ast.unparse(ast.Call(ast.Name(CALLS[node.func.id]), node.args, node.keywords))
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "return None"
    elif isinstance(node, (ast.Raise, ast.Continue, ast.Break, ast.AugAssign)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "pass"


def symbol(operator: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [operator], [ast.Name("b")]))[2:-2]


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


class Lines:
    """A pytest plugin: the lines of our files that each test runs, and how long it takes.

    What fixtures of more than one test run, and imports, counts for every test of the file.
    """

    def __init__(self, files: set[str], out: Path) -> None:
        self.files, self.out, self.test = files, out, "shared"
        self.lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    def local(self, frame: Any, event: str, _: Any) -> Any:
        self.lines[self.test].add((frame.f_code.co_filename, frame.f_lineno))
        return self.local

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        return self.local(frame, event, _) if frame.f_code.co_filename in self.files else None

    def now(self, test: str) -> str:
        before, self.test = self.test, test
        os.environ["MUTANTS_TEST"] = test
        return before

    def start(self) -> None:
        self.now("shared")
        sys.settrace(self.trace)
        threading.settrace(self.trace)

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.now(nodeid)
        self.seconds[nodeid] = time.perf_counter()

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.seconds[nodeid] = time.perf_counter() - self.seconds[nodeid]
        self.now("shared")

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        self.out.write_text(
            json.dumps(
                {"seconds": self.seconds, "lines": {test: sorted(rows) for test, rows in self.lines.items()}}
            )
        )


def shared_fixtures(lines: Lines) -> Any:
    import pytest

    class Fixtures:
        @pytest.hookimpl(wrapper=True)
        def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
            before = lines.now("shared") if fixturedef.scope != "function" else lines.test
            try:
                return (yield)
            finally:
                lines.now(before)

    return Fixtures()


class Copy:
    """A copy of the checkout, in which one mutant at a time stands."""

    def __init__(self, repo: Path, place: Path) -> None:
        self.path = place
        shutil.copytree(repo, place, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        (place / "src" / "sitecustomize.py").write_text(TRACER)

    def fork(self, words: list[str], limit: float, lines: Lines | None = None) -> Run:
        """A forked process in which pytest runs with these words."""
        pid = os.fork()
        if pid:
            return Run(pid, time.monotonic() + limit)
        try:
            os.setsid()
            os.chdir(self.path)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os.environ["PYTHONPATH"] = str(self.path / "src")
            for name in [name for name in sys.modules if name.partition(".")[0] in ("catflap", "machine")]:
                del sys.modules[name]
            sys.path[:] = [str(self.path / "src"), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]
            del sys.modules["__main__"].__file__  # a process that a test spawns would import it again
            import pytest

            plugins = [lines, shared_fixtures(lines)] if lines else []
            if lines:
                lines.start()
            base = f"--basetemp={tempfile.mkdtemp(dir=self.path.parent)}/t"
            usual = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-seed=0", base]
            os._exit(int(pytest.main([*usual, *words], plugins=plugins)))
        except BaseException:
            os._exit(70)


@dataclass
class Run:
    """A process that runs tests: its exit code when it is over, None before; 124 when it took too long."""

    pid: int
    until: float

    def code(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            with_group(self.pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > self.until:
            with_group(self.pid)
            os.waitpid(self.pid, 0)
            return 124
        return None


def with_group(pid: int) -> None:
    """End what a run has left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


HERE = Path(__file__).resolve().parent


def test_files(repo: Path, tests: list[str]) -> list[str]:
    found: set[str] = set()
    for name in tests:
        place = repo / name
        paths = sorted(place.rglob("test_*.py")) if place.is_dir() else [place] if place.exists() else []
        found |= {str(path.relative_to(repo)) for path in paths}
    return sorted(found)


def note_lines(copies: list[Copy], sources: set[str], tests: list[str], out: Path) -> dict[str, Any]:
    """Test -> seconds and lines, of every test file that passes; kept in `out` for the next start."""
    noted: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    waiting, running = [name for name in tests if name not in noted], dict[Copy, tuple[str, Run, Path]]()
    while waiting or running:
        for copy in copies:
            if copy not in running and waiting:
                name, place = waiting.pop(0), Path(tempfile.mkdtemp(dir=copy.path.parent))
                files = {str(copy.path / source) for source in sources}
                os.environ.update(MUTANTS_LINES=str(place), MUTANTS_FILES=json.dumps(sorted(files)))
                run = copy.fork([name], 900, Lines(files, place / "tests"))
                running[copy] = name, run, place
            elif copy in running and (code := running[copy][1].code()) is not None:
                name, _, place = running.pop(copy)
                noted[name] = gathered(place, copy.path) if code == 0 else {}
                print(json.dumps({"tests": name, "code": code, "n": len(noted[name])}), flush=True)
                out.write_text(json.dumps(noted))
        time.sleep(0.02)
    for name in ("MUTANTS_LINES", "MUTANTS_FILES"):
        os.environ.pop(name, None)
    return {test: about for tests_of_file in noted.values() for test, about in tests_of_file.items()}


def gathered(place: Path, root: Path) -> dict[str, Any]:
    """What one test file's processes noted, with paths from the root of the checkout."""
    results = json.loads((place / "tests").read_text())
    lines = {test: {(f, n) for f, n in rows} for test, rows in results["lines"].items()}
    for path in place.glob("*.json"):
        test, rows = json.loads(path.read_text())
        lines.setdefault(test, set()).update((f, n) for f, n in rows)
    shared = lines.pop("shared", set())

    def short(rows: set[tuple[str, int]]) -> list[str]:
        return sorted({f"{Path(file).relative_to(root)}:{number}" for file, number in rows})

    return {
        test: {"seconds": seconds, "lines": short(lines.get(test, set())), "shared": short(shared)}
        for test, seconds in results["seconds"].items()
    }


@functools.cache
def in_functions(file: str) -> frozenset[int]:
    """The lines of a file that calls run; imports run the others."""
    functions = [
        node
        for node in ast.walk(ast.parse(Path(file).read_bytes()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return frozenset(n for node in functions for n in range(node.body[0].lineno, (node.end_lineno or 0) + 1))


def judges(mutant: Mutant, tests: dict[str, Any]) -> list[str]:
    """The tests that run a mutant's lines, quickest first.

    Of what imports run, or fixtures alone, these are all tests of a test file that runs others of its lines.
    """
    places = {f"{mutant.file}:{line}" for line in range(mutant.line, mutant.last + 1)}
    own = [test for test, about in tests.items() if places & about["own"]]
    if not own or mutant.line not in in_functions(mutant.file):
        own = [t for t, about in tests.items() if places & about["all"] and mutant.file in about["files"]]
    return sorted(own, key=lambda test: float(tests[test]["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, default=HERE.parent)
    parser.add_argument(
        "--n", type=int, default=420, help="mutants in all, as many of each group (default: 420)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--group", action="append", help="NAME=SOURCES[#NAMES]:TESTS instead of ours")
    parser.add_argument(
        "--out", type=Path, default=Path("mutants.jsonl"), help="where results go, a line each"
    )
    asked = parser.parse_args()
    os.environ.update(
        OMP_NUM_THREADS="1",
        ORT_DISABLE_TELEMETRY="1",
        PYTHONDONTWRITEBYTECODE="1",
        CATFLAP_PHOTOS="/nonexistent",
    )
    sys.dont_write_bytecode = True
    repo, asked.out = asked.repo.resolve(), asked.out.resolve()
    os.chdir(repo)
    groups = dict(part.split("=", 1) for part in asked.group) if asked.group else GROUPS
    mutants: list[Mutant] = []
    sources, tests = set[str](), set[str]()
    for group, about in groups.items():
        patterns, judging = (part.split(",") for part in about.split(":"))
        found, files = list[Mutant](), set[str]()
        for pattern, _, names in (pattern.partition("#") for pattern in patterns):
            for file in sorted(str(path.relative_to(repo)) for path in repo.glob(pattern)):
                wanted = set(names.split("+")) - {""}
                found += mutants_of(group, file, (repo / file).read_bytes(), wanted)
                files.add(file)
        share = min(len(found), -(-asked.n // len(groups)))
        mutants += random.Random(f"{asked.seed}-{group}").sample(found, share)
        sources, tests = sources | files, tests | set(test_files(repo, judging))
    random.Random(asked.seed).shuffle(mutants)  # so that what a stopped run has judged is a sample, too
    commit = subprocess.run(
        ["git", "-C", repo, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    header(n=len(mutants), seed=asked.seed, commit=commit.stdout.strip(), groups=groups)
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        copies = [Copy(repo, Path(folder) / str(number)) for number in range(asked.jobs)]
        noted = note_lines(copies, sources, sorted(tests), asked.out.with_suffix(".tests.json"))
        files_of = defaultdict[str, set[str]](set)  # of a test file: our files of which it runs functions
        for test, about in noted.items():
            about["own"] = set(about["lines"])
            about["all"] = about["own"] | set(about["shared"])
            about["files"] = files_of[test.partition("::")[0]]
            about["files"] |= {line.rpartition(":")[0] for line in about["lines"]}
        judge_all(copies, mutants, noted, asked.out)
    summarise(mutants, asked.out)


def judge_all(copies: list[Copy], mutants: list[Mutant], noted: dict[str, Any], out: Path) -> None:
    done = read(out)
    waiting, running = (
        [one for one in mutants if one.key not in done],
        dict[Copy, tuple[Mutant, Run, bytes]](),
    )
    while waiting or running:
        for copy in copies:
            if copy not in running and waiting:
                mutant = waiting.pop(0)
                tests = judges(mutant, noted)
                if not tests:
                    write(out, mutant, "no test runs it", 0)
                    continue
                place = copy.path / mutant.file
                source = place.read_bytes()
                place.write_bytes(source[: mutant.start] + mutant.new.encode() + source[mutant.end :])
                limit = 30 + 5 * sum(float(noted[test]["seconds"]) for test in tests)
                running[copy] = mutant, copy.fork(tests, limit), source
            elif copy in running and (code := running[copy][1].code()) is not None:
                mutant, _, source = running.pop(copy)
                (copy.path / mutant.file).write_bytes(source)
                write(
                    out,
                    mutant,
                    {0: "survived", 124: "timeout"}.get(code, "killed"),
                    len(judges(mutant, noted)),
                )
        time.sleep(0.02)


def write(out: Path, mutant: Mutant, result: str, tests: int) -> None:
    with out.open("a") as lines:
        lines.write(
            json.dumps({"key": mutant.key, "result": result, "tests": tests, **asdict(mutant)}) + "\n"
        )


def read(out: Path) -> dict[str, dict[str, Any]]:
    lines = out.read_text().splitlines() if out.exists() else []
    return {entry["key"]: entry for entry in map(json.loads, lines)}


def summarise(mutants: list[Mutant], out: Path) -> None:
    done = read(out)
    rows: dict[str, list[str]] = defaultdict(list)
    for mutant in mutants:
        for name in (f"group {mutant.group}", f"file {mutant.file}", "all"):
            rows[name].append(done[mutant.key]["result"])
    for name, results in sorted(rows.items()):
        killed = sum(result in ("killed", "timeout") for result in results)
        uncovered = results.count("no test runs it")
        about = {"of": name, "n": len(results), "killed": killed, "uncovered": uncovered}
        print(json.dumps({**about, "share": round(killed / len(results), 4)}))


if __name__ == "__main__":
    main()
