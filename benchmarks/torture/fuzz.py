"""The generated tests of the suite with new random inputs, and more of them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.torture.work import ROOT, Outcome

FILES = ("tests/test_fuzz.py", "tests/test_fuzz_tasks.py", "tests/test_overrides.py")
GENERATED = ("fuzz_tasks", "any_bytes", "values_in", "lines_of", "every_gold", "a_parquet", "random")


def fuzz(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--examples` inputs of each property; a property that fails is one trial that was lost."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-n0", f"--junitxml={report}", f"--hypothesis-seed={arguments.seed}", "-k", " or ".join(GENERATED)]
        command = [sys.executable, "-m", "pytest", *FILES, *options]
        environment = {**os.environ, "TUNEOFF_EXAMPLES": str(arguments.examples)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        lost = [str(fault.get("message")).splitlines()[0] for fault in case if fault.tag in ("failure", "error")]
        yield Outcome({"property": f"{name}, {arguments.examples:,} inputs"}, lost)
