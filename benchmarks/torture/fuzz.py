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

FILES = ("tests/test_fuzz.py", "tests/test_overrides.py")
GENERATED = ("test_any_bytes", "test_values_in", "test_lines_of", "test_every_gold", "test_a_parquet", "test_random")


def fuzz(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--examples` inputs of each property; a property that fails is one trial that was lost."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *FILES, "-n0", f"--junitxml={report}", "-k", " or ".join(GENERATED)]
        environment = {**os.environ, "TUNEOFF_EXAMPLES": str(arguments.examples)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        lost = [str(fault.get("message")).splitlines()[0] for fault in case if fault.tag in ("failure", "error")]
        yield Outcome({f"property, {arguments.examples:,} inputs": name}, lost)
