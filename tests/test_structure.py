"""How the code is divided: data flow one way, through stages that do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from src.config import ROOT

STAGES = ("data", "model", "training", "evaluation", "runs", "report")
# Modules that put stages together.
JOINING = (
    "run",
    "sweep",
    "reporting",
    "questions",
    "evaluator",
    "final",
    "history",
    "answering",
    "serving",
    "error_analysis",
)
COMMANDS = ("train", "settle", "plan", "compare", "predict", "export", "serve", "errors", "ui", "check")
LONGEST_FUNCTION = 60  # lines


def imports(file: Path) -> set[str]:
    """The modules that a file imports anywhere, also inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def below(package: str, names: set[str]) -> set[str]:
    return {name for name in names if name == package or name.startswith(package + ".")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage(stage):
    files = sorted((ROOT / "src" / stage).rglob("*.py"))
    assert files
    others = [f"src.{other}" for other in STAGES if other != stage]
    joined = [f"src.{file.stem}" for file in (ROOT / "src").glob("*.py") if file.stem in JOINING]
    tasks = [f"src.tasks.{folder.name}" for folder in (ROOT / "src" / "tasks").iterdir() if folder.is_dir()]
    assert "src.tasks.extractive" in tasks
    unknown = (*others, *joined, *tasks)
    found = {str(file): set().union(*(below(name, imports(file)) for name in unknown)) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_a_task_imports_no_stage_but_the_data_that_it_gets():
    later = [f"src.{name}" for name in (*STAGES, *JOINING) if name != "data"]
    files = sorted((ROOT / "src" / "tasks").rglob("*.py"))
    assert len(files) > 5
    found = {str(file): set().union(*(below(name, imports(file)) for name in later)) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_another(command):
    others = [f"src.{other}" for other in COMMANDS if other != command]
    found = imports(ROOT / "src" / f"{command}.py")
    assert set().union(*(below(other, found) for other in others)) == set()


def test_no_function_is_long():
    lengths = {}
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lengths[f"{file.relative_to(ROOT)}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert len(lengths) > 300
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}
