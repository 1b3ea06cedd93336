"""The provenance of a result: the commit of the code, the machine, and the versions of all packages."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from src.config import ROOT


@functools.cache
def git_commit() -> str:
    """The commit of the code, with "-dirty" if there are uncommitted changes; without a repository, the version."""
    if not (ROOT / ".git").exists():  # a repository further up is another project's
        return package_version()
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # no shell  # nosec B603
    except (OSError, subprocess.CalledProcessError):
        return package_version()


def package_version() -> str:
    """The version of the installed package; "unknown" if the code was copied without installing it."""
    try:
        return version("tuneoff")
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def versions() -> str:
    """The versions of Python and of the libraries that affect a result most."""
    named = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]
    return ", ".join([f"Python {platform.python_version()}", *named])


@functools.cache
def environment() -> str:
    """The machine and the versions of all packages, one on each line."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]})
    machine = [
        f"# {platform.python_implementation()} {platform.python_version()} on {platform.platform()}",
        f"# {_processor()}, {os.cpu_count()} cores",
    ]
    return "\n".join([*machine, *packages]) + "\n"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
