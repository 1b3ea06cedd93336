"""Mutation testing: a small fault is put into a module, and its tests must notice. Then the next one.

    python -m benchmarks.mutants                         # 40 faults of each module of TESTS, drawn by a fixed seed
    python -m benchmarks.mutants src.report.decision --faults 1000

Prints a row a module, and the faults that no test has noticed. Each is tested in a forked process, which has imported
the libraries and not yet the package. (mutmut refuses a package that is called `src`, and cosmic-ray starts Python anew
for each fault, which takes longer than the tests.)
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from src.config import ROOT

# The quick tests of each module, as pytest takes them.
TESTS = {
    "src.tasks.extractive.spans": ["tests/test_evaluation.py", "-k", "not torchmetrics"],
    "src.evaluation.squad_metric": ["tests/test_evaluation.py", "-k", "not torchmetrics"],
    "src.report.statistics": ["tests/test_statistics.py", "-k", "not cover and not test_articles and not found_four"],
    "src.report.decision": ["tests/test_protocol.py", "-k", "not near and not larger and not anywhere"],
    "src.runs.identity": ["tests/test_identity.py", "tests/test_resume.py", "-k", "identity or hashes or new_key"],
    "src.protocol.engine": ["tests/test_protocol.py", "-k", "not near and not larger and not anywhere"],
}
LIBRARIES = ("datasets", "evaluate", "hydra", "mlflow", "pandas", "peft", "pytest", "scipy.stats", "torchmetrics")
PYTEST = ["-o", "addopts=", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
SLOWEST = 60  # seconds that a fault may add, such as a loop without an end
OTHERS = dict(
    line.split(": ")
    for line in """Lt: LtE GtE; LtE: Lt Gt; Gt: GtE LtE; GtE: Gt Lt; Eq: NotEq; NotEq: Eq; Is: IsNot; IsNot: Is;
In: NotIn; NotIn: In; And: Or; Or: And; USub: UAdd; Add: Sub; Sub: Add; Mult: Div; Div: Mult; Pow: Mult; FloorDiv: Mult;
Mod: Mult; BitOr: BitAnd; BitAnd: BitOr""".replace("\n", " ").split("; ")
)
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "median": "max", "mean": "sum", "sorted": "list"}
Fault = tuple[int, str, Callable[[], object]]  # the line, what is changed there, and what changes it


def faults(tree: ast.Module) -> Iterator[Fault]:
    """Every fault that can be put into a module, each of which changes the tree when it is called.

    Texts, types and decorators are left alone.
    """
    left_alone = set()
    for node in ast.walk(tree):
        types = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts = [part for part in types if part is not None] + getattr(node, "decorator_list", [])
        left_alone |= {id(inner) for part in parts for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) not in left_alone and hasattr(node, "lineno"):
            for what, change in _changes(node):
                yield node.lineno, f"{ast.unparse(node).splitlines()[0][:60]}: {what}", change


def _others(operator: Any) -> Iterator[tuple[str, Any]]:
    name = type(operator).__name__
    for other in OTHERS.get(name, "").split():
        yield f"{name} to {other}", getattr(ast, other)()


def _changes(node: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    for place, operator in enumerate(getattr(node, "ops", [])):
        for what, other in _others(operator):
            yield what, partial(node.ops.__setitem__, place, other)
    for what, other in _others(getattr(node, "op", None)):
        yield what, partial(setattr, node, "op", other)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "the contrary", partial(setattr, node, "test", ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "without not", partial(setattr, node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        other = not node.value if isinstance(node.value, bool) else node.value + 1
        yield f"{other}", partial(setattr, node, "value", other)
    if isinstance(node, ast.Return) and not isinstance(node.value, ast.Constant | None):
        yield "returns None", partial(setattr, node, "value", ast.Constant(None))
    for key in ("id", "attr"):
        if (name := NAMES.get(getattr(node, key, ""))) is not None:
            yield name, partial(setattr, node, key, name)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Has a module imported from a tree."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name, self.tree = name, tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module: Any) -> None:
        module.__file__ = str(file_of(self.name))
        exec(compile(ast.fix_missing_locations(self.tree), module.__file__, "exec"), module.__dict__)


def file_of(name: str) -> Path:
    return ROOT / f"{name.replace('.', '/')}.py"


def passes(name: str, tree: ast.Module, seconds: float) -> bool:
    """Whether the module's tests pass with the module made from the tree, within some seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(seconds))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        for known in [module for module in sys.modules if module.split(".")[0] in ("src", "tests", "benchmarks")]:
            del sys.modules[known]
        sys.meta_path.insert(0, Changed(name, tree))
        import pytest

        os._exit(int(pytest.main([*PYTEST, *TESTS[name]])))
    return os.waitpid(child, 0)[1] == 0


def examine(name: str, most: int) -> tuple[int, list[str]]:
    """How many faults of a module were tested, and those that no test has noticed."""
    source = file_of(name).read_text(encoding="utf-8")
    begun = time.monotonic()
    if not passes(name, ast.parse(source), 3600):
        sys.exit(f"{name}: its tests fail without a fault.")
    limit = SLOWEST + 3 * (time.monotonic() - begun)
    count = len(list(faults(ast.parse(source))))
    chosen = sorted(random.Random(0).sample(range(count), min(most, count)))
    unnoticed = []
    for index in chosen:
        tree = ast.parse(source)
        line, what, change = list(faults(tree))[index]
        change()
        print(f"{name}:{line}  {what}", file=sys.stderr, flush=True)
        if passes(name, tree, limit):
            unnoticed.append(f"{file_of(name).relative_to(ROOT)}:{line}  {what}")
            print(unnoticed[-1], flush=True)
    return len(chosen), unnoticed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--faults", type=int, default=40)
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for library in LIBRARIES:
        importlib.import_module(library)
    rows = []
    for name in given.modules:
        tested, unnoticed = examine(name, given.faults)
        noticed = tested - len(unnoticed)
        rows.append(f"| {name} | {tested} | {noticed} | {100 * noticed / tested:.0f} % |")
        print(rows[-1], flush=True)
    print("", "| module | faults | noticed | share |", "|---|---:|---:|---:|", *rows, sep="\n")


if __name__ == "__main__":
    main()
